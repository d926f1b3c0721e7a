//! What calls about one sandbox have in common.

use std::sync::Arc;

use astraforge_core::{
    access::Caller,
    control_plane::ControlPlane,
    error::ForgeError,
    files::{FileReply, FileRequest, FileVerb, Roots},
    id::SandboxId,
    ports::machines::Machine,
    sandbox::Sandbox,
};
use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};

use super::super::{
    AppState,
    caller::Authenticated,
    error::ApiError,
    path::{PathId, segment},
};

/// The control plane of a server that has one.
pub(super) fn plane(state: &AppState) -> Result<&ControlPlane, ApiError> {
    let detail = "Sandboxes cannot be used on this server; its log says why.";
    state.sandboxes.as_ref().ok_or_else(|| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail))
}

/// A call about one sandbox: who calls, and about which.
pub(in crate::server) struct Session {
    pub(super) plane: ControlPlane,
    pub(super) caller: Caller,
    pub(super) id: SandboxId,
}

/// Its machine, and the folders in which the caller may use files.
pub(super) struct Workplace {
    pub(super) machine: Arc<dyn Machine>,
    pub(super) roots: Roots,
}

impl Session {
    /// How the sandbox stands.
    pub(super) async fn row(&self) -> Result<Sandbox, ApiError> {
        Ok(self.plane.get(&self.caller, self.id).await?)
    }

    /// Makes the sandbox ready.
    pub(super) async fn ready(&self) -> Result<Workplace, ApiError> {
        let roots = self.row().await?.spec.roots;
        match self.plane.machine(&self.caller, self.id).await {
            Ok(machine) => Ok(Workplace { machine, roots }),
            Err(error @ (ForgeError::Conflict { .. } | ForgeError::Artifact(_))) => {
                let detail = format!("Sandbox was not ready and auto-restore failed: {error}");
                Err(ApiError::new(StatusCode::BAD_REQUEST, detail).with_code("restore_failed"))
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Workplace {
    /// Carries out a file verb.
    pub(super) async fn file(&self, verb: FileVerb) -> Result<FileReply, ApiError> {
        Ok(self.machine.file(FileRequest { roots: self.roots.clone(), verb }).await?)
    }
}

impl FromRequestParts<AppState> for Session {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let Authenticated(caller) = Authenticated::from_request_parts(parts, state).await?;
        let id = PathId::parse(&segment(parts, state, "id").await)?;
        Ok(Self { plane: plane(state)?.clone(), caller, id })
    }
}

/// A path as the contract takes it: one that is not absolute is below `/workspace`.
pub(super) fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/workspace/{path}") }
}
