//! The layer between HTTP and model calls.

use std::{
    convert::Infallible,
    task::{Context, Poll},
    time::Duration,
};

use astraforge_core::{
    BoxError,
    ports::model::{Endpoint, ModelAnswer, ModelCall, UpstreamError},
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, LengthLimitError, Limited, StreamBody};
use tower::{Layer, Service};

use super::{
    ProxyBody,
    refusal::{Refusal, whole},
};

/// How long a caller may take to send its request: the caller is an agent, and holds a place meanwhile.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// The part of an upstream's error that is kept.
const MAX_ERROR: usize = 64 * 1024;
/// The longest wait that an upstream may ask for: Codex would obey any.
const MAX_RETRY_AFTER: u64 = 60;

/// Finds out what is called, reads the body up to a limit, and writes the model's answer as HTTP.
#[derive(Debug, Clone, Copy)]
pub struct RouteLayer {
    max_body: usize,
}

impl RouteLayer {
    /// A layer that takes bodies of at most `max_body` bytes.
    #[must_use]
    pub fn new(max_body: usize) -> Self {
        Self { max_body }
    }
}

impl<S> Layer<S> for RouteLayer {
    type Service = Route<S>;

    fn layer(&self, inner: S) -> Route<S> {
        Route { inner, max_body: self.max_body }
    }
}

/// The service of [`RouteLayer`].
#[derive(Debug, Clone)]
pub struct Route<S> {
    inner: S,
    max_body: usize,
}

impl<S, B> Service<Request<B>> for Route<S>
where
    S: Service<ModelCall, Response = ModelAnswer, Error = UpstreamError> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ProxyBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<ProxyBody>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The layers below are asked when there is a call for them; until then they have no place to keep.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (inner, max_body) = (self.inner.clone(), self.max_body);
        async move {
            let answer = match model_call(request, max_body).await {
                Ok(call) => match tower::ServiceExt::oneshot(inner, call).await {
                    Ok(answer) => to_http(answer).await,
                    Err(error) => Err(no_answer(&error)),
                },
                Err(refusal) => Err(refusal),
            };
            Ok(answer.unwrap_or_else(Refusal::into_response))
        }
        .boxed()
    }
}

async fn model_call<B>(request: Request<B>, max_body: usize) -> Result<ModelCall, Refusal>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let endpoint = endpoint(&request)?;
    let (head, body) = request.into_parts();
    let body = match endpoint {
        Endpoint::Responses => read_body(body, max_body).await?,
        Endpoint::Models => Bytes::new(),
    };
    Ok(ModelCall { endpoint, headers: forwarded(&head.headers), body })
}

fn endpoint<B>(request: &Request<B>) -> Result<Endpoint, Refusal> {
    let path = request.uri().path();
    match (request.method(), path.strip_prefix("/v1").unwrap_or(path)) {
        (&Method::POST, "/responses") => Ok(Endpoint::Responses),
        (&Method::GET, "/models") => Ok(Endpoint::Models),
        // The one status after which Codex goes on over plain HTTP without a word.
        (&Method::GET, "/responses") if request.headers().contains_key(header::UPGRADE) => Err(Refusal::for_now(
            StatusCode::UPGRADE_REQUIRED,
            "no_websocket",
            "This proxy speaks plain HTTP; POST here.",
        )),
        (method, _) => {
            let message = format!(
                "The LLM proxy has no `{method} {path}`. It answers POST /v1/responses, GET /v1/models and GET /healthz."
            );
            Err(Refusal::last_word("unknown_route", message))
        }
    }
}

async fn read_body<B>(body: B, max_body: usize) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let body = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, max_body).collect()).await;
    let too_slow = |_| {
        Refusal::last_word("request_too_slow", format!("The request was not sent within {} s.", BODY_TIMEOUT.as_secs()))
    };
    let body = body.map_err(too_slow)?.map_err(|error| unread(&*error, max_body))?.to_bytes();
    match serde_json::from_slice::<serde::de::IgnoredAny>(&body) {
        Ok(_) if body.trim_ascii_start().first() == Some(&b'{') => Ok(body),
        _ => Err(Refusal::last_word("invalid_json", "The request body must be a JSON object.")),
    }
}

fn unread(error: &(dyn std::error::Error + 'static), max_body: usize) -> Refusal {
    if error.is::<LengthLimitError>() {
        let message = format!(
            "The request is longer than the {max_body} bytes that the LLM proxy takes; the conversation has grown too long."
        );
        return Refusal::last_word("context_length_exceeded", message);
    }
    Refusal::last_word("unreadable_request", "The request broke off.")
}

/// Request headers that an upstream may see. Credentials, cookies and whatever else an agent sends stay here.
fn forwarded(headers: &HeaderMap) -> Vec<(String, String)> {
    const PLAIN: [&str; 8] = [
        "accept",
        "content-type",
        "openai-beta",
        "originator",
        "session-id",
        "thread-id",
        "user-agent",
        "x-client-request-id",
    ];
    let known = |name: &str| PLAIN.contains(&name) || name.starts_with("x-codex-") || name.starts_with("x-openai-");
    let text = |(name, value): (&HeaderName, &HeaderValue)| Some((name.to_string(), value.to_str().ok()?.to_owned()));
    headers.iter().filter(|(name, _)| known(name.as_str())).filter_map(text).collect()
}

async fn to_http(answer: ModelAnswer) -> Result<Response<ProxyBody>, Refusal> {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    if status.is_success() {
        let (headers, chunks) = (answer.headers, answer.body);
        let body = BodyExt::boxed_unsync(StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))));
        return Ok(with_headers(status, headers, body));
    }
    let body = error_body(answer.body).await;
    let retry_after = answer.headers.iter().find(|(name, _)| name == "retry-after").map(|(_, value)| value.as_str());
    match verdict(status, retry_after) {
        Verdict::PassOn(status) => Ok(with_headers(status, answer.headers, whole(body))),
        Verdict::Replace(message) => {
            let said = error_message(&body);
            tracing::warn!(status = status.as_u16(), "the model upstream refused a call");
            Err(Refusal::last_word("upstream_refused", format!("{message} The provider said: {said}")))
        }
    }
}

/// What becomes of an upstream's no.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Its body passes as it is, with this status.
    PassOn(StatusCode),
    /// It is told in other words, as the last word.
    Replace(String),
}

fn verdict(status: StatusCode, retry_after: Option<&str>) -> Verdict {
    let wait = retry_after.and_then(|text| text.trim().parse::<u64>().ok());
    match status.as_u16() {
        // The provider's key is the server's own affair: neither Codex nor its run can mend it.
        401..=403 => Verdict::Replace(format!(
            "The model provider refused this server ({status}): ask its operator to check the provider key and its permissions."
        )),
        429 if retry_after.is_some() && wait.is_none_or(|seconds| seconds > MAX_RETRY_AFTER) => {
            Verdict::Replace(format!(
                "The model provider asks to wait {} before the next call, which is longer than a run waits.",
                wait.map_or_else(|| "until a later date".to_owned(), |seconds| format!("{seconds} s"))
            ))
        }
        400 | 408 | 429 | 500..=599 => Verdict::PassOn(status),
        300..=399 => Verdict::Replace(format!(
            "The model upstream redirects ({status}): its address is not that of a Responses API."
        )),
        // Codex would try these six times; they mean the same each time.
        _ => Verdict::PassOn(StatusCode::BAD_REQUEST),
    }
}

/// The words of an error: those of OpenAI's shape, else the beginning of whatever it is.
fn error_message(body: &[u8]) -> String {
    const LONGEST: usize = 2048;
    let parsed: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    match parsed.as_ref().and_then(|body| body["error"]["message"].as_str()) {
        Some(message) => message[..message.floor_char_boundary(LONGEST)].to_owned(),
        None => String::from_utf8_lossy(&body[..body.len().min(LONGEST)]).into_owned(),
    }
}

async fn error_body(mut chunks: futures::stream::BoxStream<'static, Result<Bytes, BoxError>>) -> Bytes {
    let mut body = Vec::new();
    let read = async {
        while let Some(Ok(chunk)) = chunks.next().await {
            let room = MAX_ERROR.saturating_sub(body.len());
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if room == 0 {
                break;
            }
        }
    };
    // What came in time is shown; an error that never ends is no reason to wait.
    _ = tokio::time::timeout(Duration::from_secs(10), read).await;
    body.into()
}

/// Writes the head of an answer, without headers that belong to the upstream's own connection or body.
fn with_headers(status: StatusCode, headers: Vec<(String, String)>, body: ProxyBody) -> Response<ProxyBody> {
    const OWN: [&str; 8] =
        ["connection", "content-length", "keep-alive", "set-cookie", "te", "trailer", "transfer-encoding", "upgrade"];
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value))
            && !OWN.contains(&name.as_str())
        {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// Words for an upstream that gave no answer.
///
/// One that can't be reached may be back in a moment, and finding out is quick, so Codex may try again. One that was
/// silent for minutes is not asked again.
fn no_answer(error: &UpstreamError) -> Refusal {
    let source = std::error::Error::source(error);
    tracing::warn!(error = source, "{error}");
    match error {
        UpstreamError::Unreachable { .. } => {
            Refusal::for_now(StatusCode::BAD_GATEWAY, "upstream_unreachable", sentence(error))
        }
        _ => Refusal::last_word("upstream_failed", sentence(error)),
    }
}

fn sentence(error: &UpstreamError) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, retry_after: Option<&str>, passed_on_as: Option<u16>) {
        let verdict = verdict(StatusCode::from_u16(status).unwrap(), retry_after);
        match passed_on_as {
            Some(expected) => assert_eq!(verdict, Verdict::PassOn(StatusCode::from_u16(expected).unwrap())),
            None => assert!(matches!(verdict, Verdict::Replace(_)), "{verdict:?}"),
        }
    }

    #[test]
    fn a_no_that_stays_a_no_is_said_once() {
        check(400, None, Some(400));
        check(401, None, None);
        check(403, None, None);
        check(404, None, Some(400));
        check(413, None, Some(400));
        check(302, None, None);
        check(429, None, Some(429));
        check(429, Some("7"), Some(429));
        check(429, Some("3600"), None);
        check(429, Some("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        check(503, Some("1"), Some(503));
    }

    #[test]
    fn credentials_and_unknown_headers_stay_here() {
        let mut headers = HeaderMap::new();
        for name in
            ["authorization", "cookie", "x-api-key", "accept-encoding", "host", "thread-id", "x-codex-window-id"]
        {
            headers.insert(name, HeaderValue::from_static("v"));
        }
        let mut names: Vec<_> = forwarded(&headers).into_iter().map(|(name, _)| name).collect();
        names.sort();
        assert_eq!(names, ["thread-id", "x-codex-window-id"]);
    }
}
