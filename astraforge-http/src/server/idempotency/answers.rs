//! What those are told whose call is not carried out now.

use astraforge_core::idempotency::Answer;
use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};

use super::{
    super::{audit::About, error::ApiError},
    ABOUT, MOST_KEPT, REPLAYED,
};

/// After how many seconds it is worth to ask again for a call that is at work.
const ASK_AGAIN: u64 = 1;

/// The answer that was kept.
pub(super) fn replayed(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Body::from(answer.body)).into_response();
    response.headers_mut().clear();
    for (name, value) in answer.headers {
        if name == ABOUT {
            response.extensions_mut().insert(About(String::from_utf8_lossy(&value).into_owned()));
            continue;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

/// Somebody is at the call.
pub(super) fn at_work() -> Response {
    let detail = "A call with this `Idempotency-Key` is still at work; ask again for its answer.";
    let refusal = ApiError::new(StatusCode::CONFLICT, detail).with_code("idempotency_call_at_work");
    ([(RETRY_AFTER, HeaderValue::from(ASK_AGAIN))], refusal).into_response()
}

/// There is no room for the call.
pub(super) fn full() -> Response {
    let detail = "Too many calls with an `Idempotency-Key` are at work here; try again.";
    let refusal = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_code("idempotency_no_room");
    ([(RETRY_AFTER, HeaderValue::from(ASK_AGAIN))], refusal).into_response()
}

/// The key is another call's.
pub(super) fn other_call() -> ApiError {
    let detail = "This `Idempotency-Key` was given to another call: method, path, query or body differ. Take a fresh key \
                  for each call.";
    ApiError::new(StatusCode::CONFLICT, detail).with_code("idempotency_key_reused")
}

/// There is no answer that could be given again.
pub(super) fn too_long() -> ApiError {
    let detail = format!(
        "The call with this `Idempotency-Key` was carried out, and is not carried out again. Its answer was longer than \
         the {MOST_KEPT} bytes that are kept; look at what it did."
    );
    ApiError::new(StatusCode::CONFLICT, detail).with_code("idempotency_answer_too_long")
}

/// Says of a body that is too large what to do about it.
pub(super) fn explained(refusal: ApiError, limit: usize) -> ApiError {
    if refusal.status() != StatusCode::PAYLOAD_TOO_LARGE {
        return refusal;
    }
    let detail = format!(
        "A call with an `Idempotency-Key` may bring {limit} bytes at most. A longer file can be written without a key: it \
         is written whole or not at all."
    );
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, detail).with_code("idempotency_body_too_long")
}

/// The key is none.
pub(super) fn malformed(detail: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, detail).with_code("idempotency_key_malformed")
}
