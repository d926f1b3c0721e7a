//! The OpenAI upstream against a server that records and misbehaves.

#![expect(clippy::unwrap_used, reason = "a failing test is what these are for")]

use std::time::Duration;

use astraforge_adapters::models::{OpenAiConfig, OpenAiUpstream};
use astraforge_core::{
    ports::model::{Endpoint, ModelAnswer, ModelCall, ModelUpstream as _, UpstreamError},
    repository::Secret,
};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::models_server::{Server, answer};

const KEY: &str = "the-providers-key";

fn upstream(url: &str) -> OpenAiUpstream {
    with(url, |_| {})
}

fn with(url: &str, edit: impl FnOnce(&mut OpenAiConfig)) -> OpenAiUpstream {
    let _already_there = rustls::crypto::ring::default_provider().install_default();
    let mut config = OpenAiConfig::default();
    config.base_url = format!("{url}/v1/");
    config.api_key = Some(Secret::new(KEY));
    edit(&mut config);
    OpenAiUpstream::new(config).unwrap()
}

fn call(headers: &[(&str, &str)], body: &'static [u8]) -> ModelCall {
    let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    ModelCall { endpoint: Endpoint::Responses, headers, body: Bytes::from_static(body) }
}

async fn read(answer: ModelAnswer) -> Bytes {
    answer.body.try_collect::<Vec<_>>().await.unwrap().concat().into()
}

#[tokio::test]
async fn bodies_pass_byte_for_byte() {
    const ODD: &[u8] = b"{ \"a\":1,\"a\" :2, \"unknown\": \xff }";
    let server = Server::start(|request| async move {
        let body = stream::iter([Ok(request.body.slice(..5)), Ok(request.body.slice(5..))]).boxed();
        Some(ModelAnswer { status: 200, headers: vec![], body })
    })
    .await;
    let answer = upstream(&server.url).call(call(&[], ODD)).await.unwrap();
    assert_eq!(read(answer).await, ODD);
    assert_eq!((&*server.received()[0].method, &*server.received()[0].path), ("POST", "/v1/responses"));
}

#[tokio::test]
async fn only_listed_headers_cross() {
    let server = Server::start(|_| async {
        let headers = [
            ("content-type", "application/json"),
            ("x-request-id", "req_1"),
            ("x-ratelimit-remaining-tokens", "7"),
            ("retry-after", "3"),
            ("set-cookie", "a=b"),
            ("openai-organization", "org-of-the-operator"),
            ("location", "http://elsewhere.invalid/"),
        ];
        answer(429, &headers, "{}")
    })
    .await;
    let upstream = with(&server.url, |config| {
        config.organization = Some("org-1".into());
        config.project = Some("proj-1".into());
        config.beta = Some("beta-1".into());
    });
    let sent = [
        ("authorization", "Bearer of-the-workspace"),
        ("cookie", "c=d"),
        ("host", "elsewhere.invalid"),
        ("openai-organization", "org-of-the-caller"),
        ("connection", "keep-alive"),
        ("session-id", "s-1"),
        ("x-codex-turn-state", "t-1"),
        ("accept", "text/event-stream"),
    ];
    let answer = upstream.call(call(&sent, b"{}")).await.unwrap();
    assert_eq!(answer.status, 429);
    let names: Vec<_> = answer.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["content-type", "x-request-id", "x-ratelimit-remaining-tokens", "retry-after"]);

    let received = &server.received()[0];
    assert_eq!(received.header("authorization"), Some("Bearer the-providers-key"));
    assert_eq!(received.header("openai-organization"), Some("org-1"));
    assert_eq!(received.header("openai-project"), Some("proj-1"));
    assert_eq!(received.header("openai-beta"), Some("beta-1"));
    assert_eq!(received.header("session-id"), Some("s-1"));
    assert_eq!(received.header("x-codex-turn-state"), Some("t-1"));
    assert_eq!(received.header("accept"), Some("text/event-stream"));
    assert_eq!(received.header("content-type"), Some("application/json"));
    assert_eq!(received.header("cookie"), None);
    assert!(server.url.ends_with(received.header("host").unwrap()));
}

#[tokio::test]
async fn models_are_asked_for_without_a_body() {
    let server = Server::start(|_| async { answer(200, &[], "{\"data\":[]}") }).await;
    let upstream = with(&server.url, |config| config.base_url.push_str("?api-version=1"));
    let call = ModelCall { endpoint: Endpoint::Models, headers: vec![], body: Bytes::new() };
    assert_eq!(read(upstream.call(call).await.unwrap()).await, "{\"data\":[]}");
    assert_eq!((&*server.received()[0].method, &*server.received()[0].path), ("GET", "/v1/models?api-version=1"));
}

#[tokio::test]
async fn html_passes_as_it_is() {
    let server = Server::start(|_| async { answer(502, &[("content-type", "text/html")], "<html>") }).await;
    let answer = upstream(&server.url).call(call(&[], b"{}")).await.unwrap();
    assert_eq!((answer.status, &*answer.headers[0].1), (502, "text/html"));
    assert_eq!(read(answer).await, "<html>");
}

#[tokio::test]
async fn the_key_follows_no_redirect_to_another_server() {
    let elsewhere = Server::start(|_| async { answer(200, &[], "stolen") }).await;
    let target = format!("{}/v1/responses", elsewhere.url);
    let server = Server::start(move |request| {
        let to = if request.path == "/v1/responses" { "/moved".to_owned() } else { target.clone() };
        async move { answer(307, &[("location", &to)], "") }
    })
    .await;
    let error = upstream(&server.url).call(call(&[], b"{}")).await.unwrap_err();
    let UpstreamError::Unreachable { source, .. } = error else { panic!("{error:?}") };
    assert!(source.source().unwrap().to_string().contains("another server"), "{source:?}");
    assert_eq!(server.received().len(), 2, "a redirect within the server is followed");
    assert!(elsewhere.received().is_empty());
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_an_error() {
    let error = upstream("http://127.0.0.1:1").call(call(&[], b"{}")).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Unreachable { .. }), "{error:?}");
    let server = Server::start(|_| async { None }).await;
    let error = upstream(&server.url).call(call(&[], b"{}")).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Unreachable { .. }), "{error:?}");
    assert!(!format!("{error:?} {:?}", upstream(&server.url)).contains(KEY));
}

#[tokio::test]
async fn a_late_head_times_out() {
    let server = Server::start(|_| std::future::pending()).await;
    let upstream = with(&server.url, |config| config.first_byte_timeout = Duration::from_millis(50));
    let error = upstream.call(call(&[], b"{}")).await.unwrap_err();
    assert!(matches!(error, UpstreamError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_pauses_ends_in_an_error() {
    let server = Server::start(|request| async move {
        let first = stream::iter([Ok(Bytes::from_static(b"half"))]);
        let rest =
            if request.body == "cut" { stream::iter([Err("cut".into())]).boxed() } else { stream::pending().boxed() };
        Some(ModelAnswer { status: 200, headers: vec![], body: first.chain(rest).boxed() })
    })
    .await;
    let upstream = with(&server.url, |config| config.idle_timeout = Duration::from_millis(100));
    for body in [&b"cut"[..], b"pause"] {
        let mut answer = upstream.call(call(&[], body)).await.unwrap();
        assert_eq!(answer.body.next().await.unwrap().unwrap(), "half");
        assert!(answer.body.next().await.unwrap().is_err());
        assert!(answer.body.next().await.is_none());
    }
}

#[tokio::test]
async fn what_is_not_configured_is_said() {
    let _already_there = rustls::crypto::ring::default_provider().install_default();
    let keyless = with("http://127.0.0.1:1", |config| config.api_key = None);
    let error = keyless.call(call(&[], b"{}")).await.unwrap_err();
    assert!(error.to_string().contains("OPENAI_API_KEY"), "{error}");
    for url in ["api.openai.com", "ftp://x/v1", "https://user:pass@x/v1"] {
        let mut config = OpenAiConfig::default();
        config.base_url = url.into();
        let error = OpenAiUpstream::new(config).unwrap_err();
        assert!(matches!(error, UpstreamError::NotConfigured { .. }), "{error:?}");
    }
}
