//! The port for isolated machines that run commands and hold files.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};

use crate::{
    BoxError,
    files::FileErrorKind,
    id::SandboxId,
    ports::guest_service::ServiceBinding,
    process::ProcessName,
    session::{Command, ExecEvent, ExecOutput, PtySize, SandboxSpec, Signal},
};

/// Makes and finds sandboxes. Runners and agents see only this; drivers stand behind it.
///
/// # Contract
/// - The caller chooses the id before `create`, so a dropped future or a crash orphans nothing.
/// - `destroy` is idempotent: an unknown id is `Ok(())`.
/// - What cannot be given is refused with [`SessionError::Unsupported`]; nothing weaker runs in its place.
#[async_trait]
pub trait Sessions: fmt::Debug + Send + Sync + 'static {
    /// Makes sandbox `id` and returns once it can run commands.
    ///
    /// # Errors
    /// [`SessionError::AlreadyExists`], [`SessionError::Unsupported`], or [`SessionError::Backend`].
    async fn create(
        &self,
        id: SandboxId,
        spec: SandboxSpec,
        services: Vec<ServiceBinding>,
    ) -> Result<Arc<dyn Session>, SessionError>;

    /// Removes sandbox `id` and everything it owns, processes first.
    async fn destroy(&self, id: SandboxId) -> Result<(), SessionError>;

    /// Lists the sandboxes that exist, those that an earlier server left included.
    async fn list(&self) -> Result<Vec<SandboxId>, SessionError>;
}

/// One live sandbox; clones of the handle share it.
#[async_trait]
pub trait Session: fmt::Debug + Send + Sync + 'static {
    /// Returns the sandbox's id.
    fn id(&self) -> SandboxId;

    /// Starts a command.
    ///
    /// # Cancel safety
    /// Dropping the returned [`Execution`] kills the command's whole process tree.
    async fn exec(&self, command: Command) -> Result<Execution, SessionError>;

    /// Reads a file of at most `max_bytes` bytes.
    ///
    /// # Errors
    /// [`SessionError::FileNotFound`], [`SessionError::TooLarge`], or [`SessionError::File`].
    async fn read_file(&self, path: &str, max_bytes: u64) -> Result<Bytes, SessionError>;

    /// Writes a file whole or not at all, making the folders above it.
    async fn write_file(&self, path: &str, contents: Bytes, mode: u32) -> Result<(), SessionError>;
}

/// A running command.
pub struct Execution {
    /// What it does, in order; [`ExecEvent::Exited`] is last. Reading slowly slows the command down.
    pub events: BoxStream<'static, Result<ExecEvent, SessionError>>,
    /// Sends it signals, from anywhere.
    pub control: Arc<dyn ExecControl>,
}

impl Execution {
    /// Reads to the end, keeping at most `max_bytes` of each stream.
    ///
    /// # Errors
    /// Those of the session; [`SessionError::Lost`] when the sandbox goes away first.
    pub async fn collect(mut self, max_bytes: usize) -> Result<ExecOutput, SessionError> {
        let (mut stdout, mut stderr, mut truncated) = (Vec::new(), Vec::new(), false);
        while let Some(event) = self.events.next().await {
            let (buffer, bytes) = match event? {
                ExecEvent::Stdout(bytes) => (&mut stdout, bytes),
                ExecEvent::Stderr(bytes) => (&mut stderr, bytes),
                ExecEvent::Lost(_) => {
                    truncated = true;
                    continue;
                }
                ExecEvent::Exited(exit) => return Ok(ExecOutput { stdout, stderr, exit, truncated }),
            };
            let room = max_bytes.saturating_sub(buffer.len());
            truncated |= bytes.len() > room;
            buffer.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        Err(SessionError::Lost)
    }
}

impl fmt::Debug for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution").finish_non_exhaustive()
    }
}

/// Steers a running command.
#[async_trait]
pub trait ExecControl: Send + Sync {
    /// Sends a signal to the command; one that has ended already is `Ok(())`.
    async fn signal(&self, signal: Signal) -> Result<(), SessionError>;

    /// Writes to the standard input of a command that was started with it open; waits while the command reads slowly.
    ///
    /// # Errors
    /// [`SessionError::Unsupported`] when it was not left open.
    async fn write_stdin(&self, bytes: Bytes) -> Result<(), SessionError>;

    /// Ends standard input.
    async fn close_stdin(&self) -> Result<(), SessionError>;

    /// Changes the size of the command's terminal; without one it is `Ok(())`.
    async fn resize(&self, size: PtySize) -> Result<(), SessionError>;
}

/// Why a session could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// A live sandbox has that id already.
    #[error("sandbox `{id}` already exists")]
    AlreadyExists {
        /// The id asked for.
        id: SandboxId,
    },
    /// This machine or driver cannot do it; the text says what would change that.
    #[error("{what} is not supported by this sandbox driver: {reason}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why it cannot be had, and what to do about it.
        reason: String,
    },
    /// The program could not be started.
    #[error("cannot start `{program}`: {reason}")]
    Spawn {
        /// The program asked for.
        program: String,
        /// What the kernel said.
        reason: String,
    },
    /// There is no such file.
    #[error("no such file in the sandbox: `{path}`")]
    FileNotFound {
        /// The path asked for.
        path: String,
    },
    /// The file is larger than the caller wants to hold.
    #[error("`{path}` is larger than {max_bytes} bytes")]
    TooLarge {
        /// The path asked for.
        path: String,
        /// The caller's limit.
        max_bytes: u64,
    },
    /// A file could not be read or written.
    #[error("cannot {operation} `{path}`: {reason}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// The path asked for.
        path: String,
        /// What a caller can act on.
        kind: FileErrorKind,
        /// What the kernel said.
        reason: String,
    },
    /// No process of the sandbox has that name.
    #[error("no process `{name}` in this sandbox")]
    NoSuchProcess {
        /// The name asked for.
        name: ProcessName,
    },
    /// The sandbox or the connection to it is gone.
    #[error("the sandbox is gone")]
    Lost,
    /// The driver failed.
    #[error("the sandbox driver failed to {operation}")]
    Backend {
        /// What was tried.
        operation: &'static str,
        /// The driver's own error.
        #[source]
        source: BoxError,
    },
}
