//! What can go wrong with a command, as its caller can act on it.

use crate::{
    BoxError,
    access::Forbidden,
    id::{NodeId, SandboxId, SnapshotId},
    ports::{artifacts::ArtifactError, git::GitError, policy::PolicyError, sessions::SessionError, store::StoreError},
    registry::RegistryError,
    request::ForbiddenTransition,
    run::RunFailure,
};

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForgeError {
    /// There is no such thing, or it belongs to another tenant.
    #[error("{what} not found")]
    NotFound {
        /// What was looked for, with its id.
        what: String,
    },
    /// There is no such sandbox, it was deleted, or it belongs to another tenant.
    #[error("sandbox {id} not found")]
    NoSandbox {
        /// The sandbox.
        id: SandboxId,
    },
    /// There is no such snapshot, or it belongs to another tenant.
    #[error("snapshot {id} not found")]
    NoSnapshot {
        /// The snapshot.
        id: SnapshotId,
    },
    /// A value that cannot be taken.
    #[error("{field}: {message}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        message: String,
    },
    /// The caller's role does not allow it.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// It does not fit with how things stand now. Nothing was changed.
    #[error("{message}")]
    Conflict {
        /// What stands against it, and what to do.
        message: String,
    },
    /// The files of a sandbox that comes back cannot be brought back, so it stays down.
    #[error("the files of sandbox {sandbox} cannot be brought back")]
    NotRestored {
        /// The sandbox.
        sandbox: SandboxId,
        /// Why not.
        #[source]
        reason: Box<ForgeError>,
    },
    /// It is with another node.
    #[error("sandbox {sandbox} is on node {node}; use it through the server there")]
    Elsewhere {
        /// The sandbox.
        sandbox: SandboxId,
        /// The node that has its machine or its files.
        node: NodeId,
    },
    /// The agent could not do it.
    #[error(transparent)]
    Run(#[from] RunFailure),
    /// A repository or its host failed.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A provider is not there.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The policy is broken.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The artifact store failed.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A sandbox could not do it.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A layer around the command refused or broke.
    #[error("the command was stopped by a layer around it")]
    Layer(#[source] BoxError),
}

impl ForgeError {
    /// Something that is not there.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }

    /// Something that does not fit with how things stand.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::Conflict { message: message.into() }
    }

    /// Tells whether the same command may succeed when it is simply sent again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(StoreError::Conflict { .. } | StoreError::Backend { .. }) | Self::Layer(_) => true,
            // A newer server on the same store may be the next to try.
            Self::Store(StoreError::Unreadable { .. }) => true,
            Self::Git(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// Recovers the error of a use case from what its layers pass on.
    pub(crate) fn from_layers(error: BoxError) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => *error,
            Err(error) => Self::Layer(error),
        }
    }
}

impl From<ForbiddenTransition> for ForgeError {
    fn from(forbidden: ForbiddenTransition) -> Self {
        Self::conflict(forbidden.to_string())
    }
}

/// An error with all that caused it, in one line; a cause whose words stand there already is not said again.
///
/// ```
/// use astraforge_core::{error::chain, ports::store::StoreError};
///
/// let error = StoreError::Backend { operation: "read", source: "disk full".into() };
/// assert_eq!(chain(&error), "the store failed to read: disk full");
/// ```
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}
