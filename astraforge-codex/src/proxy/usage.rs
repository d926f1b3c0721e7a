//! The layer that counts what runs use of models.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use astraforge_core::{BoxError, ports::usage::UsageLog, run::Usage};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, future::BoxFuture};
use http::{Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde::Deserialize;
use tower::{Layer, Service};

use super::{
    ProxyBody,
    run_token::{Authorized, Caller},
    sse::{ResponseObject, SseReader, is_event_stream},
};

/// The largest JSON answer that is looked into; a larger one counts as a call without tokens.
const LARGEST_JSON: usize = 16 * 1024 * 1024;
/// How long a stream waits for its usage to be written.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads a copy of each answer, adds up its usage for the run, and writes it to a log.
///
/// The record is written *before* the bytes that end an answer are passed on: once a caller knows that its answer is
/// whole, its usage is kept. An answer that its caller leaves early counts as a call all the same.
#[derive(Debug, Clone)]
pub struct UsageLayer {
    log: Option<Arc<dyn UsageLog>>,
}

impl UsageLayer {
    /// A layer that writes to `log`; without one it only adds up.
    #[must_use]
    pub fn new(log: Option<Arc<dyn UsageLog>>) -> Self {
        Self { log }
    }
}

impl<S> Layer<S> for UsageLayer {
    type Service = Metered<S>;

    fn layer(&self, inner: S) -> Metered<S> {
        Metered { inner, log: self.log.clone() }
    }
}

/// The service of [`UsageLayer`].
#[derive(Debug, Clone)]
pub struct Metered<S> {
    inner: S,
    log: Option<Arc<dyn UsageLog>>,
}

impl<S, B> Service<Authorized<Request<B>>> for Metered<S>
where
    S: Service<Request<B>, Response = Response<ProxyBody>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<ProxyBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<ProxyBody>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, Authorized { caller, request }: Authorized<Request<B>>) -> Self::Future {
        let log = self.log.clone();
        let counts = request.uri().path().ends_with("/responses");
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await?;
            // A refusal is no call that a model worked on.
            if !counts || !answer.status().is_success() {
                return Ok(answer);
            }
            Ok(metered(answer, Meter { caller, log, done: false }))
        }
        .boxed()
    }
}

fn metered(answer: Response<ProxyBody>, meter: Meter) -> Response<ProxyBody> {
    let copy = if is_event_stream(answer.headers().get(header::CONTENT_TYPE)) {
        Copy::Events(SseReader::default())
    } else {
        Copy::Json(Vec::new())
    };
    answer.map(|body| {
        BodyExt::boxed_unsync(StreamBody::new(watch(body, copy, meter).map(|chunk| chunk.map(Frame::data))))
    })
}

fn watch(body: ProxyBody, mut copy: Copy, mut meter: Meter) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    async_stream::stream! {
        let mut chunks = std::pin::pin!(body.into_data_stream());
        while let Some(chunk) = chunks.next().await {
            if let Some(usage) = chunk.as_ref().ok().and_then(|bytes| copy.push(bytes)) {
                meter.record(usage).await;
            }
            yield chunk;
        }
        meter.record(copy.finish()).await;
    }
}

/// What was seen of an answer.
enum Copy {
    Events(SseReader),
    Json(Vec<u8>),
}

impl Copy {
    /// Reads a chunk; returns the usage when the answer ends with it.
    fn push(&mut self, bytes: &[u8]) -> Option<Usage> {
        match self {
            Self::Events(reader) => {
                let mut usage = None;
                reader.push(bytes, |event| {
                    if let Some(event) = event.read().filter(|event| event.is_terminal()) {
                        usage = Some(usage_of(event.response.as_ref()));
                    }
                });
                usage
            }
            Self::Json(whole) => {
                let room = LARGEST_JSON.saturating_sub(whole.len());
                whole.extend_from_slice(&bytes[..bytes.len().min(room)]);
                None
            }
        }
    }

    fn finish(&self) -> Usage {
        match self {
            Self::Events(_) => usage_of(None),
            Self::Json(whole) => usage_of(serde_json::from_slice(whole).ok().as_ref()),
        }
    }
}

/// One call, with the tokens that its answer names.
fn usage_of(response: Option<&ResponseObject>) -> Usage {
    let tokens: Tokens = response
        .and_then(|response| response.usage.as_ref())
        .and_then(|usage| Tokens::deserialize(usage).ok())
        .unwrap_or_default();
    Usage {
        calls: 1,
        input_tokens: tokens.input_tokens,
        cached_input_tokens: tokens.input_tokens_details.unwrap_or_default().cached_tokens,
        output_tokens: tokens.output_tokens,
        reasoning_tokens: tokens.output_tokens_details.unwrap_or_default().reasoning_tokens,
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tokens {
    input_tokens: u64,
    output_tokens: u64,
    input_tokens_details: Option<Details>,
    output_tokens_details: Option<Details>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Details {
    cached_tokens: u64,
    reasoning_tokens: u64,
}

/// Records one call once.
struct Meter {
    caller: Caller,
    log: Option<Arc<dyn UsageLog>>,
    done: bool,
}

impl Meter {
    async fn record(&mut self, usage: Usage) {
        if let Some(write) = self.take(usage)
            && tokio::time::timeout(PATIENCE, tokio::spawn(write)).await.is_err()
        {
            tracing::warn!(run.id = %self.caller.run(), "the usage of a model call takes long to be written");
        }
    }

    /// Adds up, and returns what is left to do: the writing. It goes on even if nobody waits for it.
    fn take(&mut self, usage: Usage) -> Option<impl Future<Output = ()> + Send + 'static> {
        if std::mem::replace(&mut self.done, true) {
            return None;
        }
        self.caller.add(usage);
        let (log, run) = (self.log.clone()?, self.caller.run());
        Some(async move {
            if let Err(error) = log.record(run, usage).await {
                tracing::error!(run.id = %run, error = &*error, ?usage, "the usage of a model call was not written");
            }
        })
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(write) = self.take(usage_of(None))
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(write);
        }
    }
}
