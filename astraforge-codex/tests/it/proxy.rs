//! The LLM proxy in front of a scripted upstream.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use astraforge_codex::{
    LlmProxy,
    proxy::{ProxyConfig, RunToken, RunTokens, stack_for_workers},
};
use astraforge_core::{
    BoxError,
    id::{RunId, TenantId},
    ports::{
        model::{ModelAnswer, ModelCall, ModelUpstream, UpstreamError},
        usage::UsageLog,
    },
    repository::Secret,
    run::Usage,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::compat::TokioAsyncReadCompatExt;
use tower::ServiceExt;

const RECORDED: &str = concat!(
    "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_1\",\"status\":\"in_progress\"}}\n\n",
    ": a comment\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":1,\"delta\":\"grüße \\u00fc\"}\n\n",
    "data: {\"type\":\"response.output_item.done\",\"sequence_number\":2,\"item\":{\"type\":\"message\",\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":\"ok\"}]}}\r\n\r\n",
    "event: response.completed\ndata: {\"type\":\"response.completed\",\"sequence_number\":3,\"response\":{\"id\":\"resp_1\",\"usage\":{\"input_tokens\":1000,\"input_tokens_details\":{\"cached_tokens\":400},\"output_tokens\":50,\"output_tokens_details\":{\"reasoning_tokens\":20},\"total_tokens\":1050}}}\n\n",
);

/// What the fake does when it is called.
#[derive(Clone)]
enum Play {
    /// Answers 200 with these chunks of an event stream.
    Stream(Vec<Bytes>),
    /// The same, then the connection breaks.
    Broken(Vec<Bytes>),
    /// The same, then silence.
    Stalled(Vec<Bytes>),
    /// Answers with a status, a content type and a body.
    Whole(u16, &'static str, &'static str),
    /// Gives no answer.
    Unreachable,
    /// Never begins to answer.
    Silent,
}

#[derive(Clone)]
struct Fake {
    play: Play,
    calls: Arc<Mutex<Vec<ModelCall>>>,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

#[async_trait]
impl ModelUpstream for Fake {
    fn name(&self) -> &str {
        "fake"
    }

    async fn call(&self, call: ModelCall) -> Result<ModelAnswer, UpstreamError> {
        self.calls.lock().unwrap().push(call);
        let events = |body| ModelAnswer {
            status: 200,
            headers: vec![("content-type".into(), "text/event-stream; charset=utf-8".into())],
            body,
        };
        let chunks = |chunks: Vec<Bytes>| stream::iter(chunks.into_iter().map(Ok::<_, BoxError>));
        match self.play.clone() {
            Play::Stream(all) => Ok(events(chunks(all).boxed())),
            Play::Broken(all) => Ok(events(chunks(all).chain(stream::iter([Err("reset by peer".into())])).boxed())),
            Play::Stalled(all) => Ok(events(chunks(all).chain(stream::pending()).boxed())),
            Play::Whole(status, content_type, body) => Ok(ModelAnswer {
                status,
                headers: vec![("content-type".into(), content_type.into()), ("x-request-id".into(), "req_1".into())],
                body: chunks(vec![Bytes::from_static(body.as_bytes())]).boxed(),
            }),
            Play::Unreachable => {
                Err(UpstreamError::Unreachable { upstream: "fake".into(), source: "connection refused".into() })
            }
            Play::Silent => std::future::pending().await,
        }
    }
}

#[derive(Debug, Default)]
struct Kept(Mutex<Vec<(RunId, Usage)>>);

#[async_trait]
impl UsageLog for Kept {
    async fn record(&self, run: RunId, usage: Usage) -> Result<(), BoxError> {
        self.0.lock().unwrap().push((run, usage));
        Ok(())
    }
}

struct Setup {
    proxy: LlmProxy,
    token: RunToken,
    run: RunId,
    kept: Arc<Kept>,
    calls: Arc<Mutex<Vec<ModelCall>>>,
}

fn setup(play: Play) -> Setup {
    let kept = Arc::new(Kept::default());
    let fake = Fake { play, calls: Arc::default() };
    let calls = fake.calls.clone();
    let proxy = LlmProxy::builder(Arc::new(fake))
        .with_usage_log(kept.clone())
        .with_max_body(10_000)
        .with_max_in_flight(3)
        .with_idle_timeout(Duration::from_secs(5))
        .with_first_byte_timeout(Duration::from_secs(7))
        .build();
    let run = RunId::random();
    let token = proxy.tokens().mint(run, TenantId::new("t")).unwrap();
    Setup { proxy, token, run, kept, calls }
}

fn ask(token: &str) -> Request<String> {
    Request::post("/v1/responses")
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(r#"{"model":"m","stream":true,"input":"hi"}"#.to_owned())
        .unwrap()
}

async fn send<B>(proxy: &LlmProxy, request: Request<B>) -> Response<astraforge_codex::proxy::ProxyBody>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let Ok::<_, Infallible>(response) = proxy.clone().oneshot(request).await;
    response
}

async fn text(response: Response<astraforge_codex::proxy::ProxyBody>) -> String {
    String::from_utf8_lossy(&response.into_body().collect().await.unwrap().to_bytes()).into_owned()
}

impl Setup {
    async fn stream(&self) -> Vec<u8> {
        let response = send(&self.proxy, ask(self.token.secret().reveal())).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        response.into_body().collect().await.unwrap().to_bytes().to_vec()
    }

    async fn refusal(&self, request: Request<String>) -> (u16, serde_json::Value) {
        let response = send(&self.proxy, request).await;
        let status = response.status().as_u16();
        let body: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
        assert!(body["error"]["message"].as_str().is_some_and(|m| !m.is_empty()), "{body}");
        (status, body["error"].clone())
    }

    fn usage(&self) -> Vec<Usage> {
        let kept = self.kept.0.lock().unwrap();
        assert!(kept.iter().all(|(run, _)| *run == self.run));
        kept.iter().map(|(_, usage)| *usage).collect()
    }
}

/// The types of the events that a reader gets which, as Codex does, ignores what is no JSON.
fn event_types(stream: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(stream).replace("\r\n", "\n");
    let (whole, rest) = text.rsplit_once("\n\n").unwrap_or(("", &text));
    assert_eq!(rest, "", "an event is not ended");
    let data = |event: &str| {
        event.lines().filter_map(|line| line.strip_prefix("data: ").map(str::to_owned)).collect::<Vec<_>>().join("\n")
    };
    let kind =
        |event: &str| serde_json::from_str::<serde_json::Value>(&data(event)).ok()?["type"].as_str().map(str::to_owned);
    whole.split("\n\n").filter_map(kind).collect()
}

const FULL_USAGE: Usage =
    Usage { calls: 1, input_tokens: 1000, cached_input_tokens: 400, output_tokens: 50, reasoning_tokens: 20 };
const NO_TOKENS: Usage =
    Usage { calls: 1, input_tokens: 0, cached_input_tokens: 0, output_tokens: 0, reasoning_tokens: 0 };

#[tokio::test]
async fn a_whole_stream_passes_byte_for_byte() {
    let setup = setup(Play::Stream(vec![Bytes::from_static(RECORDED.as_bytes())]));
    assert_eq!(setup.stream().await, RECORDED.as_bytes());
    assert_eq!(setup.usage(), [FULL_USAGE]);
    assert_eq!(setup.token.usage(), FULL_USAGE);
}

#[tokio::test]
async fn usage_is_found_however_the_stream_is_cut_into_chunks() {
    for size in [1, 2, 3, 7, 64, 1000] {
        let chunks = RECORDED.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect();
        let setup = setup(Play::Stream(chunks));
        assert_eq!(setup.stream().await, RECORDED.as_bytes(), "chunks of {size}");
        assert_eq!(setup.usage(), [FULL_USAGE], "chunks of {size}");
    }
}

#[tokio::test]
async fn a_stream_cut_anywhere_ends_in_words_and_what_came_before_is_untouched() {
    for cut in 0..RECORDED.len() {
        let head = &RECORDED.as_bytes()[..cut];
        let chunks = vec![Bytes::copy_from_slice(head)];
        let play = if cut % 2 == 0 { Play::Stream(chunks) } else { Play::Broken(chunks) };
        let setup = setup(play);
        let got = setup.stream().await;
        assert_eq!(&got[..cut], head, "cut at {cut}");
        let last = event_types(&got).pop();
        assert!(matches!(last.as_deref(), Some("response.failed" | "response.completed")), "cut at {cut}: {last:?}");
        let completed = event_types(&got).contains(&"response.completed".to_owned());
        assert_eq!(setup.usage(), [if completed { FULL_USAGE } else { NO_TOKENS }], "cut at {cut}");
    }
}

#[tokio::test]
async fn the_end_that_is_put_to_a_stream_goes_on_where_it_was_cut() {
    let cut = RECORDED.find("event: response.completed").unwrap();
    let got = setup(Play::Stream(vec![Bytes::from_static(&RECORDED.as_bytes()[..cut])])).stream().await;
    let tail = String::from_utf8(got[cut..].to_vec()).unwrap();
    let event: serde_json::Value =
        serde_json::from_str(tail.strip_prefix("event: response.failed\ndata: ").unwrap().trim()).unwrap();
    assert_eq!((&event["response"]["id"], &event["sequence_number"]), (&"resp_1".into(), &3.into()));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_stalls_is_ended() {
    let got =
        setup(Play::Stalled(vec![Bytes::from_static(b"data: {\"type\":\"response.created\"}\n\nda")])).stream().await;
    assert_eq!(event_types(&got), ["response.created", "response.failed"]);
    assert!(String::from_utf8_lossy(&got).contains("sent nothing for 5 s"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_stalls_after_its_end_adds_nothing() {
    let got = setup(Play::Stalled(vec![Bytes::from_static(RECORDED.as_bytes())])).stream().await;
    assert_eq!(got, RECORDED.as_bytes());
}

#[tokio::test]
async fn a_page_in_place_of_a_stream_becomes_a_failure() {
    for content_type in ["text/html; charset=utf-8", "application/json"] {
        let setup = setup(Play::Whole(200, content_type, "<html>Welcome</html>"));
        let got = setup.stream().await;
        assert_eq!(event_types(&got), ["response.failed"]);
        assert!(String::from_utf8_lossy(&got).contains(content_type));
    }
}

#[tokio::test]
async fn an_answer_that_is_no_stream_is_metered_too() {
    let body = r#"{"id":"r","object":"response","usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7}}"#;
    let setup = setup(Play::Whole(200, "application/json", body));
    let request = ask(setup.token.secret().reveal()).map(|_| r#"{"model":"m","input":"hi"}"#.to_owned());
    let response = send(&setup.proxy, request).await;
    assert_eq!(response.headers()["x-request-id"], "req_1");
    assert_eq!(text(response).await, body);
    assert_eq!(setup.usage(), [Usage { calls: 1, input_tokens: 3, output_tokens: 4, ..Usage::default() }]);
}

#[tokio::test]
async fn usage_is_kept_before_the_caller_sees_the_end() {
    let setup = setup(Play::Stalled(vec![Bytes::from_static(RECORDED.as_bytes())]));
    let mut body = send(&setup.proxy, ask(setup.token.secret().reveal())).await.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(setup.usage(), [FULL_USAGE]);
    drop(body);
    tokio::task::yield_now().await;
    assert_eq!(setup.usage(), [FULL_USAGE], "and once only");
}

#[tokio::test]
async fn an_answer_left_early_counts_as_a_call() {
    let setup = setup(Play::Stalled(vec![Bytes::from_static(b"data: {}\n\n")]));
    drop(send(&setup.proxy, ask(setup.token.secret().reveal())).await);
    while setup.usage().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(setup.usage(), [NO_TOKENS]);
}

#[tokio::test]
async fn calls_without_a_live_token_are_refused_for_good() {
    let setup = setup(Play::Stream(vec![]));
    let (status, error) = setup.refusal(Request::post("/v1/responses").body("{}".to_owned()).unwrap()).await;
    assert_eq!((status, error["code"].as_str()), (400, Some("missing_run_token")));
    let (status, error) = setup.refusal(ask("afr_0000")).await;
    assert_eq!((status, error["code"].as_str()), (400, Some("unknown_run_token")));
    let secret = setup.token.secret().clone();
    assert!(!format!("{:?}", setup.token).contains(secret.reveal()));
    let Setup { proxy, token, run, kept, calls } = setup;
    drop(token);
    let token = proxy.tokens().mint(run, TenantId::new("t")).unwrap();
    let setup = Setup { proxy, token, run, kept, calls };
    assert_eq!(setup.refusal(ask(secret.reveal())).await.0, 400);
    assert!(setup.calls.lock().unwrap().is_empty(), "nothing reached the model");
}

#[tokio::test]
async fn a_token_that_is_revoked_ends_its_streams() {
    let Setup { proxy, token, .. } =
        setup(Play::Stalled(vec![Bytes::from_static(b"data: {\"type\":\"response.created\"}\n\ndata: {\"ty")]));
    let mut body = send(&proxy, ask(token.secret().reveal())).await.into_body();
    let mut got = body.frame().await.unwrap().unwrap().into_data().unwrap().to_vec();
    token.revoke();
    got.extend(body.collect().await.unwrap().to_bytes());
    assert_eq!(event_types(&got), ["response.created", "response.failed"]);
}

#[tokio::test]
async fn a_token_that_is_revoked_ends_calls_that_wait() {
    let Setup { proxy, token, .. } = setup(Play::Silent);
    let secret = token.secret().reveal().to_owned();
    let call = tokio::spawn(async move { send(&proxy, ask(&secret)).await.status() });
    tokio::task::yield_now().await;
    drop(token);
    assert_eq!(call.await.unwrap(), 400);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_without_an_answer_is_explained() {
    let (status, error) = {
        let s = setup(Play::Unreachable);
        s.refusal(ask(s.token.secret().reveal())).await
    };
    assert_eq!((status, error["message"].as_str()), (502, Some("Model upstream `fake` cannot be reached.")));
    let (status, error) = {
        let s = setup(Play::Silent);
        s.refusal(ask(s.token.secret().reveal())).await
    };
    assert_eq!(
        (status, error["message"].as_str()),
        (400, Some("Model upstream `model` did not begin to answer within 7 s."))
    );
}

#[tokio::test]
async fn the_providers_refusal_of_its_key_is_the_operators_affair() {
    let setup = setup(Play::Whole(401, "application/json", r#"{"error":{"message":"Incorrect API key"}}"#));
    let (status, error) = setup.refusal(ask(setup.token.secret().reveal())).await;
    assert_eq!(status, 400);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("operator") && message.ends_with("The provider said: Incorrect API key"), "{message}");
    assert_eq!(setup.token.usage(), Usage::default(), "a refusal is no call");
}

#[tokio::test]
async fn errors_that_codex_understands_pass_as_they_are() {
    let body = r#"{"error":{"message":"slow down","code":"rate_limit_exceeded"}}"#;
    let setup = setup(Play::Whole(429, "application/json", body));
    let response = send(&setup.proxy, ask(setup.token.secret().reveal())).await;
    assert_eq!(response.status(), 429);
    assert_eq!(text(response).await, body);
}

#[tokio::test]
async fn the_upstream_gets_the_body_as_it_came_and_no_credential() {
    let setup = setup(Play::Stream(vec![]));
    setup.stream().await;
    let calls = setup.calls.lock().unwrap();
    assert_eq!(calls[0].body, r#"{"model":"m","stream":true,"input":"hi"}"#);
    assert_eq!(calls[0].headers, [("content-type".to_owned(), "application/json".to_owned())]);
}

#[tokio::test]
async fn what_the_proxy_does_not_take_is_explained() {
    let setup = setup(Play::Stream(vec![]));
    let token = setup.token.secret().reveal();
    let with = |request: http::request::Builder, body: &str| {
        request.header("authorization", format!("bearer {token}")).body(body.to_owned()).unwrap()
    };
    let (status, error) = setup.refusal(with(Request::post("/v1/chat/completions"), "{}")).await;
    assert_eq!((status, error["code"].as_str()), (400, Some("unknown_route")));
    for body in ["", "[1]", "{", "\"x\""] {
        let (status, error) = setup.refusal(with(Request::post("/responses"), body)).await;
        assert_eq!((status, error["code"].as_str()), (400, Some("invalid_json")), "{body}");
    }
    let long = format!("{{\"input\":\"{}\"}}", "x".repeat(10_000));
    let (status, error) = setup.refusal(with(Request::post("/responses"), &long)).await;
    assert_eq!((status, error["code"].as_str()), (400, Some("context_length_exceeded")));
}

#[tokio::test]
async fn a_full_proxy_sheds_calls_and_is_healthy_all_the_same() {
    let setup = setup(Play::Stalled(vec![Bytes::from_static(b": hello\n\n")]));
    let token = setup.token.secret().reveal();
    let mut open = vec![
        send(&setup.proxy, ask(token)).await,
        send(&setup.proxy, ask(token)).await,
        send(&setup.proxy, ask(token)).await,
    ];
    let (status, error) = setup.refusal(ask(token)).await;
    assert_eq!((status, error["code"].as_str()), (503, Some("server_is_overloaded")));
    let health = send(&setup.proxy, Request::get("/healthz").body(String::new()).unwrap()).await;
    assert_eq!(text(health).await, r#"{"status":"ok"}"#);
    open.pop();
    assert_eq!(send(&setup.proxy, ask(token)).await.status(), 200);
}

#[tokio::test]
async fn layers_of_ones_own_see_every_request() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let fake = Fake { play: Play::Stream(vec![]), calls: Arc::default() };
    let note = {
        let seen = seen.clone();
        tower::util::MapRequestLayer::new(move |request: Request<_>| {
            seen.lock().unwrap().push(request.uri().path().to_owned());
            request
        })
    };
    let proxy = LlmProxy::builder(Arc::new(fake)).with_layer(note).build();
    send(&proxy, Request::get("/healthz").body(String::new()).unwrap()).await;
    send(&proxy, ask("wrong")).await;
    assert_eq!(*seen.lock().unwrap(), ["/healthz", "/v1/responses"]);
}

/// Talks HTTP/1.1 to the proxy as a program in a run's sandbox does.
async fn from_sandbox(proxy: &LlmProxy, run: RunId, token: &str) -> String {
    let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
    let service = proxy.guest_service(run);
    let served = tokio::spawn(async move { service.serve(Box::pin(theirs.compat())).await });
    let body = r#"{"stream":true}"#;
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    ours.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    ours.read_to_string(&mut answer).await.unwrap();
    served.await.unwrap();
    answer
}

#[tokio::test]
async fn a_sandbox_reaches_the_proxy_with_the_token_of_its_own_run_only() {
    let setup = setup(Play::Stream(vec![Bytes::from_static(RECORDED.as_bytes())]));
    let foreign = setup.proxy.tokens().mint(RunId::random(), TenantId::new("t")).unwrap();
    let answer = from_sandbox(&setup.proxy, setup.run, setup.token.secret().reveal()).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("resp_1"), "{answer}");
    let answer = from_sandbox(&setup.proxy, setup.run, foreign.secret().reveal()).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("foreign_run_token"), "{answer}");
    assert_eq!(setup.calls.lock().unwrap().len(), 1);
}

/// A proxy for workers with that token, and what it calls.
fn for_workers(token: &str) -> (LlmProxy, Arc<Mutex<Vec<ModelCall>>>) {
    let calls = Arc::<Mutex<Vec<ModelCall>>>::default();
    let fake = Fake { play: Play::Stream(vec![Bytes::from_static(RECORDED.as_bytes())]), calls: Arc::clone(&calls) };
    let stack = stack_for_workers(&ProxyConfig::default(), &Secret::new(token), Arc::new(fake));
    (LlmProxy::from_service(stack, RunTokens::default()), calls)
}

async fn ask_as(proxy: &LlmProxy, authorization: Option<&str>) -> Response<astraforge_codex::proxy::ProxyBody> {
    let request = authorization.into_iter().fold(Request::post("/responses"), |r, it| r.header("authorization", it));
    send(proxy, request.body(r#"{"model": "any", "stream": true}"#.to_owned()).unwrap()).await
}

#[tokio::test]
async fn a_proxy_for_workers_takes_their_token_only_and_hands_it_to_nobody() {
    let (proxy, calls) = for_workers("the token of all workers");
    for wrong in [None, Some("Bearer another"), Some("Bearer "), Some("the token of all workers"), Some("Basic dDp0")] {
        let answer = ask_as(&proxy, wrong).await;
        assert_eq!(answer.status(), 401, "{wrong:?}");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        assert!(text(answer).await.contains("LLM_PROXY_TOKEN"));
    }
    assert!(calls.lock().unwrap().is_empty());
    // The scheme of a header means the same however it is spelled.
    for right in ["Bearer the token of all workers", "bearer the token of all workers"] {
        let answer = ask_as(&proxy, Some(right)).await;
        assert_eq!(answer.status(), 200, "{right}");
        assert_eq!(text(answer).await, RECORDED);
    }
    let calls = calls.lock().unwrap();
    assert_eq!(calls.len(), 2);
    assert!(calls.iter().flat_map(|call| &call.headers).all(|(name, _)| name != "authorization"));
}

#[tokio::test]
async fn a_proxy_for_workers_without_a_token_takes_nobody() {
    for token in ["", " "] {
        let (proxy, calls) = for_workers(token);
        for sent in [None, Some("Bearer "), Some("Bearer  "), Some("bearer "), Some("")] {
            assert_eq!(ask_as(&proxy, sent).await.status(), 401, "{sent:?}");
        }
        assert!(calls.lock().unwrap().is_empty());
    }
}
