//! Why a call came to nothing, as its caller can act on it.

use std::{collections::BTreeMap, time::Duration};

use astraforge_core::ports::sessions::SessionError;
use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use serde_json::Value;

use crate::wire::sandbox::failure::SandboxFailure;

/// What a server says of a call that it has not begun: another one has the sandbox and is away, or there is no room for it.
const NOT_BEGUN: [&str; 2] = ["node_unreachable", "idempotency_no_room"];

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The program has no TLS implementation.
    #[error("no rustls crypto provider is installed; call `CryptoProvider::install_default` first, once, in `main`")]
    NoCryptoProvider,
    /// The server's address can't be used.
    #[error("`{text}` is no server address; expected one such as http://127.0.0.1:8001")]
    BaseUrl {
        /// The address.
        text: String,
    },
    /// The key fits in no header.
    #[error("the API key contains characters that no key has")]
    ApiKey,
    /// The server refused.
    #[error("the server answered {status}: {}", describe(.detail.as_deref(), .fields))]
    Refused {
        /// The status.
        status: StatusCode,
        /// Why, in a sentence.
        detail: Option<String>,
        /// The kind of what is wrong, where a program can act on it.
        code: Option<String>,
        /// What went wrong in a sandbox, in parts.
        failure: Option<Box<SandboxFailure>>,
        /// What is wrong with each field, by its path, such as `attachments.0.name`.
        fields: BTreeMap<String, Vec<String>>,
        /// After how long it asks for the call again, where it says so.
        retry_after: Option<Duration>,
        /// Whether the server gave the reason itself, and not what stands between client and server.
        is_its_own: bool,
    },
    /// The server could not be reached, or the connection broke.
    #[error("failed to {operation} the server")]
    Transport {
        /// What was tried.
        operation: &'static str,
        /// What came of it.
        #[source]
        source: reqwest::Error,
    },
    /// A body could not be written or read as JSON: client and server do not fit together.
    #[error("failed to {operation} a body; are client and server of the same version?")]
    Body {
        /// What was tried.
        operation: &'static str,
        /// What came of it.
        #[source]
        source: serde_json::Error,
    },
    /// A run log went silent, or could not be resumed for a while.
    #[error("the run log broke off after event {after} and could not be resumed")]
    LogBrokeOff {
        /// The last sequence number that was seen.
        after: u64,
        /// What came of the last attempt.
        #[source]
        source: Option<Box<ClientError>>,
    },
}

impl ClientError {
    /// The status of a refusal.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Why the server refused, in a sentence.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Refused { detail, .. } => detail.as_deref(),
            _ => None,
        }
    }

    /// The kind of what is wrong, where a program can act on it: `not_found`, `outside_roots`, `not_supported` and the like.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => code.as_deref(),
            _ => None,
        }
    }

    /// After how long the server asks for the call again, where it says so in seconds.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The error that the sandbox gave on the server, as whoever holds the sandbox there would see it. What is no error of
    /// a sandbox, such as a connection that broke, is the source of [`SessionError::Backend`].
    ///
    /// ```
    /// # use astraforge_core::ports::sessions::SessionError;
    /// # use astraforge_http::ClientError;
    /// # fn handle(error: ClientError) {
    /// if let SessionError::FileNotFound { path } = error.into_session_error() {
    ///     println!("nothing is at {path}");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn into_session_error(mut self) -> SessionError {
        let failure = match &mut self {
            Self::Refused { failure, .. } => failure.take(),
            _ => None,
        };
        match (failure, &self) {
            (Some(failure), _) => failure.into_error(self.into()),
            (None, Self::Refused { status, .. }) if *status == StatusCode::NOT_FOUND => SessionError::Lost,
            (None, Self::Transport { .. }) => {
                SessionError::Backend { operation: "reach its server", source: self.into() }
            }
            (None, _) => SessionError::Backend { operation: "do what was asked", source: self.into() },
        }
    }

    /// What the server says is wrong with a field.
    #[must_use]
    pub fn field(&self, path: &str) -> &[String] {
        match self {
            Self::Refused { fields, .. } => fields.get(path).map_or(&[], Vec::as_slice),
            _ => &[],
        }
    }

    /// Tells whether the same call may succeed when it is simply sent again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Transport { source, .. } => !source.is_builder(),
            Self::LogBrokeOff { .. } => true,
            Self::Refused { status, .. } => matches!(
                *status,
                StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
            ),
            _ => false,
        }
    }

    /// Tells whether a call that changes something may be sent again under its key: it was not answered, or not by the server
    /// itself, or the server says that it has begun nothing. Any other failure may come after the effect, and the server
    /// remembers none.
    pub(super) fn has_begun_nothing(&self) -> bool {
        let is_open = match self {
            Self::Refused { is_its_own: true, code, .. } => {
                code.as_deref().is_some_and(|code| NOT_BEGUN.contains(&code))
            }
            _ => true,
        };
        is_open && self.is_retryable()
    }

    pub(super) fn transport(operation: &'static str) -> impl Fn(reqwest::Error) -> Self + Send + use<> {
        move |source| Self::Transport { operation, source }
    }

    pub(super) fn encode(source: serde_json::Error) -> Self {
        Self::Body { operation: "write", source }
    }

    pub(super) fn decode(source: serde_json::Error) -> Self {
        Self::Body { operation: "read", source }
    }

    /// Reads a refusal. One that is no JSON came from something between client and server.
    pub(super) async fn refused(response: reqwest::Response) -> Self {
        let (status, retry_after) = (response.status(), seconds_of(response.headers()));
        let body = response.bytes().await.unwrap_or_default();
        Self::from_body(status, retry_after, &body)
    }

    pub(super) fn from_body(status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let mut is_its_own = false;
        let mut fields = BTreeMap::new();
        let (mut detail, mut code, mut failure) = (None, None, None);
        match serde_json::from_slice(body) {
            Ok(Value::Object(object)) => {
                for (name, value) in object {
                    match value {
                        Value::String(text) if name == "detail" => detail = Some(text),
                        Value::String(text) if name == "code" => code = Some(text),
                        // One of a later version is left to the sentence.
                        Value::Object(_) if name == "failure" => failure = serde_json::from_value(value).ok(),
                        value => flatten(name, value, &mut fields),
                    }
                }
                is_its_own = detail.is_some();
            }
            _ => {
                let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
                detail = Some(text).filter(|text| !text.trim().is_empty());
            }
        }
        Self::Refused { status, detail, code, failure, fields, retry_after, is_its_own }
    }
}

/// What `Retry-After` says; a date is left alone.
fn seconds_of(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// Collects the messages of nested fields under their paths.
fn flatten(path: String, value: Value, fields: &mut BTreeMap<String, Vec<String>>) {
    match value {
        Value::Object(object) => {
            object.into_iter().for_each(|(name, value)| flatten(format!("{path}.{name}"), value, fields));
        }
        Value::Array(messages) => {
            let texts = messages.iter().map(|m| m.as_str().map_or_else(|| m.to_string(), str::to_owned));
            fields.entry(path).or_default().extend(texts);
        }
        Value::String(text) => fields.entry(path).or_default().push(text),
        other => fields.entry(path).or_default().push(other.to_string()),
    }
}

fn describe(detail: Option<&str>, fields: &BTreeMap<String, Vec<String>>) -> String {
    let fields = fields.iter().map(|(path, messages)| format!("{path}: {}", messages.join(" ")));
    let parts: Vec<String> = detail.map(str::to_owned).into_iter().chain(fields).collect();
    if parts.is_empty() { "no reason given".to_owned() } else { parts.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, text: &str) {
        let error = ClientError::from_body(StatusCode::BAD_REQUEST, None, body.as_bytes());
        assert_eq!(error.to_string(), format!("the server answered 400 Bad Request: {text}"));
    }

    #[test]
    fn a_refusal_says_why() {
        check(r#"{"detail":"No."}"#, "No.");
        check(r#"{"prompt":["Blank."],"id":["Bad.","Worse."]}"#, "id: Bad. Worse.; prompt: Blank.");
        check(r#"{"attachments":{"0":{"name":["Blank."]}}}"#, "attachments.0.name: Blank.");
        check("<html>", "<html>");
        check("", "no reason given");
    }

    #[test]
    fn what_may_have_been_begun_is_not_sent_again() {
        let may_be_sent_again = |status: u16, retry_after: Option<u64>, body: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            ClientError::from_body(status, retry_after.map(Duration::from_secs), body.as_bytes()).has_begun_nothing()
        };
        let own = r#"{"detail":"The store failed to write."}"#;
        for status in [502, 503, 504] {
            assert!(!may_be_sent_again(status, None, own), "{status}");
            for of_a_proxy in ["", "<html>", "{}", r#"{"message":"no upstream"}"#] {
                assert!(may_be_sent_again(status, None, of_a_proxy), "{status} {of_a_proxy}");
            }
        }
        assert!(may_be_sent_again(503, None, r#"{"detail":"Away.","code":"node_unreachable"}"#));
        assert!(may_be_sent_again(503, Some(1), r#"{"detail":"No room.","code":"idempotency_no_room"}"#));
        assert!(!may_be_sent_again(503, Some(1), own));
        assert!(!may_be_sent_again(500, None, ""));
        assert!(!may_be_sent_again(409, Some(1), own));
    }

    #[test]
    fn a_time_to_come_again_is_read_in_seconds() {
        let read = |text: &str| seconds_of(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]));
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(read("-1"), None);
        assert_eq!(seconds_of(&HeaderMap::new()), None);
    }
}
