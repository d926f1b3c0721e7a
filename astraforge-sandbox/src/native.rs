//! The native driver: Linux namespaces, Landlock and seccomp, without a daemon and without root.
//!
//! The server starts one launcher (`astraforge-guest launch`) for each sandbox. The launcher clones the sandbox's first
//! process into namespaces of its own; that process closes itself in, tests that it is closed, and becomes the guest
//! daemon. The launcher stays to clean up, whatever becomes of the server.

use std::{io, os::fd::AsRawFd, path::PathBuf, sync::Arc, time::Duration};

use astraforge_core::{
    id::SandboxId,
    ports::{
        guest_service::GuestStream,
        machines::{Usage, WorkspaceOrigin},
    },
    session::{ByteSize, SandboxSpec, Strictness, Workspace},
};
use async_trait::async_trait;
use rustix::fs::{CWD, Mode, OFlags};
use tokio::net::UnixStream;
use tokio_util::compat::TokioAsyncReadCompatExt;

#[cfg(feature = "attack")]
pub use self::host_view::NativeView;
use self::{
    cgroups::Controller,
    launch_spec::{Failure, WorkspacePlan},
    maker::{Maker, blocking},
    oom::OomCounters,
    pool::Pool,
    record::Folder,
    remedy::Machine,
};
use crate::driver::{Capabilities, DriverError, Enforcement, IsolationTier, SandboxDriver};

mod cgroups;
mod confine;
mod disk;
pub mod guest_binary;
#[cfg(feature = "attack")]
mod host_view;
mod images;
mod init;
mod launch_spec;
pub mod launcher;
mod maker;
mod mounts;
mod namespaces;
mod oom;
mod pool;
mod posture;
mod record;
pub(crate) mod remedy;
mod root_plan;
mod rootfs;
pub(crate) mod seccomp;
mod state_folder;
mod usage;

pub use self::images::unpacker;

/// Where the native driver keeps its sandboxes, and what they see of the host.
///
/// ```
/// use astraforge_sandbox::native::NativeConfig;
///
/// let config = NativeConfig::new("/var/lib/astraforge/sandboxes", "/usr/lib/astraforge/astraforge-guest")
///     .with_toolchain("/opt/node");
/// assert_eq!(config.toolchains.len(), 1);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NativeConfig {
    /// The folder of all sandboxes' folders; made if missing, for its owner alone. Nobody else may own or write it.
    pub state_dir: PathBuf,
    /// The guest program; see [`GuestBinary`](guest_binary::GuestBinary).
    pub guest: PathBuf,
    /// Folders of the host that every sandbox sees read-only at the same path, beside the system's own programs. The
    /// `bin` of each is put before the system's in `PATH`.
    pub toolchains: Vec<PathBuf>,
    /// Where images with a name are: `NAME` is the root folder, OCI layout or archive of that name in it, also with
    /// `.tar`, `.tar.gz` or `.tar.zst` after it. Then nothing outside of it can be asked for.
    ///
    /// Without it an image is any absolute path: whoever chooses the image chooses what of the host is shown, with the
    /// rights of this process where sandboxes have no user of their own. That is for programs that choose themselves.
    pub images: Option<PathBuf>,
    /// Where images are unpacked, for this and all drivers that name the same folder; `None` is `images` in the state
    /// folder.
    pub image_cache: Option<PathBuf>,
    /// The most that one image may hold once it is unpacked.
    pub max_image_size: ByteSize,
    /// How long an unpacked image stays that nobody asks for. Looked at when the driver is made.
    pub image_retention: Duration,
    /// How many sandboxes are kept ready for whoever asks for one like them; see
    /// [`prepare`](NativeDriver::prepare).
    pub pool_size: usize,
}

impl NativeConfig {
    /// A configuration with no toolchains, no names of images, and nothing kept ready.
    pub fn new(state_dir: impl Into<PathBuf>, guest: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            guest: guest.into(),
            toolchains: Vec::new(),
            images: None,
            image_cache: None,
            max_image_size: ByteSize::gib(16),
            image_retention: Duration::from_secs(14 * 24 * 3600),
            pool_size: 0,
        }
    }

    /// Shows one more folder of the host in every sandbox.
    #[must_use]
    pub fn with_toolchain(mut self, folder: impl Into<PathBuf>) -> Self {
        self.toolchains.push(folder.into());
        self
    }

    /// Sets where images with a name are.
    #[must_use]
    pub fn with_images(mut self, folder: impl Into<PathBuf>) -> Self {
        self.images = Some(folder.into());
        self
    }

    /// Sets where images are unpacked.
    #[must_use]
    pub fn with_image_cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.image_cache = Some(folder.into());
        self
    }

    /// Keeps `n_sandboxes` sandboxes ready.
    #[must_use]
    pub fn with_pool(mut self, n_sandboxes: usize) -> Self {
        self.pool_size = n_sandboxes;
        self
    }
}

/// Runs sandboxes as processes of this machine, each in namespaces of its own.
///
/// A best-effort limit on a workspace on disk is measured here and not enforced, so that it costs nothing; a required one
/// gives the workspace a file system of its own.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::{path::Path, sync::Arc};
/// use astraforge_core::{id::SandboxId, ports::sessions::Sessions, session::{Command, SandboxSpec}};
/// use astraforge_sandbox::{native::{NativeConfig, NativeDriver, guest_binary::GuestBinary}, sandboxes::Sandboxes};
///
/// let state = Path::new("/var/lib/astraforge/sandboxes");
/// let guest = GuestBinary::find(None, state)?;
/// let driver = NativeDriver::new(NativeConfig::new(state, guest.path()))?;
/// let sandboxes = Sandboxes::new(Arc::new(driver));
/// let session = sandboxes.create(SandboxId::random(), SandboxSpec::default(), Vec::new()).await?;
/// let output = session.exec(Command::new(["id", "-un"])).await?.collect(1024).await?;
/// assert_eq!(output.stdout, b"agent\n");
/// sandboxes.destroy(session.id()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct NativeDriver {
    maker: Arc<Maker>,
    pool: Pool,
    oom: OomCounters,
}

impl NativeDriver {
    /// Prepares the driver: finds out what this machine allows by making a sandbox, and removes what sandboxes of dead
    /// servers left, and images that nobody asked for lately.
    ///
    /// Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`DriverError::Unsupported`] when this machine does not allow sandboxes; the text says what would change that.
    pub fn new(config: NativeConfig) -> Result<Self, DriverError> {
        let retention = config.image_retention;
        let driver = Self::unprobed(config)?;
        driver.try_out().map_err(|failure| unsupported("native sandboxes", Machine::read().explain(&failure)))?;
        driver.sweep();
        if let Err(error) = driver.remove_images(retention) {
            tracing::warn!(%error, "cannot remove unused images");
        }
        Ok(driver)
    }

    /// Prepares the driver without making a sandbox.
    pub(crate) fn unprobed(config: NativeConfig) -> Result<Self, DriverError> {
        let pool_size = config.pool_size;
        let maker = Arc::new(Maker::new(config)?);
        Ok(Self { pool: Pool::new(Arc::clone(&maker), pool_size), maker, oom: OomCounters::default() })
    }

    /// Makes a sandbox that ends as soon as it has passed its self-test.
    pub(crate) fn try_out(&self) -> Result<(), Failure> {
        self.maker.try_out(WorkspacePlan::Memory(1 << 20))
    }

    /// Has the pool hold sandboxes like `spec`, and returns once it is full. What a sandbox's user may choose at the last
    /// moment does not count: its id, environment, services and orphan timeout.
    ///
    /// Without this call the pool holds sandboxes like those that are asked for.
    ///
    /// # Errors
    /// Those of [`create`](SandboxDriver::create).
    pub async fn prepare(&self, spec: &SandboxSpec) -> Result<(), DriverError> {
        let id = SandboxId::random();
        let design = self.design(id, spec, &[]).await?;
        self.pool.prepare(design.shape).await.map_err(|source| DriverError::Backend {
            operation: "prepare",
            id,
            source,
        })
    }

    /// Removes the unpacked images that no sandbox uses and that nobody asked for within `age`; returns how many. They
    /// are unpacked again when they are asked for.
    ///
    /// # Errors
    /// When the folder of unpacked images cannot be read or written.
    pub fn remove_images(&self, age: Duration) -> io::Result<usize> {
        self.maker.images.collect(age)
    }

    /// Removes what is left of sandboxes whose processes are gone, except for workspaces that are to be kept, and those
    /// that dead servers kept ready.
    fn sweep(&self) {
        let warn = |id, swept: io::Result<()>| {
            if let Err(error) = swept {
                tracing::warn!(sandbox.id = %id, %error, "cannot remove what a dead sandbox left");
            }
        };
        for id in self.maker.found().unwrap_or_default() {
            warn(id, self.folder(id).settle_if_dead().map(drop));
        }
        for id in self.maker.spares().unwrap_or_default() {
            warn(id, self.maker.spare_folder(id).remove_unless_ready());
        }
    }

    fn folder(&self, id: SandboxId) -> Folder {
        self.maker.folder(id)
    }

    async fn design(
        &self,
        id: SandboxId,
        spec: &SandboxSpec,
        service_ports: &[u16],
    ) -> Result<maker::Design, DriverError> {
        let slow = matches!(spec.workspace, Workspace::Disk { size } if size.strictness == Strictness::Required);
        if spec.image.is_none() && !slow {
            return self.maker.design(id, spec, service_ports);
        }
        let (maker, spec, ports) = (Arc::clone(&self.maker), spec.clone(), service_ports.to_vec());
        let designed = tokio::task::spawn_blocking(move || maker.design(id, &spec, &ports)).await;
        designed.unwrap_or_else(|error| Err(backend("prepare", id, io::Error::other(error))))
    }
}

#[async_trait]
impl SandboxDriver for NativeDriver {
    fn name(&self) -> &'static str {
        "native"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            network: Enforcement::Hard,
            memory: self.maker.cgroups.enforcement(Controller::Memory),
            processes: Enforcement::Hard,
            cpu: self.maker.cgroups.enforcement(Controller::Cpu),
            disk: if self.maker.limits_disk().is_ok() { Enforcement::Hard } else { Enforcement::Soft },
            ..Capabilities::new(IsolationTier::T1)
        }
    }

    async fn create(
        &self,
        id: SandboxId,
        spec: &SandboxSpec,
        service_ports: &[u16],
    ) -> Result<WorkspaceOrigin, DriverError> {
        let design = self.design(id, spec, service_ports).await?;
        match self.pool.take(&self.folder(id), &design).await {
            true => Ok(WorkspaceOrigin::Fresh),
            false => self.maker.make(id, design).await,
        }
    }

    async fn connect(&self, id: SandboxId) -> Result<GuestStream, DriverError> {
        match connect(&self.folder(id)).await {
            Ok(stream) => Ok(stream),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Err(DriverError::NotFound { id })
            }
            Err(error) => Err(backend("connect to", id, error)),
        }
    }

    async fn usage(&self, id: SandboxId) -> Result<Usage, DriverError> {
        let folder = self.folder(id);
        let read = blocking(move || Ok(usage::read(&folder))).await;
        read.map_err(|source| backend("measure", id, source))?.ok_or(DriverError::NotFound { id })
    }

    async fn oom_kills(&self, id: SandboxId) -> Option<u64> {
        self.oom.count(id, || self.folder(id))
    }

    async fn list(&self) -> Result<Vec<SandboxId>, DriverError> {
        let live = |found: Vec<SandboxId>| found.into_iter().filter(|id| self.folder(*id).is_live()).collect();
        self.maker.found().map(live).map_err(|error| unsupported("listing sandboxes", error.to_string()))
    }

    async fn left(&self) -> Result<Vec<SandboxId>, DriverError> {
        let is_left = |folder: Folder| folder.keeps_workspace() && !folder.is_live();
        let left = |found: Vec<SandboxId>| found.into_iter().filter(|id| is_left(self.folder(*id))).collect();
        self.maker.found().map(left).map_err(|error| unsupported("listing workspaces", error.to_string()))
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), DriverError> {
        self.oom.forget(id);
        let folder = self.folder(id);
        blocking(move || folder.destroy()).await.map_err(|source| backend("destroy", id, source))
    }
}

/// Opens a stream to the guest of the sandbox in `folder`.
async fn connect(folder: &Folder) -> io::Result<GuestStream> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, folder.path(), flags, Mode::empty())?;
    // A socket's path may have 108 bytes; through a descriptor the folder's own length does not count.
    let socket = format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), launcher::SOCKET);
    Ok(Box::pin(UnixStream::connect(socket).await?.compat()))
}

fn unsupported(what: &str, reason: impl Into<String>) -> DriverError {
    DriverError::Unsupported { what: what.to_owned(), reason: reason.into() }
}

fn backend(operation: &'static str, id: SandboxId, source: io::Error) -> DriverError {
    DriverError::Backend { operation, id, source: source.into() }
}
