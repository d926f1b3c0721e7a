//! The native driver: Linux namespaces, Landlock and seccomp, without a daemon and without root.
//!
//! The server starts one launcher (`astraforge-guest launch`) for each sandbox. The launcher clones the sandbox's first
//! process into namespaces of its own; that process closes itself in, tests that it is closed, and becomes the guest
//! daemon. The launcher stays to clean up, whatever becomes of the server.

use std::{
    io,
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use astraforge_core::{
    BoxError,
    id::SandboxId,
    ports::{
        guest_service::GuestStream,
        machines::{Usage, WorkspaceOrigin},
    },
    session::{ByteSize, Limit, ReadOnlyFolder, SandboxSpec, Strictness, Workspace},
};
use async_trait::async_trait;
use rustix::fs::{CWD, Mode, OFlags};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::{Child, Command},
};
use tokio_util::compat::TokioAsyncReadCompatExt;

use self::{
    cgroups::{Cgroups, Controller},
    launch_spec::{Failure, LaunchSpec, Payload, Report, WorkspacePlan},
    oom::OomCounters,
    record::{Folder, Lock},
    remedy::Machine,
    root_plan::RootPlan,
};
use crate::{
    driver::{Capabilities, DriverError, Enforcement, IsolationTier, SandboxDriver},
    guest::GuestConfig,
};

mod cgroups;
mod confine;
pub mod guest_binary;
mod init;
mod launch_spec;
pub mod launcher;
mod mounts;
mod namespaces;
mod oom;
mod posture;
mod record;
pub(crate) mod remedy;
mod root_plan;
mod rootfs;
pub(crate) mod seccomp;
mod state_folder;
mod usage;

/// How long a launcher may take. It takes milliseconds; only a broken machine comes near.
const LAUNCH: Duration = Duration::from_secs(30);

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
}

impl NativeConfig {
    /// A configuration with no toolchains.
    pub fn new(state_dir: impl Into<PathBuf>, guest: impl Into<PathBuf>) -> Self {
        Self { state_dir: state_dir.into(), guest: guest.into(), toolchains: Vec::new() }
    }

    /// Shows one more folder of the host in every sandbox.
    #[must_use]
    pub fn with_toolchain(mut self, folder: impl Into<PathBuf>) -> Self {
        self.toolchains.push(folder.into());
        self
    }
}

/// Runs sandboxes as processes of this machine, each in namespaces of its own.
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
    state_dir: PathBuf,
    guest: PathBuf,
    root: RootPlan,
    path: String,
    cgroups: Cgroups,
    ids: Ids,
    oom: OomCounters,
}

/// Which ids of the host stand behind the agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ids {
    /// One of its own for each sandbox.
    Private,
    /// This server's own, because only root may give others.
    Own,
}

impl Ids {
    /// Root gives private ids, unless it is the root of a container that has none to give: then it is an ordinary user
    /// of the host itself.
    fn here(is_root: bool, id_maps: &[String]) -> Self {
        let covers_private = |map: &String| {
            map.lines().any(|line| {
                let numbers: Vec<u64> = line.split_whitespace().filter_map(|it| it.parse().ok()).collect();
                let (first, end) = (u64::from(PRIVATE_IDS.start), u64::from(PRIVATE_IDS.end));
                matches!(numbers[..], [inside, _, n] if inside <= first && end <= inside + n)
            })
        };
        if is_root && id_maps.iter().all(covers_private) { Self::Private } else { Self::Own }
    }
}

impl NativeDriver {
    /// Prepares the driver: finds out what this machine allows by making a sandbox, and removes what sandboxes of dead
    /// servers left.
    ///
    /// Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`DriverError::Unsupported`] when this machine does not allow sandboxes; the text says what would change that.
    pub fn new(config: NativeConfig) -> Result<Self, DriverError> {
        let driver = Self::unprobed(config)?;
        driver.try_out().map_err(|failure| unsupported("native sandboxes", Machine::read().explain(&failure)))?;
        driver.sweep();
        Ok(driver)
    }

    /// Prepares the driver without making a sandbox.
    pub(crate) fn unprobed(config: NativeConfig) -> Result<Self, DriverError> {
        let state_dir = state_folder::make(&config.state_dir).map_err(|error| {
            unsupported(
                "native sandboxes",
                format!("the state folder {} cannot be used: {error}", config.state_dir.display()),
            )
        })?;
        let mut root = RootPlan::of_host(Path::new("/"));
        let mut path = String::new();
        for folder in &config.toolchains {
            if !folder.is_absolute() || !folder.is_dir() {
                let reason = format!("{} is not the absolute path of a folder that exists", folder.display());
                return Err(unsupported("that toolchain", reason));
            }
            root.show(folder, folder);
            path.push_str(&format!("{}:", folder.join("bin").display()));
        }
        path.push_str("/usr/local/bin:/usr/bin:/bin");
        let id_maps = ["uid_map", "gid_map"]
            .map(|it| std::fs::read_to_string(Path::new("/proc/self").join(it)).unwrap_or_default());
        let ids = Ids::here(rustix::process::geteuid().is_root(), &id_maps);
        Ok(Self { state_dir, guest: config.guest, root, path, cgroups: Cgroups::probe(), ids, oom: OomCounters::default() })
    }

    /// Makes a sandbox that ends as soon as it has passed its self-test.
    pub(crate) fn try_out(&self) -> Result<(), Failure> {
        let id = SandboxId::random();
        let folder = self.folder(id);
        let trial = || -> Result<Report, Box<dyn std::error::Error>> {
            let spec = self.launch_spec(id, &SandboxSpec::default(), Payload::Trial)?;
            let _claimed = folder.claim()?.ok_or("its folder is another's")?;
            let mut launcher = std::process::Command::new(&self.guest)
                .arg0(guest_binary::NAME)
                .arg("launch")
                .env_clear()
                .current_dir("/")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(stdin) = launcher.stdin.take() {
                serde_json::to_writer(stdin, &spec)?;
            }
            let output = launcher.wait_with_output()?;
            Ok(read_report(&output.stdout, &output.stderr))
        };
        let report = trial();
        let _ = folder.destroy();
        match report {
            Ok(Report::Ready) => Ok(()),
            Ok(Report::Failed(failure)) => Err(failure),
            Err(error) => Err(Failure { step: format!("start {}", self.guest.display()), error: error.to_string() }),
        }
    }

    /// Removes what is left of sandboxes whose processes are gone, except for workspaces that are to be kept.
    fn sweep(&self) {
        for id in self.found().unwrap_or_default() {
            if let Err(error) = self.folder(id).settle_if_dead() {
                tracing::warn!(sandbox.id = %id, %error, "cannot remove what a dead sandbox left");
            }
        }
    }

    fn folder(&self, id: SandboxId) -> Folder {
        Folder::new(self.state_dir.join(id.to_string()))
    }

    /// Lists the ids that have a folder, live or not.
    fn found(&self) -> io::Result<Vec<SandboxId>> {
        let entries = std::fs::read_dir(&self.state_dir)?;
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
    }

    /// Decides all about a sandbox, or refuses it.
    fn launch_spec(&self, id: SandboxId, spec: &SandboxSpec, payload: Payload) -> Result<LaunchSpec, DriverError> {
        if let Some(image) = &spec.image {
            return Err(unsupported("that image", format!("{image}: this driver shows the host's own system")));
        }
        let mut root = self.root.clone();
        for ReadOnlyFolder { source, target } in &spec.folders {
            if !source.is_absolute() || !target.is_absolute() {
                let reason = format!("both of {} and {} must be absolute", source.display(), target.display());
                return Err(unsupported("that folder", reason));
            }
            root.show(source, target);
        }
        let memory = self.cgroups.enforcement(Controller::Memory) == Enforcement::Hard;
        let room = if memory { in_memory(spec.limits.memory.max) } else { u64::MAX };
        Ok(LaunchSpec {
            folder: self.folder(id).path().to_owned(),
            host_id: (self.ids == Ids::Private).then(|| private_id(id)),
            root,
            workspace: workspace(&spec.workspace, room)?,
            tmp_size: spec.tmp_size.as_bytes().min(room),
            processes: spec.limits.processes.max,
            open_files: spec.limits.open_files,
            cgroups: self.cgroups.plan(&format!("astraforge-{id}"), &spec.limits)?,
            payload,
        })
    }

    fn guest_config(&self, spec: &SandboxSpec, service_ports: &[u16]) -> GuestConfig {
        let mut env: std::collections::BTreeMap<String, String> = [
            ("HOME", rootfs::HOME),
            ("LANG", "C.UTF-8"),
            ("LOGNAME", "agent"),
            ("PATH", &self.path),
            ("SHELL", "/bin/sh"),
            ("TMPDIR", "/tmp"),
            ("USER", "agent"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        env.extend(spec.env.clone());
        GuestConfig { service_ports: service_ports.to_vec(), env, orphan_timeout: spec.orphan_timeout }
    }

    /// Makes the folder of `id`, in the place of one that a dead sandbox left, or around the workspace in it.
    async fn claim(&self, id: SandboxId) -> Result<(Lock, WorkspaceOrigin), DriverError> {
        let folder = self.folder(id);
        let claimed = blocking(move || folder.claim()).await;
        let claimed = claimed.map_err(|source| backend("make the folder of", id, source))?;
        claimed.ok_or(DriverError::AlreadyExists { id })
    }

    /// Starts the launcher and hears from it. One that made no sandbox is gone when this returns, and with it all that
    /// it made: whatever has the id from then on is another's.
    async fn launch(&self, spec: &LaunchSpec) -> Result<(), BoxError> {
        let mut launcher = self.start_launcher()?;
        let source: BoxError = match tokio::time::timeout(LAUNCH, talk(&mut launcher, spec)).await {
            Ok(Ok(Report::Ready)) => return Ok(()),
            Ok(Ok(Report::Failed(failure))) => failure.into(),
            Ok(Err(error)) => error.into(),
            Err(elapsed) => elapsed.into(),
        };
        // It cleans up behind itself; what it can't is left to whoever has the folder next.
        if tokio::time::timeout(LAUNCH, launcher.wait()).await.is_err() {
            launcher.kill().await?;
        }
        Err(source)
    }

    fn start_launcher(&self) -> io::Result<Child> {
        Command::new(&self.guest)
            .arg0(guest_binary::NAME)
            .arg("launch")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }
}

#[async_trait]
impl SandboxDriver for NativeDriver {
    fn name(&self) -> &'static str {
        "native"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            memory: self.cgroups.enforcement(Controller::Memory),
            processes: Enforcement::Hard,
            cpu: self.cgroups.enforcement(Controller::Cpu),
            disk: Enforcement::Soft,
            ..Capabilities::new(IsolationTier::T1)
        }
    }

    async fn create(
        &self,
        id: SandboxId,
        spec: &SandboxSpec,
        service_ports: &[u16],
    ) -> Result<WorkspaceOrigin, DriverError> {
        let spec = self.launch_spec(id, spec, Payload::Daemon(self.guest_config(spec, service_ports)))?;
        let (lock, left) = self.claim(id).await?;
        let origin = if let WorkspacePlan::Disk = spec.workspace { left } else { WorkspaceOrigin::Fresh };
        let launched = self.launch(&spec).await;
        drop(lock);
        if let Err(source) = launched {
            let folder = self.folder(id);
            if let Err(error) = blocking(move || folder.settle_if_dead()).await {
                tracing::warn!(sandbox.id = %id, %error, "cannot remove what is left of a sandbox that was not made");
            }
            return Err(DriverError::Backend { operation: "create", id, source });
        }
        Ok(origin)
    }

    async fn connect(&self, id: SandboxId) -> Result<GuestStream, DriverError> {
        let folder = self.folder(id);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, folder.path(), flags, Mode::empty());
        let dir = dir.map_err(|_| DriverError::NotFound { id })?;
        // A socket's path may have 108 bytes; through a descriptor the folder's own length does not count.
        let socket = format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), launcher::SOCKET);
        match UnixStream::connect(socket).await {
            Ok(stream) => Ok(Box::pin(stream.compat())),
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
        self.found().map(live).map_err(|error| unsupported("listing sandboxes", error.to_string()))
    }

    async fn left(&self) -> Result<Vec<SandboxId>, DriverError> {
        let is_left = |folder: Folder| folder.keeps_workspace() && !folder.is_live();
        let left = |found: Vec<SandboxId>| found.into_iter().filter(|id| is_left(self.folder(*id))).collect();
        self.found().map(left).map_err(|error| unsupported("listing workspaces", error.to_string()))
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), DriverError> {
        self.oom.forget(id);
        let folder = self.folder(id);
        blocking(move || folder.destroy()).await.map_err(|source| backend("destroy", id, source))
    }
}

/// Tells the launcher what to make, and hears how it went.
async fn talk(launcher: &mut Child, spec: &LaunchSpec) -> io::Result<Report> {
    let spec = serde_json::to_vec(spec)?;
    // A launcher that ends before it has read everything has said why on its standard output.
    if let Some(mut stdin) = launcher.stdin.take() {
        let _ = stdin.write_all(&spec).await;
    }
    let (mut line, mut errors) = (Vec::new(), Vec::new());
    if let (Some(stdout), Some(stderr)) = (launcher.stdout.take(), launcher.stderr.take()) {
        let limit = |stream: &mut Vec<u8>| 65536 - stream.len() as u64;
        let (mut stdout, mut stderr) = (stdout.take(limit(&mut line)), stderr.take(limit(&mut errors)));
        // The launcher lets go of both once it has answered, and lives on.
        tokio::try_join!(stdout.read_to_end(&mut line), stderr.read_to_end(&mut errors))?;
    }
    Ok(read_report(&line, &errors))
}

/// Runs what blocks where it blocks nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Returns how many bytes of the memory one file system may take: files count as memory, and a sandbox whose files took
/// all of it could only be killed.
fn in_memory(limit: ByteSize) -> u64 {
    limit.as_bytes() - limit.as_bytes() / 8
}

fn workspace(workspace: &Workspace, room: u64) -> Result<WorkspacePlan, DriverError> {
    match workspace {
        Workspace::Tmpfs { size } => Ok(WorkspacePlan::Memory(size.as_bytes().min(room))),
        Workspace::Disk { size: Limit { strictness: Strictness::BestEffort, .. } } => Ok(WorkspacePlan::Disk),
        Workspace::Disk { .. } => Err(unsupported(
            "a required limit on a workspace on disk",
            "this driver measures what lies on disk and enforces nothing; ask for a workspace in memory, whose size \
             always holds, or make the limit best effort",
        )),
    }
}

/// Ids of the host that stand behind agents: above those that systemd gives to containers and below its foreign ids, so
/// that they are nobody's.
const PRIVATE_IDS: std::ops::Range<u32> = 0x7000_0000..0x7ffd_0000;

/// Picks the host's id behind a sandbox's agent.
///
/// It is a hash, so two sandboxes may get the same one; of a thousand that live at once, any two do with a chance of one
/// in five hundred. They share then what the kernel counts by user, as all sandboxes of an ordinary user do, and nothing
/// else: neither sees the other's processes or files, and their folders on the host are closed to both.
fn private_id(id: SandboxId) -> u32 {
    // The low half of a time-ordered id is random.
    let (high, low) = id.as_uuid().as_u64_pair();
    let offset = (high ^ low) % u64::from(PRIVATE_IDS.end - PRIVATE_IDS.start);
    PRIVATE_IDS.start + u32::try_from(offset).unwrap_or_default()
}

/// Reads the launcher's answer.
fn read_report(stdout: &[u8], stderr: &[u8]) -> Report {
    serde_json::from_slice(stdout.split(|byte| *byte == b'\n').next().unwrap_or_default()).unwrap_or_else(|_| {
        let told = String::from_utf8_lossy(stderr).trim().to_owned();
        let error = if told.is_empty() { "it ended without a word".to_owned() } else { told };
        Report::Failed(Failure { step: "hear from the launcher".to_owned(), error })
    })
}

fn unsupported(what: &str, reason: impl Into<String>) -> DriverError {
    DriverError::Unsupported { what: what.to_owned(), reason: reason.into() }
}

fn backend(operation: &'static str, id: SandboxId, source: io::Error) -> DriverError {
    DriverError::Backend { operation, id, source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(is_root: bool, map: &str, expected: Ids) {
        assert_eq!(Ids::here(is_root, &[map.to_owned(), map.to_owned()]), expected);
    }

    #[test]
    fn only_a_root_that_has_private_ids_gives_them() {
        check(true, "         0          0 4294967295\n", Ids::Private);
        check(false, "0 0 4294967295", Ids::Own);
        check(true, "0 100000 65536", Ids::Own);
        check(true, "0 1000 1\n1 100000 65536", Ids::Own);
        check(true, "", Ids::Own);
    }

    #[test]
    fn private_ids_stay_in_their_range() {
        for _ in 0..1000 {
            assert!(PRIVATE_IDS.contains(&private_id(SandboxId::random())));
        }
    }

    #[test]
    fn an_answer_that_is_none_carries_what_the_launcher_wrote() {
        let report = read_report(b"", b"thread main panicked\n");
        assert!(matches!(report, Report::Failed(failure) if failure.error == "thread main panicked"));
    }
}
