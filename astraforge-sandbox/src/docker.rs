//! The Docker driver: sandboxes as containers of an engine, reached through its own interface alone.
//!
//! The first process of each is our guest, from a volume that no image has to know of. Everything that a driver makes
//! carries its owner's name, so any number of servers share one engine, and whatever a crash leaves is found again.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use astraforge_core::{
    BoxError,
    egress::Egress,
    error::chain,
    id::SandboxId,
    ports::{
        guest_service::GuestStream,
        machines::{Usage, WorkspaceOrigin},
    },
    session::{SandboxSpec, Workspace},
};
use async_trait::async_trait;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryStateEnum,
};
use tokio::time::{Duration, Instant};

use self::{
    engine::{Engine, failed, is_conflict, is_status},
    guest_volume::GuestVolume,
    images::Images,
    maker::Maker,
    names::Role,
    spec::{Surroundings, unsupported},
    turns::Turns,
};
use crate::{
    driver::{Access, Capabilities, DriverError, Enforcement, IsolationTier, SandboxDriver},
    plain::PlainExec,
};

mod engine;
mod guest_volume;
mod images;
mod maker;
mod names;
mod network;
mod oom;
mod plain;
mod reference;
mod relay;
mod settings;
mod spec;
mod turns;
mod usage;
mod workspace;

pub use settings::{ContainerUser, DockerConfig, HostGateway, ISOLATED, Network, RootFiles, Seccomp, SettingError};

/// How long the stream by which a guest said its first word waits for a host; less than a guest waits.
const STREAM_KEPT: Duration = Duration::from_secs(5);

/// How long a name may be taken by what cannot be seen.
const NAME_PATIENCE: Duration = Duration::from_secs(20);

/// Runs sandboxes as containers of a Docker engine.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use astraforge_core::{id::SandboxId, ports::sessions::Sessions, session::{Command, SandboxSpec}};
/// use astraforge_sandbox::{docker::{DockerConfig, DockerDriver}, sandboxes::Sandboxes};
///
/// let guest = "/usr/lib/astraforge/astraforge-guest";
/// let driver = DockerDriver::connect(DockerConfig::new("my-service", guest, "debian:12".parse()?)).await?;
/// let sandboxes = Sandboxes::new(Arc::new(driver));
/// let session = sandboxes.create(SandboxId::random(), SandboxSpec::default(), Vec::new()).await?;
/// let output = session.exec(Command::new(["uname", "--nodename"])).await?.collect(1024).await?;
/// assert!(output.stdout.starts_with(b"sandbox-"));
/// sandboxes.destroy(session.id()).await?;
/// # Ok(())
/// # }
/// ```
pub struct DockerDriver {
    engine: Engine,
    config: DockerConfig,
    capabilities: Capabilities,
    guest: GuestVolume,
    images: Images,
    maker: Maker,
    turns: Turns,
    oom: oom::Counters,
    /// Streams by which guests have answered, for whoever connects next.
    answered: Mutex<HashMap<SandboxId, (Instant, GuestStream)>>,
}

impl fmt::Debug for DockerDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerDriver").field("config", &self.config).finish_non_exhaustive()
    }
}

impl DockerDriver {
    /// Reaches the engine, finds out what it can do, and removes what sandboxes of dead servers left. Workspaces on
    /// disk stay.
    ///
    /// # Errors
    /// [`DriverError::Unsupported`] when no engine answers or the guest program is missing; the text says what would
    /// change that.
    pub async fn connect(config: DockerConfig) -> Result<Self, DriverError> {
        let engine = Engine::reach(&config).await?;
        let info = engine.0.info().await.map_err(|error| unsupported("docker sandboxes", chain(&error)))?;
        let guest = GuestVolume::read(config.guest.clone(), &config.volume_prefix).await.map_err(|error| {
            let reason = format!("the guest program {} cannot be read: {error}", config.guest.display());
            unsupported("docker sandboxes", reason)
        })?;
        let holds = |able: Option<bool>| if able == Some(true) { Enforcement::Hard } else { Enforcement::None };
        let capabilities = Capabilities {
            // Those that are let onto a network of the engine's meet there.
            network: if config.network == Network::None { Enforcement::Hard } else { Enforcement::None },
            memory: holds(info.memory_limit),
            processes: holds(info.pids_limit),
            cpu: holds(info.cpu_cfs_quota),
            disk: Enforcement::Soft,
            access: config.access.unwrap_or_else(|| access(info.architecture.as_deref())),
            ..Capabilities::new(tier(config.runtime.as_deref()))
        };
        let driver = Self {
            engine,
            config,
            capabilities,
            guest,
            images: Images::default(),
            maker: Maker::new(),
            turns: Turns::default(),
            oom: oom::Counters::default(),
            answered: Mutex::default(),
        };
        if let Err(error) = driver.sweep().await {
            tracing::warn!(error = &*error, "cannot remove what dead sandboxes left");
        }
        Ok(driver)
    }

    /// Removes containers that do not run, and volumes that were never used.
    async fn sweep(&self) -> Result<(), BoxError> {
        for container in self.engine.containers(&names::filter(&self.config.owner, None)).await? {
            if !is_live(&container)
                && let Some(id) = id_of(&container)
            {
                let _turn = self.turns.take(id).await;
                self.make_room(id).await?;
            }
        }
        Ok(guest_volume::sweep(&self.engine, self.guest.name(), &self.maker, chrono::Utc::now()).await?)
    }

    /// Removes what a sandbox `id` has left that does not live, but for a workspace that it has used. Tells what is in
    /// the way of a new one.
    async fn make_room(&self, id: SandboxId) -> Result<Room, BoxError> {
        let mut is_used = true;
        for name in [names::container(id), names::preparation(id)] {
            let Some(found) = self.engine.inspect(&name).await? else { continue };
            let labels = labels_of(&found);
            if !names::is_owned(labels, &self.config.owner) {
                return Err(format!("the container {name} belongs to somebody else").into());
            }
            if is_alive(&found) {
                return Ok(Room::Taken);
            }
            if status(&found) == ContainerStateStatusEnum::CREATED {
                if labels.get(names::MAKER).is_some_and(|maker| self.maker.leaves_to(maker)) {
                    return Ok(Room::Taken);
                }
                // As long as there is one of these the sandbox was not started.
                is_used &= Role::of(labels) == Some(Role::Kept);
            }
            // Not by its name: that may be another's by now.
            if let Some(container) = &found.id {
                self.engine.remove(container).await?;
            }
        }
        if !is_used {
            workspace::remove(&self.engine, &self.config, id).await?;
        }
        Ok(Room::Free)
    }

    /// Tells whether the owner's sandbox `id` runs.
    async fn is_running(&self, id: SandboxId) -> Result<bool, bollard::errors::Error> {
        let container = self.engine.inspect(&names::container(id)).await?;
        Ok(container.is_some_and(|it| names::is_owned(labels_of(&it), &self.config.owner) && is_alive(&it)))
    }

    /// Makes sandbox `id` where there is room for it.
    async fn try_create(
        &self,
        id: SandboxId,
        spec: &SandboxSpec,
        body: ContainerCreateBody,
        image: &str,
    ) -> Result<WorkspaceOrigin, DriverError> {
        match self.make_room(id).await.map_err(|error| failed("make room for", id, error))? {
            Room::Taken => return Err(DriverError::AlreadyExists { id }),
            Room::Free => {}
        }
        let on_disk = matches!(spec.workspace, Workspace::Disk { .. });
        let origin = if on_disk {
            let origin = workspace::origin(&self.engine, &self.config, id).await;
            origin.map_err(|error| failed("look for the workspace of", id, error))?
        } else {
            WorkspaceOrigin::Fresh
        };
        let body = if origin == WorkspaceOrigin::Kept { spec::around_kept_workspace(body) } else { body };
        let fresh_workspace = on_disk && origin == WorkspaceOrigin::Fresh;
        let Err(source) = self.start(id, body, image, fresh_workspace).await else { return Ok(origin) };
        // The volume with the guest may have been taken away; the next sandbox looks.
        self.guest.doubt().await;
        if is_name_conflict(&*source) {
            return Err(failed("create", id, source));
        }
        if let Err(error) = self.discard(id, fresh_workspace).await {
            tracing::warn!(sandbox.id = %id, error = &*error, "cannot remove what is left of a sandbox that was not made");
        }
        Err(failed("create", id, source))
    }

    /// Makes the container, with all that it needs, and hears from its guest.
    async fn start(
        &self,
        id: SandboxId,
        body: ContainerCreateBody,
        image: &str,
        fresh_workspace: bool,
    ) -> Result<(), BoxError> {
        let name = names::container(id);
        let has_guest = self.capabilities.access == Access::Guest;
        if has_guest {
            self.guest.ensure(&self.engine, image, &self.maker).await?;
        }
        if fresh_workspace {
            workspace::prepare(&self.engine, &self.config, id, image, &self.maker.to_label()).await?;
        }
        self.engine.create(&name, body).await?;
        if fresh_workspace {
            self.engine.remove(&names::preparation(id)).await?;
        }
        self.engine.0.start_container(&name, None).await.map_err(|error| self.why_not_started(error))?;
        if !has_guest {
            return match self.is_running(id).await? {
                true => Ok(()),
                false => Err(self.engine.last_words(&name).await.into()),
            };
        }
        match relay::open(&self.engine, &name).await {
            Ok(Ok(stream)) => {
                self.answered().insert(id, (Instant::now(), stream));
                Ok(())
            }
            Ok(Err(reason)) => Err(self.explain(&name, chain(&*reason)).await),
            Err(error) => Err(self.explain(&name, chain(&error)).await),
        }
    }

    /// Why a container does not start, in words for whoever can change it.
    fn why_not_started(&self, error: bollard::errors::Error) -> BoxError {
        if error.to_string().contains("exec format error") {
            let guest = self.config.guest.display();
            return format!("{guest} is not built for the engine's processors: build it there, and name it").into();
        }
        error.into()
    }

    /// Why a guest does not answer, as far as its container can tell.
    async fn explain(&self, container: &str, reason: String) -> BoxError {
        let container = self.engine.last_words(container).await;
        format!("the guest does not answer ({reason}); its container: {container}").into()
    }

    fn answered(&self) -> MutexGuard<'_, HashMap<SandboxId, (Instant, GuestStream)>> {
        // No code panics while it holds the map.
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.retain(|_, (since, _)| since.elapsed() < STREAM_KEPT);
        answered
    }
}

#[async_trait]
impl SandboxDriver for DockerDriver {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    async fn create(
        &self,
        id: SandboxId,
        spec: &SandboxSpec,
        service_ports: &[u16],
    ) -> Result<WorkspaceOrigin, DriverError> {
        let image = reference::of(spec.image.as_ref().unwrap_or(&self.config.image))?;
        let around = Surroundings {
            config: &self.config,
            capabilities: &self.capabilities,
            image: &image,
            guest: self.guest.name(),
            maker: &self.maker.to_label(),
        };
        let body = spec::container(id, spec, service_ports, &around)?;
        let _turn = self.turns.take(id).await;
        self.oom.forget(id);
        self.images.ensure(&self.engine, &self.config, &image).await?;
        if spec.egress == Egress::Public && self.config.network == Network::Isolated {
            network::ensure_isolated(&self.engine).await.map_err(|error| failed("make a network for", id, error))?;
        }
        let began = Instant::now();
        loop {
            match self.try_create(id, spec, body.clone(), &image).await {
                // Somebody else has the name, whom the engine does not show before it is done, or not any more.
                Err(DriverError::Backend { source, .. })
                    if is_name_conflict(&*source) && began.elapsed() < NAME_PATIENCE =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                made => return made,
            }
        }
    }

    async fn connect(&self, id: SandboxId) -> Result<GuestStream, DriverError> {
        if self.capabilities.access != Access::Guest {
            return Err(unsupported("a guest", "it cannot run on this engine's machines".to_owned()));
        }
        if let Some((_, stream)) = self.answered().remove(&id) {
            return Ok(stream);
        }
        let failed = |source: BoxError| failed("connect to", id, source);
        if !self.is_running(id).await.map_err(|error| failed(error.into()))? {
            return Err(DriverError::NotFound { id });
        }
        let name = names::container(id);
        match relay::open(&self.engine, &name).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(reason)) => Err(failed(self.explain(&name, chain(&*reason)).await)),
            Err(error) if is_status(&error, 404) || is_conflict(&error) => Err(DriverError::NotFound { id }),
            Err(error) => Err(failed(error.into())),
        }
    }

    fn plain_exec(&self) -> Option<&dyn PlainExec> {
        Some(self)
    }

    async fn usage(&self, id: SandboxId) -> Result<Usage, DriverError> {
        if !self.is_running(id).await.map_err(|error| failed("measure", id, error))? {
            return Err(DriverError::NotFound { id });
        }
        usage::of(&self.engine, &names::container(id)).await.map_err(|error| failed("measure", id, error))
    }

    async fn list(&self) -> Result<Vec<SandboxId>, DriverError> {
        let containers = self.engine.containers(&names::filter(&self.config.owner, None)).await;
        let containers = containers.map_err(|error| unsupported("listing docker sandboxes", chain(&error)))?;
        Ok(containers.iter().filter(|it| is_live(it)).filter_map(id_of).collect())
    }

    async fn left(&self) -> Result<Vec<SandboxId>, DriverError> {
        let filter = names::filter(&self.config.owner, None);
        let (containers, volumes) = futures::join!(self.engine.containers(&filter), self.engine.volumes(&filter));
        let failed = |error| unsupported("listing docker workspaces", chain(&error));
        let (containers, volumes) = (containers.map_err(failed)?, volumes.map_err(failed)?);
        let in_use: Vec<SandboxId> =
            containers.iter().filter(|it| is_live(it) || is_in_the_making(it)).filter_map(id_of).collect();
        let ids = volumes.iter().filter_map(|labels| labels.get(names::SESSION)?.parse().ok());
        Ok(ids.filter(|id| !in_use.contains(id)).collect())
    }

    async fn oom_kills(&self, id: SandboxId) -> Option<u64> {
        self.oom.count(&self.engine, id).await
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), DriverError> {
        let _turn = self.turns.take(id).await;
        self.answered().remove(&id);
        self.oom.forget(id);
        self.discard(id, true).await.map_err(|error| failed("destroy", id, error))
    }
}

/// Asks the engine what it is and whether it has the default image, in one line for people. Changes nothing.
///
/// # Errors
/// [`DriverError::Unsupported`] when no engine answers; the text says what would change that.
pub async fn examine(config: &DockerConfig) -> Result<String, DriverError> {
    let engine = Engine::reach(config).await?;
    let info = engine.0.info().await.map_err(|error| unsupported("docker sandboxes", chain(&error)))?;
    let image = reference::of(&config.image)?;
    let there = images::is_there(&engine, &image).await?;
    Ok(format!(
        "engine {} on {}, {}; the image {image} {}",
        info.server_version.unwrap_or_default(),
        info.operating_system.unwrap_or_default(),
        info.architecture.unwrap_or_default(),
        if there { "is there" } else { "is pulled when it is first used" },
    ))
}

impl DockerDriver {
    /// Removes the owner's containers of sandbox `id`, and its workspace when that is wanted.
    async fn discard(&self, id: SandboxId, with_workspace: bool) -> Result<(), BoxError> {
        for container in self.engine.containers(&names::filter(&self.config.owner, Some(id))).await? {
            if let Some(container) = &container.id {
                self.engine.remove(container).await?;
            }
        }
        if with_workspace { workspace::remove(&self.engine, &self.config, id).await } else { Ok(()) }
    }
}

/// Whether a sandbox can be made under an id.
enum Room {
    /// It can: nothing of an earlier one is left, but its workspace.
    Free,
    /// One lives, or is being made.
    Taken,
}

/// Tells whether a container could not be made because there is one of that name.
fn is_name_conflict(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<bollard::errors::Error>().is_some_and(is_conflict)
}

/// The guest is a program of this machine's architecture, and runs on no other.
fn access(architecture: Option<&str>) -> Access {
    match architecture {
        Some(other) if other != std::env::consts::ARCH => Access::PlainExec,
        _ => Access::Guest,
    }
}

/// Runtimes that give a sandbox a kernel of its own are known by name.
fn tier(runtime: Option<&str>) -> IsolationTier {
    match runtime {
        Some(name) if name.contains("runsc") || name.contains("kata") => IsolationTier::Kernel,
        _ => IsolationTier::Container,
    }
}

/// Tells whether a container is a sandbox that runs.
fn is_live(container: &ContainerSummary) -> bool {
    use ContainerSummaryStateEnum::{PAUSED, RESTARTING, RUNNING};
    container.state.is_some_and(|state| [RUNNING, PAUSED, RESTARTING].contains(&state))
}

/// Tells whether a container has not started yet, and its workspace was nobody's before.
fn is_in_the_making(container: &ContainerSummary) -> bool {
    container.state == Some(ContainerSummaryStateEnum::CREATED)
        && container.labels.as_ref().and_then(Role::of) != Some(Role::Kept)
}

fn id_of(container: &ContainerSummary) -> Option<SandboxId> {
    container.labels.as_ref()?.get(names::SESSION)?.parse().ok()
}

fn labels_of(container: &ContainerInspectResponse) -> &HashMap<String, String> {
    static NONE: std::sync::LazyLock<HashMap<String, String>> = std::sync::LazyLock::new(HashMap::new);
    container.config.as_ref().and_then(|it| it.labels.as_ref()).unwrap_or(&NONE)
}

fn status(container: &ContainerInspectResponse) -> ContainerStateStatusEnum {
    container.state.as_ref().and_then(|it| it.status).unwrap_or(ContainerStateStatusEnum::EMPTY)
}

fn is_alive(container: &ContainerInspectResponse) -> bool {
    use ContainerStateStatusEnum::{PAUSED, RESTARTING, RUNNING};
    [RUNNING, PAUSED, RESTARTING].contains(&status(container))
}
