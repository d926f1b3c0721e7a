//! Makes sandboxes: decides all about one, starts its launcher, and hears from it.

use std::{
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::OnceLock,
    time::Duration,
};

use astraforge_core::{
    BoxError,
    id::SandboxId,
    ports::machines::WorkspaceOrigin,
    session::{ByteSize, Limit, ReadOnlyFolder, SandboxSpec, Strictness, Workspace},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

use super::{
    NativeConfig, backend,
    cgroups::{Cgroups, Controller},
    disk, guest_binary,
    images::{ImageError, Images, Settings, Unpacked},
    launch_spec::{Failure, LaunchSpec, Payload, Report, Shape, WorkspacePlan},
    record::{Folder, Lock},
    root_plan::RootPlan,
    rootfs, state_folder, unsupported,
};
use crate::{
    driver::{DriverError, Enforcement, room_for_files},
    guest::GuestConfig,
};

/// How long a launcher may take. It takes milliseconds; only a broken machine comes near.
const LAUNCH: Duration = Duration::from_secs(30);

/// Where programs of a system are, when nothing says otherwise.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// How the names begin of the folders of sandboxes that are nobody's yet.
const SPARE: &str = "spare-";

/// Makes the sandboxes of one state folder.
#[derive(Debug)]
pub(super) struct Maker {
    state_dir: PathBuf,
    guest: PathBuf,
    host: RootPlan,
    toolchains: Vec<PathBuf>,
    pub(super) images: Images,
    pub(super) cgroups: Cgroups,
    ids: Ids,
    disk: OnceLock<Result<(), String>>,
}

/// A sandbox that was decided about.
#[derive(Debug)]
pub(super) struct Design {
    pub(super) shape: Shape,
    /// What its daemon is told.
    pub(super) config: GuestConfig,
    /// Held until a launcher holds it.
    _image: Option<Lock>,
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

impl Maker {
    pub(super) fn new(config: NativeConfig) -> Result<Self, DriverError> {
        let state_dir = state_folder::make(&config.state_dir).map_err(|error| {
            unsupported(
                "native sandboxes",
                format!("the state folder {} cannot be used: {error}", config.state_dir.display()),
            )
        })?;
        for folder in &config.toolchains {
            if !folder.is_absolute() || !folder.is_dir() {
                let reason = format!("{} is not the absolute path of a folder that exists", folder.display());
                return Err(unsupported("that toolchain", reason));
            }
        }
        let id_maps = ["uid_map", "gid_map"]
            .map(|it| std::fs::read_to_string(Path::new("/proc/self").join(it)).unwrap_or_default());
        let images = Images {
            named: config.images.map(|folder| std::path::absolute(&folder).unwrap_or(folder)),
            cache: config.image_cache.unwrap_or_else(|| state_dir.join("images")),
            guest: config.guest.clone(),
            max_size: config.max_image_size,
        };
        Ok(Self {
            state_dir,
            guest: config.guest,
            host: RootPlan::of_host(Path::new("/")),
            toolchains: config.toolchains,
            images,
            cgroups: Cgroups::probe(),
            ids: Ids::here(rustix::process::geteuid().is_root(), &id_maps),
            disk: OnceLock::new(),
        })
    }

    pub(super) fn folder(&self, id: SandboxId) -> Folder {
        Folder::new(self.state_dir.join(id.to_string()))
    }

    /// The folder of a sandbox that is nobody's yet.
    pub(super) fn spare_folder(&self, id: SandboxId) -> Folder {
        Folder::new(self.state_dir.join(format!("{SPARE}{id}")))
    }

    /// Lists the ids that have a folder, live or not.
    pub(super) fn found(&self) -> io::Result<Vec<SandboxId>> {
        self.names(|name| name.parse().ok())
    }

    /// Lists the sandboxes that are nobody's yet, whichever server made them.
    pub(super) fn spares(&self) -> io::Result<Vec<SandboxId>> {
        self.names(|name| name.strip_prefix(SPARE)?.parse().ok())
    }

    fn names(&self, parse: impl Fn(&str) -> Option<SandboxId>) -> io::Result<Vec<SandboxId>> {
        let entries = std::fs::read_dir(&self.state_dir)?;
        Ok(entries.filter_map(|entry| parse(entry.ok()?.file_name().to_str()?)).collect())
    }

    /// Makes a sandbox that ends as soon as it has passed its self-test.
    pub(super) fn try_out(&self, workspace: WorkspacePlan) -> Result<(), Failure> {
        let id = SandboxId::random();
        let folder = self.folder(id);
        let trial = || -> Result<Report, Box<dyn std::error::Error>> {
            let mut shape = self.shape(&SandboxSpec::default(), None)?;
            shape.workspace = workspace;
            let spec = self.launch_spec(&folder, id, shape, Payload::Trial)?;
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

    /// Tells whether workspaces on disk can have a hard limit here. Found out once, by making one; that blocks for some
    /// ten milliseconds.
    pub(super) fn limits_disk(&self) -> Result<(), &str> {
        let found = self.disk.get_or_init(|| {
            if self.ids != Ids::Private {
                return Err("only root of the machine itself may mount file systems".to_owned());
            }
            match disk::missing() {
                Some(missing) => Err(missing.to_owned()),
                None => self.try_out(WorkspacePlan::Limited(disk::MIN_SIZE)).map_err(|failure| failure.to_string()),
            }
        });
        match found {
            Ok(()) => Ok(()),
            Err(why) => Err(why),
        }
    }

    /// Decides all about a sandbox, or refuses it. Blocks where it has an image, for as long as unpacking that takes.
    pub(super) fn design(&self, id: SandboxId, spec: &SandboxSpec, ports: &[u16]) -> Result<Design, DriverError> {
        let image = match &spec.image {
            None => None,
            Some(image) => Some(self.images.get(image).map_err(|error| match error {
                ImageError::Unknown(reason) => unsupported("that image", reason),
                ImageError::Broken(source) => backend("unpack the image of", id, source),
            })?),
        };
        let config = self.guest_config(spec, ports, image.as_ref().map(|it| &it.settings));
        let shape = self.shape(spec, image.as_ref())?;
        Ok(Design { shape, config, _image: image.and_then(|it| it.lock) })
    }

    fn shape(&self, spec: &SandboxSpec, image: Option<&Unpacked>) -> Result<Shape, DriverError> {
        let mut root = match image {
            None => self.host.clone(),
            Some(image) => RootPlan::of_image(&image.root)
                .map_err(|error| unsupported("that image", format!("{}: {error}", image.root.display())))?,
        };
        for folder in &self.toolchains {
            root.show(folder, folder);
        }
        for ReadOnlyFolder { source, target } in &spec.folders {
            if !source.is_absolute() || !target.is_absolute() {
                let reason = format!("both of {} and {} must be absolute", source.display(), target.display());
                return Err(unsupported("that folder", reason));
            }
            root.show(source, target);
        }
        let memory = self.cgroups.enforcement(Controller::Memory) == Enforcement::Hard;
        let room = if memory { room_for_files(spec.limits.memory.max) } else { u64::MAX };
        Ok(Shape {
            root,
            image: image.and_then(|it| it.folder.clone()),
            workspace: self.workspace(&spec.workspace, room)?,
            tmp_size: spec.tmp_size.as_bytes().min(room),
            limits: spec.limits.clone(),
        })
    }

    fn workspace(&self, workspace: &Workspace, room: u64) -> Result<WorkspacePlan, DriverError> {
        const WHAT: &str = "a required limit on a workspace on disk";
        match workspace {
            Workspace::Tmpfs { size } => Ok(WorkspacePlan::Memory(size.as_bytes().min(room))),
            Workspace::Disk { size: Limit { strictness: Strictness::BestEffort, .. } } => Ok(WorkspacePlan::Disk),
            Workspace::Disk { size } if size.max.as_bytes() < disk::MIN_SIZE => {
                let least = ByteSize::bytes(disk::MIN_SIZE);
                Err(unsupported(
                    WHAT,
                    format!("{} is less than a file system needs: ask for {least} or more", size.max),
                ))
            }
            Workspace::Disk { size } => match self.limits_disk() {
                Ok(()) => Ok(WorkspacePlan::Limited(size.max.as_bytes())),
                Err(why) => Err(unsupported(
                    WHAT,
                    format!(
                        "{why}; or ask for a workspace in memory, whose size always holds, or make the limit best \
                         effort: then what lies on disk is measured"
                    ),
                )),
            },
        }
    }

    fn launch_spec(
        &self,
        folder: &Folder,
        id: SandboxId,
        shape: Shape,
        payload: Payload,
    ) -> Result<LaunchSpec, DriverError> {
        Ok(LaunchSpec {
            folder: folder.path().to_owned(),
            host_id: (self.ids == Ids::Private).then(|| private_id(id)),
            cgroups: self.cgroups.plan(&format!("astraforge-{id}"), &shape.limits)?,
            shape,
            payload,
        })
    }

    /// What the daemon is told: the image's environment beneath our own, and the sandbox's above both.
    fn guest_config(&self, spec: &SandboxSpec, service_ports: &[u16], image: Option<&Settings>) -> GuestConfig {
        let mut env = image.map(|it| it.env.clone()).unwrap_or_default();
        let toolchains = self.toolchains.iter().map(|it| format!("{}:", it.join("bin").display())).collect::<String>();
        let path = env.get("PATH").map_or(PATH, String::as_str);
        let path = format!("{toolchains}{path}");
        env.entry("LANG".to_owned()).or_insert_with(|| "C.UTF-8".to_owned());
        env.extend(
            [
                ("HOME", rootfs::HOME),
                ("LOGNAME", "agent"),
                ("PATH", &path),
                ("SHELL", "/bin/sh"),
                ("TMPDIR", "/tmp"),
                ("USER", "agent"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        env.extend(spec.env.clone());
        GuestConfig { service_ports: service_ports.to_vec(), env, orphan_timeout: spec.orphan_timeout }
    }

    /// Makes sandbox `id`, around the workspace that an earlier one left if there is one.
    pub(super) async fn make(&self, id: SandboxId, design: Design) -> Result<WorkspaceOrigin, DriverError> {
        let folder = self.folder(id);
        let mut spec = self.launch_spec(&folder, id, design.shape, Payload::Daemon(design.config))?;
        let (lock, left) = self.claim(id).await?;
        if left == WorkspaceOrigin::Kept {
            spec.host_id = spec.host_id.map(|own| folder.owner().unwrap_or(own));
        }
        let origin = if spec.shape.workspace.is_kept() { left } else { WorkspaceOrigin::Fresh };
        let launched = self.launch(&spec).await;
        drop(lock);
        if let Err(source) = launched {
            if let Err(error) = blocking(move || folder.settle_if_dead()).await {
                tracing::warn!(sandbox.id = %id, %error, "cannot remove what is left of a sandbox that was not made");
            }
            return Err(DriverError::Backend { operation: "create", id, source });
        }
        Ok(origin)
    }

    /// Begins a sandbox that is nobody's yet, in a folder of its own. It is made by [`launch`](Self::launch).
    pub(super) fn begin_spare(&self, shape: Shape) -> Result<(Folder, Lock, LaunchSpec), BoxError> {
        let id = SandboxId::random();
        let folder = self.spare_folder(id);
        let spec = self.launch_spec(&folder, id, shape, Payload::Spare)?;
        let (lock, _) = folder.claim()?.ok_or("its folder is another's")?;
        folder.keep_ready()?;
        Ok((folder, lock, spec))
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
    pub(super) async fn launch(&self, spec: &LaunchSpec) -> Result<(), BoxError> {
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
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
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
