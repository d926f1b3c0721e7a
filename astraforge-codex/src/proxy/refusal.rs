//! How the proxy says no: an error object as OpenAI writes it, with a status by which Codex does the right thing.
//!
//! Codex tries again after 401, 402, 403, 404, 408, 409, 413, 422 and all of 5xx; only 400 (and some kinds of 429) end
//! its turn at once and show the text. So a final no is a 400 here, whatever plain HTTP would call it; 502 and 503
//! remain for what may work in a moment, and 401 for servers that want to be taken for one of their own.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};

use super::ProxyBody;

/// A no, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refusal {
    /// A no that trying again does not change.
    pub(crate) fn last_word(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, message: message.into() }
    }

    /// A no that may be a yes in a moment.
    pub(crate) fn for_now(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// A no to a server, which knows what 401 means and passes it on to no Codex.
    pub(crate) fn unauthorized(code: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, code, message: message.into() }
    }

    pub(crate) fn into_response(self) -> Response<ProxyBody> {
        let kind = if self.status.is_server_error() { "server_error" } else { "invalid_request_error" };
        let error = serde_json::json!({"message": self.message, "type": kind, "code": self.code, "param": null});
        let mut response = json(self.status, &serde_json::json!({ "error": error }));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An answer with a JSON body.
pub(crate) fn json(status: StatusCode, body: &serde_json::Value) -> Response<ProxyBody> {
    let mut response = Response::new(whole(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A body that is there at once.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> ProxyBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}
