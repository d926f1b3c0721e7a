//! What stands around all handlers: request ids and logs, headers, panics, deadlines, and unknown paths.

use std::{any::Any, convert::Infallible, time::Instant};

use astraforge_core::id::RequestId;
use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::{Instrument, field::Empty, info, info_span};

use super::{AppState, error::ApiError};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a call; empty outside of [`observe`].
#[derive(Debug, Clone, Default)]
pub(super) struct CallId(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for CallId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// Gives each call an id and logs how it went: method, path, status, time. Never a body, a query or a header.
pub(super) async fn observe(mut request: Request, next: Next) -> Response {
    let id = call_id(&request);
    request.extensions_mut().insert(CallId(id.clone()));
    let span = info_span!("call", id = %id, method = %request.method(), path = request.uri().path(), user = Empty, key = Empty);
    let began = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    span.in_scope(|| info!(status, duration_ms, "answered"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The caller's own id for the call, if it is one that a log can hold; else a fresh one.
fn call_id(request: &Request) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    match given.filter(|id| (1..=64).contains(&id.len()) && id.bytes().all(plain)) {
        Some(id) => id.to_owned(),
        None => RequestId::random().to_string(),
    }
}

/// Adds the headers that every answer carries.
pub(super) async fn security_headers(request: Request, next: Next) -> Response {
    const HEADERS: [(HeaderName, &str); 5] = [
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::VARY, "Cookie, origin"),
    ];
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    // What a key opens is not for caches; a handler may know better.
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(no_store);
    response
}

/// Answers a call whose handler takes too long. A run log answers at once and goes on as long as it likes.
pub(super) async fn deadline(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let limit = state.limits.timeout;
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => {
            let detail = format!("The server did not finish within {} s; try again.", limit.as_secs_f32());
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response()
        }
    }
}

/// Answers a call whose handler panicked. The panic hook has told the log where.
pub(super) fn panicked(_panic: Box<dyn Any + Send + 'static>) -> Response {
    let detail = "Something of ours broke; the server's log has details.";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, detail).into_response()
}

/// Answers a call to a path that is not there.
pub(super) async fn unknown_path() -> ApiError {
    ApiError::not_found("Not found.")
}

/// Answers a call with a method that the path does not have; axum adds `Allow`.
pub(super) async fn wrong_method(method: Method) -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("Method \"{method}\" not allowed."))
}
