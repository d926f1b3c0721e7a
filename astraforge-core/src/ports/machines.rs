//! The port of a control plane to its sandboxes: all that can be done with one, from its making to its end.
//!
//! Runners and agents need less; theirs is [`sessions`](crate::ports::sessions).

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream::BoxStream};
use serde::{Deserialize, Serialize};

use crate::{
    archive::{ArchiveSummary, CompareRequest, Comparison, PackRequest, UnpackRequest},
    egress::{Egress, EgressEvent},
    files::{DownloadRequest, FileEvent, FileReply, FileRequest, UploadRequest, WatchRequest},
    id::SandboxId,
    ports::sessions::{Execution, Session, SessionError},
    process::{Process, ProcessName, ProcessTag},
    session::{ByteSize, Command, SandboxSpec, Signal},
};

/// Bytes as they come. An error is the last item.
pub type ByteStream = BoxStream<'static, Result<Bytes, SessionError>>;

/// Reads the contents of the file at `path` to their end, when they are at most `max_bytes` bytes.
///
/// # Errors
/// [`SessionError::TooLarge`] as soon as there are more, or that of the stream.
pub async fn read_whole(mut contents: ByteStream, path: &str, max_bytes: u64) -> Result<Bytes, SessionError> {
    let mut whole = BytesMut::new();
    while let Some(bytes) = contents.next().await.transpose()? {
        if (whole.len() + bytes.len()) as u64 > max_bytes {
            return Err(SessionError::TooLarge { path: path.to_owned(), max_bytes });
        }
        whole.extend_from_slice(&bytes);
    }
    Ok(whole.freeze())
}

/// Makes, finds and removes machines on one driver.
///
/// # Contract
/// - The caller chooses the id before `create`, so a dropped future or a crash orphans nothing.
/// - A sandbox that died by itself may leave its workspace; `create` of the same id takes it over and says so.
/// - `destroy` removes the workspace too. It is idempotent: an unknown id is `Ok(())`.
#[async_trait]
pub trait Machines: fmt::Debug + Send + Sync + 'static {
    /// Returns the driver's name, as `mode` and `PROVISIONER` spell it.
    fn mode(&self) -> &'static str;

    /// Makes sandbox `id`, or makes it again around the workspace that it left.
    ///
    /// # Errors
    /// [`SessionError::AlreadyExists`] when it lives, [`SessionError::Unsupported`], or [`SessionError::Backend`].
    async fn make(&self, id: SandboxId, spec: SandboxSpec) -> Result<Made, SessionError>;

    /// Returns the live sandbox `id`, whoever made it. What it may reach by way of this process is `egress` from now on,
    /// also where another was set before: connections that are no longer allowed are cut.
    ///
    /// # Errors
    /// [`SessionError::Lost`] when there is no such sandbox, [`SessionError::Unsupported`] when it has no way out and
    /// `egress` is not [`Egress::Off`].
    async fn find(&self, id: SandboxId, egress: Egress) -> Result<Arc<dyn Machine>, SessionError>;

    /// Returns the live sandbox `id` as it is, if this process is connected to it.
    fn known(&self, id: SandboxId) -> Option<Arc<dyn Machine>>;

    /// Returns which addresses sandbox `id` may reach by way of this process, if this process is connected to it.
    fn known_egress(&self, id: SandboxId) -> Option<Egress>;

    /// Removes sandbox `id` and everything it owns, its workspace included.
    async fn remove(&self, id: SandboxId) -> Result<(), SessionError>;

    /// Lists the sandboxes that live.
    async fn ids(&self) -> Result<Vec<SandboxId>, SessionError>;

    /// Lists the sandboxes that died by themselves and left a workspace; none of them lives.
    async fn left(&self) -> Result<Vec<SandboxId>, SessionError>;
}

/// A sandbox that was just made.
#[derive(Debug, Clone)]
pub struct Made {
    /// The sandbox.
    pub machine: Arc<dyn Machine>,
    /// Where its workspace comes from.
    pub workspace: WorkspaceOrigin,
}

/// Where the workspace of a new sandbox comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkspaceOrigin {
    /// It is new and empty.
    Fresh,
    /// An earlier sandbox of the same id left it.
    Kept,
}

/// One live sandbox, whole.
#[async_trait]
pub trait Machine: Session {
    /// Starts a command that goes on when nobody watches, until it ends or the sandbox does.
    ///
    /// # Errors
    /// [`SessionError::Spawn`], or [`SessionError::Lost`].
    async fn spawn(&self, command: Command, tag: Option<ProcessTag>) -> Result<Process, SessionError>;

    /// Lists the processes that were started with [`spawn`](Self::spawn), oldest first; the last of those that ended too.
    async fn processes(&self) -> Result<Vec<Process>, SessionError>;

    /// Follows a process from byte `from` of its output on, without loss: what is no longer kept is told as
    /// [`ExecEvent::Lost`](crate::session::ExecEvent::Lost). Dropping the execution leaves the process alone.
    ///
    /// # Errors
    /// [`SessionError::NoSuchProcess`].
    async fn attach(&self, process: ProcessName, from: u64) -> Result<Execution, SessionError>;

    /// Sends a signal to a process; one that has ended is `Ok(())`.
    ///
    /// # Errors
    /// [`SessionError::NoSuchProcess`].
    async fn signal(&self, process: ProcessName, signal: Signal) -> Result<(), SessionError>;

    /// Carries out a file verb.
    ///
    /// # Errors
    /// [`SessionError::File`] with its kind.
    async fn file(&self, request: FileRequest) -> Result<FileReply, SessionError>;

    /// Follows changes below a path. Dropping the stream ends the watch.
    async fn watch(
        &self,
        request: WatchRequest,
    ) -> Result<BoxStream<'static, Result<FileEvent, SessionError>>, SessionError>;

    /// Reads a file as a stream; reading slowly slows the sandbox down, and holds no memory.
    async fn download(&self, request: DownloadRequest) -> Result<ByteStream, SessionError>;

    /// Writes a file from a stream, whole or not at all; returns its size in bytes.
    ///
    /// # Cancel safety
    /// Dropping the future leaves what was there before.
    async fn upload(&self, request: UploadRequest, contents: ByteStream) -> Result<u64, SessionError>;

    /// Packs files into an archive. The stream ends in an error unless the archive is whole.
    async fn pack(&self, request: PackRequest) -> Result<ByteStream, SessionError>;

    /// Replaces files by an archive's. When it fails, the files are as they were before.
    async fn unpack(&self, request: UnpackRequest, archive: ByteStream) -> Result<ArchiveSummary, SessionError>;

    /// Compares an archive with the files as they are.
    async fn compare(&self, request: CompareRequest, archive: ByteStream) -> Result<Comparison, SessionError>;

    /// Returns what the sandbox uses and has used.
    async fn usage(&self) -> Result<Usage, SessionError>;

    /// Returns the last connections that the sandbox tried to make, oldest first.
    async fn egress_log(&self) -> Result<Vec<EgressEvent>, SessionError>;
}

/// What a sandbox uses and has used. What a driver cannot tell is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time of all processes, those that ended included.
    pub cpu: Option<Duration>,
    /// Memory now.
    pub memory: Option<ByteSize>,
    /// The most memory so far.
    pub memory_peak: Option<ByteSize>,
    /// Bytes of files in the workspace.
    pub disk: Option<ByteSize>,
    /// Processes now.
    pub processes: Option<u32>,
}

impl Usage {
    /// Tells whether everything is known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let Self { cpu, memory, memory_peak, disk, processes } = self;
        cpu.is_some() && memory.is_some() && memory_peak.is_some() && disk.is_some() && processes.is_some()
    }

    /// Takes from `other` what is not known here.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.or(other.cpu),
            memory: self.memory.or(other.memory),
            memory_peak: self.memory_peak.or(other.memory_peak),
            disk: self.disk.or(other.disk),
            processes: self.processes.or(other.processes),
        }
    }
}
