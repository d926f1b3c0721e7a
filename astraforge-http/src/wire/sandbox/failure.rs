//! What went wrong in a sandbox, in parts: enough for a client to make the very same error of it.

use astraforge_core::{BoxError, files::FileErrorKind, id::SandboxId, ports::sessions::SessionError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong in a sandbox. Which fields there are depends on `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "error", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SandboxFailure {
    /// A live sandbox has that id already.
    AlreadyExists {
        /// The id asked for.
        #[schema(value_type = uuid::Uuid)]
        id: SandboxId,
    },
    /// It cannot be done here.
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why it cannot be had, and what to do about it.
        reason: String,
    },
    /// The program could not be started.
    Spawn {
        /// The program asked for.
        program: String,
        /// What the kernel said.
        reason: String,
    },
    /// There is no such file.
    FileNotFound {
        /// The path asked for.
        path: String,
    },
    /// The file is larger than the caller wants to hold.
    TooLarge {
        /// The path asked for.
        path: String,
        /// The caller's limit.
        max_bytes: u64,
    },
    /// A file could not be read or written.
    File {
        /// What was tried.
        #[schema(example = "write")]
        operation: String,
        /// The path asked for.
        path: String,
        /// What a caller can act on.
        #[schema(value_type = String, example = "outside_roots")]
        kind: FileErrorKind,
        /// What the kernel said.
        reason: String,
    },
    /// No process of the sandbox has that name.
    NoSuchProcess {
        /// The name asked for.
        name: String,
    },
    /// The sandbox or the connection to it is gone.
    Lost,
    /// What makes sandboxes failed; the server's log says why.
    Backend {
        /// What was tried.
        operation: String,
    },
}

impl SandboxFailure {
    /// The parts of an error that callers may know: what caused a failure of the server's own is not among them.
    #[must_use]
    pub fn of(error: &SessionError) -> Option<Self> {
        Some(match error {
            SessionError::AlreadyExists { id } => Self::AlreadyExists { id: *id },
            SessionError::Unsupported { what, reason } => {
                Self::Unsupported { what: what.clone(), reason: reason.clone() }
            }
            SessionError::Spawn { program, reason } => Self::Spawn { program: program.clone(), reason: reason.clone() },
            SessionError::FileNotFound { path } => Self::FileNotFound { path: path.clone() },
            SessionError::TooLarge { path, max_bytes } => Self::TooLarge { path: path.clone(), max_bytes: *max_bytes },
            SessionError::File { operation, path, kind, reason } => Self::File {
                operation: (*operation).to_owned(),
                path: path.clone(),
                kind: *kind,
                reason: reason.clone(),
            },
            SessionError::NoSuchProcess { name } => Self::NoSuchProcess { name: name.to_string() },
            SessionError::Lost => Self::Lost,
            SessionError::Backend { operation, .. } => Self::Backend { operation: (*operation).to_owned() },
            _ => return None,
        })
    }

    /// The error that these are the parts of. `source` is how it came here, for failures of the server's own.
    #[must_use]
    pub fn into_error(self, source: BoxError) -> SessionError {
        match self {
            Self::AlreadyExists { id } => SessionError::AlreadyExists { id },
            Self::Unsupported { what, reason } => SessionError::Unsupported { what, reason },
            Self::Spawn { program, reason } => SessionError::Spawn { program, reason },
            Self::FileNotFound { path } => SessionError::FileNotFound { path },
            Self::TooLarge { path, max_bytes } => SessionError::TooLarge { path, max_bytes },
            Self::File { operation, path, kind, reason } => {
                SessionError::File { operation: known_operation(&operation), path, kind, reason }
            }
            Self::NoSuchProcess { name } => match name.parse() {
                Ok(name) => SessionError::NoSuchProcess { name },
                Err(_) => SessionError::Backend { operation: "find a process", source },
            },
            Self::Lost => SessionError::Lost,
            Self::Backend { operation } => SessionError::Backend { operation: known_operation(&operation), source },
        }
    }
}

/// The word for what was tried, as this version knows it.
fn known_operation(name: &str) -> &'static str {
    const KNOWN: [&str; 26] = [
        "read",
        "write",
        "edit",
        "list",
        "describe",
        "search",
        "make",
        "move",
        "remove",
        "use",
        "watch",
        "pack",
        "restore",
        "compare",
        "measure",
        "unpack",
        "create",
        "clear away",
        "prepare",
        "reach the guest",
        "understand the guest",
        "hear from a program",
        "start a program",
        "read the archive",
        "read the body",
        "verify",
    ];
    KNOWN.into_iter().find(|known| *known == name).unwrap_or("do what was asked")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came of an error after it went over the wire.
    fn carried(error: &SessionError) -> SessionError {
        let json = serde_json::to_string(&SandboxFailure::of(error).unwrap()).unwrap();
        serde_json::from_str::<SandboxFailure>(&json).unwrap().into_error("the server said so".into())
    }

    #[test]
    fn every_error_of_a_session_comes_back_as_itself() {
        let text = || "x y".to_owned();
        let file = |kind| SessionError::File { operation: "write", path: text(), kind, reason: text() };
        let kinds =
            [FileErrorKind::NotFound, FileErrorKind::OutsideRoots, FileErrorKind::TooLarge, FileErrorKind::Other];
        let errors = [
            SessionError::AlreadyExists { id: SandboxId::random() },
            SessionError::Unsupported { what: text(), reason: text() },
            SessionError::Spawn { program: text(), reason: text() },
            SessionError::FileNotFound { path: text() },
            SessionError::TooLarge { path: text(), max_bytes: 7 },
            SessionError::NoSuchProcess { name: "7".parse().unwrap() },
            SessionError::NoSuchProcess { name: "web.1".parse().unwrap() },
            SessionError::Lost,
        ];
        for error in errors.into_iter().chain(kinds.map(file)) {
            assert_eq!(format!("{:?}", carried(&error)), format!("{error:?}"));
        }
        let backend = SessionError::Backend { operation: "reach the guest", source: "password=hunter2".into() };
        let told = format!("{:?}", carried(&backend));
        assert!(told.contains("reach the guest") && told.contains("the server said so"), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }

    #[test]
    fn what_another_version_tries_has_a_word_too() {
        let odd = SandboxFailure::Backend { operation: "fly".to_owned() };
        assert_eq!(odd.into_error("x".into()).to_string(), "the sandbox driver failed to do what was asked");
    }
}
