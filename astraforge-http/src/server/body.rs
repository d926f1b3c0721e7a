//! Bodies: read within a limit, and refused in JSON.

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header::CONTENT_LENGTH, header::CONTENT_TYPE},
};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    AppState,
    error::ApiError,
    fields::{Fields, FromFields},
};

/// How long a body that is held in memory may take to come.
const PATIENCE: Duration = Duration::from_secs(120);

/// A JSON body. An empty body reads as an object without fields.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: FromFields> FromRequest<AppState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let value = read_value(request, state.limits.body_bytes).await?;
        Fields::read(value).map(JsonBody).map_err(ApiError::fields)
    }
}

/// A JSON body that is judged later, when something else has to be checked before it.
pub(super) struct LaterBody(Result<Value, ApiError>);

impl LaterBody {
    /// A field's text, before the body is judged; `None` when there is none.
    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.0.as_ref().ok()?.get(field)?.as_str()
    }

    /// Judges the body.
    pub(super) fn judge<T: FromFields>(self) -> Result<T, ApiError> {
        Fields::read(self.0?).map_err(ApiError::fields)
    }
}

impl FromRequest<AppState> for LaterBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        Ok(Self(read_value(request, state.limits.body_bytes).await))
    }
}

async fn read_value(request: Request, limit: usize) -> Result<Value, ApiError> {
    let (parts, body) = request.into_parts();
    if declared_length(&parts.headers).is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    value_of(&parts.headers, &read_bytes(body, limit).await?)
}

/// Reads a JSON body whose bytes are there.
pub(super) fn read_json<T: FromFields>(headers: &HeaderMap, bytes: &Bytes) -> Result<T, ApiError> {
    Fields::read(value_of(headers, bytes)?).map_err(ApiError::fields)
}

fn value_of(headers: &HeaderMap, bytes: &Bytes) -> Result<Value, ApiError> {
    if bytes.is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    check_content_type(headers)?;
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, format!("JSON parse error - {error}")))
}

/// Reads a body of at most `limit` bytes to its end.
pub(super) async fn read_bytes(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let broken = |detail: &str| ApiError::new(StatusCode::BAD_REQUEST, detail);
    let read = tokio::time::timeout(PATIENCE, to_bytes(body, limit)).await;
    let read = read.map_err(|_elapsed| broken("The body took too long to come; send it again."))?;
    read.map_err(|error| {
        let cut =
            std::error::Error::source(&error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
        if cut { too_large(limit) } else { broken("The body broke off before its end.") }
    })
}

fn too_large(limit: usize) -> ApiError {
    let detail = format!("The body is larger than the {limit} bytes that this server takes.");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let full = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = full.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let detail = format!("Unsupported media type \"{full}\" in request.");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
}
