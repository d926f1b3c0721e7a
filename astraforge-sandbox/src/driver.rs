//! The port of a sandbox backend.

use std::{fmt, sync::Arc};

use astraforge_core::{
    BoxError,
    id::SandboxId,
    ports::{
        guest_service::GuestStream,
        machines::{Usage, WorkspaceOrigin},
    },
    session::SandboxSpec,
};
use async_trait::async_trait;

use crate::plain::PlainExec;

/// Runs sandboxes on one backend.
///
/// # Contract
/// For driver authors, and minimal: callers use [`Sandboxes`](crate::sandboxes::Sandboxes), which writes exec, files and
/// services once for every driver, above [`connect`](Self::connect).
/// - The caller chooses the id *before* `create`, so a dropped future or a crash orphans nothing.
/// - `destroy` is idempotent: an unknown id is `Ok(())`.
/// - `list` finds what an earlier server left, so that it can be adopted or removed.
/// - Egress is not the driver's: the way out is a service like any other, which the caller hands over as a port.
/// - A sandbox on a disk workspace that died by itself leaves that workspace where the driver can keep it; the next
///   `create` of its id takes it over. `destroy` removes it.
/// - What a driver can't do is [`DriverError::Unsupported`], never a silent no-op.
#[async_trait]
pub trait SandboxDriver: fmt::Debug + Send + Sync + 'static {
    /// The driver's name, as configuration and the wire spell it: `native`, `docker`, `k8s`.
    fn name(&self) -> &'static str;

    /// What this backend can do; constant for the driver's life.
    fn capabilities(&self) -> Capabilities;

    /// Creates sandbox `id` and returns once its guest answers, with where its workspace comes from.
    ///
    /// `service_ports` are the ports on the in-guest address `127.0.0.2` that the guest forwards to its host.
    ///
    /// # Errors
    /// [`DriverError::AlreadyExists`], [`DriverError::Unsupported`], or [`DriverError::Backend`].
    async fn create(
        &self,
        id: SandboxId,
        spec: &SandboxSpec,
        service_ports: &[u16],
    ) -> Result<WorkspaceOrigin, DriverError>;

    /// Opens one more byte stream to the guest of `id`.
    async fn connect(&self, id: SandboxId) -> Result<GuestStream, DriverError>;

    /// Starts programs without a guest; only for a driver that says [`Access::PlainExec`], which need not `connect`.
    fn plain_exec(&self) -> Option<&dyn PlainExec> {
        None
    }

    /// Returns what sandbox `id` uses, as far as the backend can tell from outside; the rest is asked of the guest.
    async fn usage(&self, id: SandboxId) -> Result<Usage, DriverError>;

    /// Counts the processes of sandbox `id` that the kernel killed because the sandbox's memory was used up. It is asked
    /// around every command, so it has to be cheap; `None` where it cannot be told.
    async fn oom_kills(&self, _id: SandboxId) -> Option<u64> {
        None
    }

    /// Lists the sandboxes of this backend that live.
    async fn list(&self) -> Result<Vec<SandboxId>, DriverError>;

    /// Lists the sandboxes that died by themselves and left a workspace, which `create` would take over and `destroy`
    /// removes. Those that live are not among them.
    async fn left(&self) -> Result<Vec<SandboxId>, DriverError> {
        Ok(Vec::new())
    }

    /// Removes sandbox `id` and everything it owns; when it returns, no process of the sandbox is left.
    async fn destroy(&self, id: SandboxId) -> Result<(), DriverError>;
}

/// A driver chosen by configuration.
pub type DynSandboxDriver = Arc<dyn SandboxDriver>;

/// How strongly a driver separates a sandbox from its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub enum IsolationTier {
    /// None at all: its sandboxes are processes of the host like any other.
    None,
    /// Namespaces, read-only root, Landlock, seccomp, no capabilities.
    T1,
    /// What the container engine gives: namespaces, read-only root, its seccomp filter, no capabilities.
    Container,
    /// A kernel of its own, or one in user space: Kata, gVisor.
    Kernel,
}

/// Whether and how a limit holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// The kernel enforces it.
    Hard,
    /// It is measured and told, not enforced.
    Soft,
    /// It cannot be enforced here.
    None,
}

/// What a driver can do on this machine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// How strongly sandboxes are separated from the host.
    pub tier: IsolationTier,
    /// The limit on memory.
    pub memory: Enforcement,
    /// The limit on the number of processes.
    pub processes: Enforcement,
    /// The limit on processor time.
    pub cpu: Enforcement,
    /// The limit on a workspace on disk; one in memory is always limited.
    pub disk: Enforcement,
    /// That sandboxes reach nothing over the network but what they are given.
    pub network: Enforcement,
    /// How commands and files are reached.
    pub access: Access,
}

/// How a driver reaches the inside of its sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Through the guest daemon: everything.
    Guest,
    /// By starting programs in it, one at a time: no services, no egress, no background processes, no watching.
    PlainExec,
}

impl Capabilities {
    /// The capabilities of a driver that isolates at `tier` and enforces no limit.
    #[must_use]
    pub const fn new(tier: IsolationTier) -> Self {
        Self {
            tier,
            memory: Enforcement::None,
            processes: Enforcement::None,
            cpu: Enforcement::None,
            disk: Enforcement::None,
            network: Enforcement::None,
            access: Access::Guest,
        }
    }
}

/// Why a driver call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// No live sandbox has that id.
    #[error("sandbox `{id}` not found")]
    NotFound {
        /// The id asked for.
        id: SandboxId,
    },
    /// A live sandbox has that id already.
    #[error("sandbox `{id}` already exists")]
    AlreadyExists {
        /// The id asked for.
        id: SandboxId,
    },
    /// The backend cannot do this at all, on this machine; `reason` says what would change that.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why it can't be had, and what to do about it.
        reason: String,
    },
    /// The backend refused or broke. Its own error is `source`, so the message does not repeat it.
    #[error("failed to {operation} sandbox `{id}`")]
    Backend {
        /// What was tried.
        operation: &'static str,
        /// The sandbox it was tried on.
        id: SandboxId,
        /// The backend's own error.
        #[source]
        source: BoxError,
    },
}

/// How much of a memory limit one file system in memory may take: files count as memory, and a sandbox whose files took
/// all of it could only be killed.
#[cfg(any(feature = "native", feature = "docker", feature = "k8s"))]
pub(crate) fn room_for_files(memory: astraforge_core::session::ByteSize) -> u64 {
    memory.as_bytes() - memory.as_bytes() / 8
}
