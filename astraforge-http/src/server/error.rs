//! Errors as answers: the one place where an error gets its status.

use astraforge_core::{
    error::{ForgeError, chain},
    files::FileErrorKind,
    id::{SandboxId, SnapshotId},
    ports::{git::GitError, identity_provider::TokenFault, sessions::SessionError, store::StoreError},
    registry::RegistryError,
};
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::WWW_AUTHENTICATE},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use tracing::error;

use super::path::Named as _;
use crate::wire::sandbox::failure::SandboxFailure;

/// A refusal: a status and a JSON body, `{"detail": …}` or `{"field": ["…"]}`.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    status: StatusCode,
    body: Value,
    /// What is wrong with the caller's token, where that is why.
    token_fault: Option<TokenFault>,
}

impl ApiError {
    /// A refusal in a sentence.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, body: json!({ "detail": detail.into() }), token_fault: None }
    }

    /// There is no such thing.
    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// The same refusal, with the kind of what is wrong for programs to act on.
    pub(super) fn with_code(mut self, code: impl Into<String>) -> Self {
        self.body["code"] = Value::String(code.into());
        self
    }

    /// Its status.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// The same refusal, with what went wrong in a sandbox: its kind, and its parts.
    pub(super) fn with_failure(self, error: &SessionError) -> Self {
        let mut refusal = code_of(error).into_iter().fold(self, Self::with_code);
        if let Some(failure) = SandboxFailure::of(error) {
            refusal.body["failure"] = json!(failure);
        }
        refusal
    }

    /// The same refusal with another status.
    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The caller is not known.
    pub(super) fn unauthorized(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    /// The caller's token proves nothing.
    pub(super) fn invalid_token(fault: TokenFault) -> Self {
        Self { token_fault: Some(fault), ..Self::new(StatusCode::UNAUTHORIZED, format!("The token {fault}.")) }
    }

    /// Fields that cannot be taken, each with what is wrong with it.
    pub(super) fn fields(errors: Map<String, Value>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, body: Value::Object(errors), token_fault: None }
    }

    /// One field that cannot be taken.
    pub(super) fn field(name: &str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, body: json!({ name: [message.into()] }), token_fault: None }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge(self.token_fault));
        }
        response
    }
}

/// How callers show who they are, and what is wrong with how they did (RFC 6750).
fn challenge(fault: Option<TokenFault>) -> HeaderValue {
    const SCHEME: &str = "Bearer realm=\"astraforge\"";
    let told = fault.map(|fault| format!("{SCHEME}, error=\"invalid_token\", error_description=\"the token {fault}\""));
    let told = told.and_then(|told| HeaderValue::try_from(told).ok());
    told.unwrap_or_else(|| HeaderValue::from_static(SCHEME))
}

impl From<ForgeError> for ApiError {
    fn from(error: ForgeError) -> Self {
        if let ForgeError::Invalid { field, message } = error {
            return Self::field(field, message);
        }
        let status = status_of(&error);
        if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
            error!(error = chain(&error), "a call failed");
        }
        match &error {
            ForgeError::NotRestored { reason, .. } => {
                let detail = format!("Sandbox was not ready and auto-restore failed: {reason}");
                Self::new(status, detail).with_code("restore_failed")
            }
            ForgeError::NoSandbox { id } => Self::new(status, SandboxId::not_found(&id.to_string())),
            ForgeError::NoSnapshot { id } => Self::new(status, SnapshotId::not_found(&id.to_string())),
            ForgeError::Session(session) => Self::new(status, error.to_string()).with_failure(session),
            _ => Self::new(status, error.to_string()),
        }
    }
}

impl From<SessionError> for ApiError {
    fn from(error: SessionError) -> Self {
        ForgeError::from(error).into()
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        ForgeError::from(error).into()
    }
}

/// The status of each error.
fn status_of(error: &ForgeError) -> StatusCode {
    match error {
        ForgeError::NotFound { .. }
        | ForgeError::NoSandbox { .. }
        | ForgeError::NoSnapshot { .. }
        | ForgeError::Session(SessionError::NoSuchProcess { .. }) => StatusCode::NOT_FOUND,
        ForgeError::Invalid { .. }
        | ForgeError::NotRestored { .. }
        | ForgeError::Session(
            SessionError::Spawn { .. }
            | SessionError::FileNotFound { .. }
            | SessionError::TooLarge { .. }
            | SessionError::File { .. },
        ) => StatusCode::BAD_REQUEST,
        ForgeError::Forbidden(_) => StatusCode::FORBIDDEN,
        ForgeError::Elsewhere { .. } => StatusCode::MISDIRECTED_REQUEST,
        ForgeError::Conflict { .. }
        | ForgeError::Session(SessionError::AlreadyExists { .. } | SessionError::Lost)
        | ForgeError::Registry(RegistryError::Unknown { .. })
        | ForgeError::Store(
            StoreError::Conflict { .. } | StoreError::JobMoved { .. } | StoreError::AlreadyExists { .. },
        )
        | ForgeError::Git(
            GitError::NoRepository { .. }
            | GitError::NoBranch { .. }
            | GitError::Empty { .. }
            | GitError::Diverged { .. }
            | GitError::Refused { .. },
        ) => StatusCode::CONFLICT,
        ForgeError::Session(SessionError::Unsupported { .. }) => StatusCode::NOT_IMPLEMENTED,
        ForgeError::Run(_) | ForgeError::Git(_) | ForgeError::Session(_) => StatusCode::BAD_GATEWAY,
        ForgeError::Store(_) | ForgeError::Artifact(_) | ForgeError::Layer(_) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The kind of what went wrong in a sandbox, where a program can act on it.
pub(super) fn code_of(error: &SessionError) -> Option<String> {
    let code = match error {
        SessionError::File { kind, .. } => return name_of(*kind),
        SessionError::FileNotFound { .. } => return name_of(FileErrorKind::NotFound),
        SessionError::TooLarge { .. } => return name_of(FileErrorKind::TooLarge),
        SessionError::Unsupported { .. } => "not_supported",
        SessionError::Spawn { .. } => "not_started",
        SessionError::NoSuchProcess { .. } => "no_such_process",
        SessionError::Lost => "lost",
        _ => return None,
    };
    Some(code.to_owned())
}

fn name_of(kind: FileErrorKind) -> Option<String> {
    serde_json::to_value(kind).ok()?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use astraforge_core::{
        access::{Action, Forbidden, Role},
        id::{NodeId, RequestId, SandboxId},
        run::{FailureCause, RunFailure},
    };

    use super::*;

    #[track_caller]
    fn check(error: impl Into<ForgeError>, status: u16, body: &Value) {
        let error = ApiError::from(error.into());
        assert_eq!((error.status.as_u16(), &error.body), (status, body));
    }

    #[test]
    fn each_error_has_its_status() {
        check(ForgeError::not_found("Run"), 404, &json!({"detail": "Run not found"}));
        let invalid = ForgeError::Invalid { field: "prompt", message: "No.".into() };
        check(invalid, 400, &json!({"prompt": ["No."]}));
        let elsewhere = ForgeError::Elsewhere { sandbox: SandboxId::random(), node: NodeId::random() };
        let text = elsewhere.to_string();
        check(elsewhere, 421, &json!({ "detail": text }));
        check(ForgeError::conflict("busy"), 409, &json!({"detail": "busy"}));
        let forbidden = Forbidden::Role { role: Role::Observer, action: Action::Submit };
        check(forbidden, 403, &json!({"detail": forbidden.to_string()}));
        let id = RequestId::random();
        let conflict = StoreError::Conflict { id };
        let text = conflict.to_string();
        check(conflict, 409, &json!({ "detail": text }));
        let failure = RunFailure::new(FailureCause::Model, "the model refused");
        check(failure, 502, &json!({"detail": "the model refused"}));
    }

    #[test]
    fn what_caused_a_failure_of_ours_is_not_told() {
        let backend = StoreError::Backend { operation: "read", source: "password=hunter2".into() };
        check(backend, 503, &json!({"detail": "the store failed to read"}));
        let layer = ForgeError::Layer("internal address".into());
        check(layer, 503, &json!({"detail": "the command was stopped by a layer around it"}));
    }
}
