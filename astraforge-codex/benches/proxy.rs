//! Times model calls through the LLM proxy beside the same calls made directly, for `cargo xtask bench`.
//!
//! Both go over TCP on this machine to the same server, and take turns. The proxied call crosses TCP twice, as it does
//! when the model is elsewhere, so what it adds is the whole proxy: one more hop and all the layers.
#![expect(clippy::print_stdout, reason = "the samples are its output")]

use std::{
    convert::Infallible,
    error::Error,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use astraforge_codex::LlmProxy;
use astraforge_core::{
    id::{RunId, TenantId},
    ports::{
        guest_service::GuestService,
        model::{ModelAnswer, ModelCall, ModelUpstream, UpstreamError},
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use reqwest::Client;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::compat::TokioAsyncReadCompatExt;

const N_CALLS: usize = 300;
/// The size of a conversation that has gone on for a while.
const PROMPT_BYTES: usize = 64 * 1024;
const N_EVENTS: usize = 200;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    // Without one the client panics, even for plain HTTP.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return Err("there is a crypto provider already".into());
    }
    let model = serve_model().await?;
    let upstream = Upstream { client: client()?, url: format!("http://{model}/v1/responses") };
    let proxy = LlmProxy::builder(Arc::new(upstream)).build();
    let run = RunId::random();
    let token = proxy.tokens().mint(run, TenantId::new("bench"))?;
    let proxied = serve_proxy(proxy.guest_service(run)).await?;

    let client = client()?;
    let bearer = format!("Bearer {}", token.secret().reveal());
    let (mut through, mut direct) = (Samples::default(), Samples::default());
    for round in 0..=N_CALLS {
        let one = call(&client, proxied, &bearer).await?;
        let other = call(&client, model, &bearer).await?;
        if round > 0 {
            through.push(one);
            direct.push(other);
        }
    }
    print("first event", "the first byte of the answer", |it| &it.first, &through, &direct);
    print("whole stream", "the end of an answer of 200 events", |it| &it.whole, &through, &direct);
    Ok(())
}

#[derive(Debug, Default)]
struct Samples {
    first: Vec<Duration>,
    whole: Vec<Duration>,
}

impl Samples {
    fn push(&mut self, (first, whole): (Duration, Duration)) {
        self.first.push(first);
        self.whole.push(whole);
    }
}

/// Makes one call; returns when the first byte and when the last one came.
async fn call(client: &Client, server: SocketAddr, bearer: &str) -> Result<(Duration, Duration), Failure> {
    let body = json!({ "model": "m", "stream": true, "input": "x".repeat(PROMPT_BYTES) }).to_string();
    let start = Instant::now();
    let request = client.post(format!("http://{server}/v1/responses")).header("authorization", bearer);
    let mut answer = request.header("content-type", "application/json").body(body).send().await?.error_for_status()?;
    let mut first = None;
    let mut n_bytes = 0;
    while let Some(chunk) = answer.chunk().await? {
        first.get_or_insert_with(|| start.elapsed());
        n_bytes += chunk.len();
    }
    if n_bytes != events().iter().map(Bytes::len).sum::<usize>() {
        return Err(format!("an answer of {n_bytes} bytes is not the whole one").into());
    }
    Ok((first.ok_or("an empty answer")?, start.elapsed()))
}

fn client() -> Result<Client, reqwest::Error> {
    Client::builder().no_proxy().build()
}

/// The answer: deltas, then the end.
fn events() -> Vec<Bytes> {
    let delta = |number| json!({ "type": "response.output_text.delta", "sequence_number": number, "delta": "word " });
    let end = json!({ "type": "response.completed", "response": { "id": "r", "usage": { "input_tokens": 1 } } });
    let frame = |event: serde_json::Value| {
        Bytes::from(format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default()))
    };
    (1..N_EVENTS).map(delta).chain([end]).map(frame).collect()
}

/// A model on this machine, which answers as soon as it has read the whole question.
async fn serve_model() -> Result<SocketAddr, Failure> {
    let answer = async |request: Request<Incoming>| {
        // A question that breaks off gets its answer all the same; the caller is gone anyway.
        let _ = request.into_body().collect().await;
        let frames = stream::iter(events()).map(|event| Ok::<_, Infallible>(Frame::data(event)));
        let mut response = Response::new(StreamBody::new(frames));
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/event-stream"));
        Ok::<_, Infallible>(response)
    };
    serve(move |stream| async move {
        let service = hyper::service::service_fn(answer);
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        drop(connection.await);
    })
    .await
}

/// The proxy's own door for a sandbox, opened on a port instead.
async fn serve_proxy(service: Arc<dyn GuestService>) -> Result<SocketAddr, Failure> {
    serve(move |stream| {
        let service = service.clone();
        async move { service.serve(Box::pin(stream.compat())).await }
    })
    .await
}

async fn serve<F>(answer: impl Fn(TcpStream) -> F + Send + 'static) -> Result<SocketAddr, Failure>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Without this, small writes wait for acknowledgements and hide what is measured.
            if stream.set_nodelay(true).is_ok() {
                tokio::spawn(answer(stream));
            }
        }
    });
    Ok(address)
}

/// The model, called over HTTP.
#[derive(Debug)]
struct Upstream {
    client: Client,
    url: String,
}

#[async_trait]
impl ModelUpstream for Upstream {
    fn name(&self) -> &str {
        "loopback"
    }

    async fn call(&self, call: ModelCall) -> Result<ModelAnswer, UpstreamError> {
        let answer = self.client.post(&self.url).body(call.body).send().await;
        let answer = answer
            .map_err(|error| UpstreamError::Unreachable { upstream: self.name().into(), source: error.into() })?;
        Ok(ModelAnswer {
            status: answer.status().as_u16(),
            headers: vec![("content-type".into(), "text/event-stream".into())],
            body: answer.bytes_stream().map_err(Into::into).boxed(),
        })
    }
}

fn print(section: &str, what: &str, of: fn(&Samples) -> &Vec<Duration>, through: &Samples, direct: &Samples) {
    for (name, command, samples) in [
        ("through proxy", "POST /v1/responses, 64 KiB, by LlmProxy::guest_service", of(through)),
        ("direct", "POST /v1/responses, 64 KiB, same client, same server", of(direct)),
    ] {
        let samples_us: Vec<f64> = samples.iter().map(|sample| sample.as_secs_f64() * 1e6).collect();
        let line = json!({
            "section": section, "name": name, "what": what, "command": command, "samples_us": samples_us,
        });
        println!("{line}");
    }
}
