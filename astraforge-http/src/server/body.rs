//! Bodies: read within a limit, and refused in JSON.

use axum::{
    body::to_bytes,
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header::CONTENT_LENGTH, header::CONTENT_TYPE},
};
use serde_json::{Map, Value};

use super::{
    AppState,
    error::ApiError,
    fields::{Fields, FromFields},
};

/// A JSON body. An empty body reads as an object without fields.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: FromFields> FromRequest<AppState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let value = read_json(request, state.limits.body_bytes).await?;
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
        Ok(Self(read_json(request, state.limits.body_bytes).await))
    }
}

async fn read_json(request: Request, limit: usize) -> Result<Value, ApiError> {
    let (parts, body) = request.into_parts();
    let too_large = || {
        let detail = format!("The body is larger than the {limit} bytes that this server takes.");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    };
    if declared_length(&parts.headers).is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let bytes = to_bytes(body, limit).await.map_err(|error| {
        let cut =
            std::error::Error::source(&error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
        if cut { too_large() } else { ApiError::new(StatusCode::BAD_REQUEST, "The body broke off before its end.") }
    })?;
    if bytes.is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    check_content_type(&parts.headers)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, format!("JSON parse error - {error}")))
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
