//! What is attacked: sandboxes of one driver, and the host beneath them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use astraforge_core::{
    egress::Egress,
    error::chain,
    files::{Existing, Roots, UploadRequest},
    id::SandboxId,
    ports::{
        machines::{Machine, Machines},
        sessions::Sessions,
    },
    session::{Command, ExecOutput, Limits, SandboxSpec},
};
use bytes::Bytes;
use futures::StreamExt;

use super::{
    Attacker, Footprint, HostProcess, HostView, MakePlane, Scale,
    case::{Judged, Stop, hold},
    host,
    transcript::{PATIENCE, Running, Transcript},
};
use crate::{
    driver::{Access, Capabilities, DynSandboxDriver, Enforcement, IsolationTier},
    sandboxes::Sandboxes,
};

/// Where the hostile program lies in a sandbox.
pub(super) const PROGRAM: &str = "/workspace/.attacker";

/// How long the traces of a destroyed sandbox may take to go where the host does not wait for them itself.
const SETTLING: Duration = Duration::from_secs(20);

/// What is attacked: a driver, its host, and the program to attack with.
pub struct Target {
    driver: DynSandboxDriver,
    sandboxes: Sandboxes,
    host: Arc<dyn HostView>,
    program: Bytes,
    plane: Option<Arc<dyn MakePlane>>,
    is_full: std::sync::atomic::AtomicBool,
    made: Mutex<BTreeMap<SandboxId, Option<Footprint>>>,
    before: Mutex<Vec<SandboxId>>,
    done: Mutex<String>,
    shared: tokio::sync::Mutex<Option<Arc<Subject>>>,
    n_names: AtomicU64,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("driver", &self.driver).field("host", &self.host).finish_non_exhaustive()
    }
}

impl Target {
    /// A driver, the host of the sandboxes that it makes, and what attacks them.
    #[must_use]
    pub fn new(driver: DynSandboxDriver, host: Arc<dyn HostView>, attacker: Attacker) -> Self {
        Self {
            sandboxes: Sandboxes::new(Arc::clone(&driver)),
            driver,
            host,
            program: attacker.bytes(),
            plane: None,
            is_full: false.into(),
            made: Mutex::default(),
            before: Mutex::default(),
            done: Mutex::default(),
            shared: tokio::sync::Mutex::default(),
            n_names: AtomicU64::new(1),
        }
    }

    /// Has the cases about durable sandboxes run on control planes that `plane` makes.
    #[must_use]
    pub fn with_plane(mut self, plane: Arc<dyn MakePlane>) -> Self {
        self.plane = Some(plane);
        self
    }

    pub(super) fn driver(&self) -> &DynSandboxDriver {
        &self.driver
    }

    pub(super) fn sandboxes(&self) -> &Sandboxes {
        &self.sandboxes
    }

    pub(super) fn host(&self) -> &dyn HostView {
        &*self.host
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        self.driver.capabilities()
    }

    pub(super) fn tier(&self) -> IsolationTier {
        self.capabilities().tier
    }

    /// Begins a run: sandboxes that are there already belong to others.
    pub(super) async fn begin(&self, scale: Scale) {
        self.is_full.store(scale == Scale::Full, Ordering::Relaxed);
        let others = self.sandboxes.list().await.unwrap_or_default();
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = others;
    }

    /// The size that fits how much a case is to take on.
    pub(super) fn scaled<T>(&self, quick: T, full: T) -> T {
        if self.is_full.load(Ordering::Relaxed) { full } else { quick }
    }

    /// Notes what the case has done so far, for whoever waits for its end.
    pub(super) fn has_done(&self, what: String) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// What the case has done so far.
    pub(super) fn done(&self) -> String {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn plane(&self) -> Result<&Arc<dyn MakePlane>, Stop> {
        self.plane.as_ref().ok_or_else(|| Stop::Excused("the suite was given no control plane".to_owned()))
    }

    /// A text that nobody else has.
    pub(super) fn unique(&self, what: &str) -> String {
        format!("attack-{what}-{}-{}", std::process::id(), self.n_names.fetch_add(1, Ordering::Relaxed))
    }

    /// Passes where the limit is enforced; excuses the case where the driver says it is not.
    pub(super) fn needs(&self, what: &str, enforcement: Enforcement) -> Result<(), Stop> {
        match enforcement {
            Enforcement::Hard => Ok(()),
            other => Err(Stop::Excused(format!("the driver says that {what} is not enforced here ({other:?})"))),
        }
    }

    /// Passes at the tier that has this suite's own filter, and excuses what another tier leaves to its engine.
    pub(super) fn needs_own_filter(&self) -> Result<(), Stop> {
        match self.tier() {
            IsolationTier::T1 => Ok(()),
            other => Err(Stop::Excused(format!("tier {other:?}: the system call filter is the engine's own"))),
        }
    }

    /// Excuses a breach in a pod where what would have prevented it is its node's to set, and no pod can ask for it.
    pub(super) fn or_its_nodes(&self, judged: Judged) -> Judged {
        match judged {
            Err(Stop::Breach(text)) if self.driver.name() == "k8s" => {
                Err(Stop::Excused(format!("a pod cannot ask its node for more: {text}")))
            }
            judged => judged,
        }
    }

    /// Excuses a breach where the driver says that sandboxes are not kept apart on the network.
    pub(super) fn or_its_network(&self, judged: Judged) -> Judged {
        match judged {
            Err(Stop::Breach(text)) if self.capabilities().network != Enforcement::Hard => {
                Err(Stop::Excused(format!("nobody keeps sandboxes apart on this network, which was accepted: {text}")))
            }
            judged => judged,
        }
    }

    /// Excuses files in memory without a number of their own, which a cluster's nodes do not give them, where the limit
    /// on memory ends them.
    pub(super) fn or_its_memory(&self, judged: Judged) -> Judged {
        match judged {
            Err(Stop::Breach(text))
                if self.driver.name() == "k8s" && self.capabilities().memory == Enforcement::Hard =>
            {
                Err(Stop::Excused(format!("the pod's limit on memory is what these end at: {text}")))
            }
            judged => judged,
        }
    }

    /// Tells whether the kernel counts sandboxes and server as one user, as it does where only root may give others.
    pub(super) fn shares_its_user(&self) -> bool {
        self.tier() == IsolationTier::T1 && !rustix::process::geteuid().is_root()
    }

    /// Passes where the guest daemon is in the sandbox.
    pub(super) fn needs_guest(&self) -> Result<(), Stop> {
        match self.capabilities().access {
            Access::Guest => Ok(()),
            Access::PlainExec => Err(Stop::Excused("the driver reaches this sandbox by plain exec alone".to_owned())),
        }
    }

    /// A new sandbox with the program in it; it is destroyed when the case has ended.
    pub(super) async fn sandbox(&self, spec: SandboxSpec) -> Result<Arc<Subject>, Stop> {
        let id = SandboxId::random();
        self.expect(id);
        let made = self.sandboxes.make(id, spec).await?;
        self.subject(id, made.machine).await
    }

    /// Has what is left of `id` looked for when the case has ended.
    pub(super) fn expect(&self, id: SandboxId) {
        self.lock().insert(id, None);
    }

    /// The sandbox behind `machine`, with the program in it.
    pub(super) async fn subject(&self, id: SandboxId, machine: Arc<dyn Machine>) -> Result<Arc<Subject>, Stop> {
        let subject = self.client(id, machine);
        subject.upload(PROGRAM, 0o755, self.program.clone()).await?;
        Ok(subject)
    }

    /// The sandbox behind `machine`, as it is.
    pub(super) fn client(&self, id: SandboxId, machine: Arc<dyn Machine>) -> Arc<Subject> {
        Arc::new(Subject { id, machine, host: Arc::clone(&self.host) })
    }

    /// A sandbox of the defaults but for its limits.
    pub(super) async fn limited(&self, change: impl FnOnce(&mut Limits)) -> Result<Arc<Subject>, Stop> {
        let mut limits = Limits::default();
        change(&mut limits);
        self.sandbox(SandboxSpec::default().with_limits(limits)).await
    }

    /// A sandbox that cases share which only look around.
    pub(super) async fn shared(&self) -> Result<Arc<Subject>, Stop> {
        let mut shared = self.shared.lock().await;
        if let Some(subject) = &*shared
            && subject.is_well().await.is_ok()
        {
            return Ok(Arc::clone(subject));
        }
        let id = SandboxId::random();
        let made = self.sandboxes.make(id, SandboxSpec::default()).await?;
        let subject = self.subject(id, made.machine).await?;
        *shared = Some(Arc::clone(&subject));
        Ok(subject)
    }

    /// Runs one attack in the shared sandbox; it must come to its end in vain.
    pub(super) async fn probe(&self, arguments: &[&str]) -> Judged {
        self.shared().await?.attack(arguments).await?.hold_to_the_end()
    }

    /// Runs attacks in the shared sandbox; where the filter is an engine's own, its tier excuses what it lets through.
    pub(super) async fn probe_filter(&self, arguments: &[&str]) -> Judged {
        self.or_its_engine(self.probe(arguments).await)
    }

    /// Excuses a breach where what would have prevented it is the engine's to set.
    pub(super) fn or_its_engine(&self, judged: Judged) -> Judged {
        match (judged, self.tier()) {
            (Err(Stop::Breach(open)), tier @ (IsolationTier::Container | IsolationTier::Kernel)) => {
                Err(Stop::Excused(format!("tier {tier:?}, whose engine lets it through: {open}")))
            }
            (judged, _) => judged,
        }
    }

    /// Destroys one sandbox before the case ends, and fails it with what is left of that.
    pub(super) async fn destroy(&self, id: SandboxId) -> Result<(), Stop> {
        let footprint = self.lock().remove(&id).flatten();
        self.remove(id, footprint).await.map_err(Stop::Breach)
    }

    /// Destroys what the case made, and says what is left of it.
    pub(super) async fn clear(&self) -> Result<(), String> {
        let made = std::mem::take(&mut *self.lock());
        let mut left = Vec::new();
        for (id, footprint) in made {
            if let Err(text) = self.remove(id, footprint).await {
                left.push(text);
            }
        }
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    }

    /// Destroys the sandbox that cases share, and says what is left of all.
    pub(super) async fn end(&self) -> Result<(), String> {
        if let Some(subject) = self.shared.lock().await.take() {
            self.remove(subject.id, None).await?;
        }
        match self.sandboxes.list().await {
            Ok(mut left) => {
                let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).clone();
                left.retain(|it| !before.contains(it));
                if left.is_empty() { Ok(()) } else { Err(format!("sandboxes are left: {left:?}")) }
            }
            Err(error) => Err(chain(&error)),
        }
    }

    /// Destroys a sandbox, and looks on the host for what is left of it.
    pub(super) async fn remove(&self, id: SandboxId, footprint: Option<Footprint>) -> Result<(), String> {
        let now = self.host.footprint(id).await.map_err(|error| chain(&*error))?;
        let mut before = footprint.unwrap_or_default();
        before.keepers.extend(now.keepers);
        before.keepers.extend(now.processes.into_iter().chain(before.processes.take()).flatten());
        before.paths.extend(now.paths);
        let destroyed = tokio::time::timeout(PATIENCE, self.sandboxes.destroy(id)).await;
        match destroyed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("sandbox {id} cannot be destroyed: {}", chain(&error))),
            Err(_) => return Err(format!("sandbox {id} is not destroyed within {} s", PATIENCE.as_secs())),
        }
        // When a sandbox is destroyed its processes are gone; whoever stood by them may still be on the way.
        let start = Instant::now();
        loop {
            let mut left = self.host.remains(id, &before).await.map_err(|error| chain(&*error))?;
            left.extend(
                before.keepers.iter().filter(|it| it.lives()).map(|it| format!("process {} ({})", it.pid, it.name)),
            );
            if left.is_empty() {
                return Ok(());
            }
            if start.elapsed() > SETTLING {
                return Err(format!("left of sandbox {id}: {}", left.join(", ")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Remembers what a sandbox occupies, for a look after it is gone.
    pub(super) async fn remember(&self, id: SandboxId) -> Result<(), Stop> {
        let footprint = self.host.footprint(id).await.map_err(|error| Stop::trouble(chain(&*error)))?;
        self.lock().insert(id, Some(footprint));
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SandboxId, Option<Footprint>>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One sandbox under attack.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) id: SandboxId,
    pub(super) machine: Arc<dyn Machine>,
    host: Arc<dyn HostView>,
}

impl Subject {
    /// Starts an attack.
    pub(super) async fn start(&self, arguments: &[&str]) -> Result<Running, Stop> {
        let argv = [PROGRAM].into_iter().chain(arguments.iter().copied());
        self.start_command(Command::new(argv).with_cwd("/tmp")).await
    }

    /// Starts a command.
    pub(super) async fn start_command(&self, command: Command) -> Result<Running, Stop> {
        let started = tokio::time::timeout(PATIENCE, self.machine.exec(command)).await;
        let started = started.map_err(|_| Stop::breach("a command does not start"))?;
        Ok(Running::new(started?))
    }

    /// Starts an attack, and returns when it says that it is ready.
    pub(super) async fn ready(&self, arguments: &[&str]) -> Result<(Running, Transcript), Stop> {
        let mut running = self.start(arguments).await?;
        let transcript = running.ready().await?;
        Ok((running, transcript))
    }

    /// Runs an attack to its end.
    pub(super) async fn attack(&self, arguments: &[&str]) -> Result<Transcript, Stop> {
        self.start(arguments).await?.end().await
    }

    /// Runs a line of shell, and keeps at most a MiB of what it writes.
    pub(super) async fn shell(&self, line: &str) -> Result<ExecOutput, Stop> {
        let run = async { self.machine.exec(Command::shell(line).with_cwd("/tmp")).await?.collect(1 << 20).await };
        let ran = tokio::time::timeout(PATIENCE, run).await;
        Ok(ran.map_err(|_| Stop::Breach(format!("a command hangs: {line}")))??)
    }

    /// Fails unless the sandbox answers as if nothing had happened.
    pub(super) async fn is_well(&self) -> Result<(), Stop> {
        let output = self.shell("echo alive").await?;
        hold!(output.stdout == b"alive\n", "the sandbox does not work on: {output:?}");
        Ok(())
    }

    /// Writes a file of any size.
    pub(super) async fn upload(&self, path: &str, mode: u32, contents: Bytes) -> Result<(), Stop> {
        let request =
            UploadRequest { roots: Roots::default(), path: path.to_owned(), mode, existing: Existing::Replace };
        let pieces: Vec<_> = contents.chunks(1 << 16).map(|it| Ok(contents.slice_ref(it))).collect();
        self.machine.upload(request, futures::stream::iter(pieces).boxed()).await?;
        Ok(())
    }

    /// What it occupies on the host.
    pub(super) async fn footprint(&self) -> Result<Footprint, Stop> {
        self.host.footprint(self.id).await.map_err(|error| Stop::trouble(chain(&*error)))
    }

    /// The processes that run in it, as the host sees them.
    pub(super) async fn processes(&self) -> Result<Vec<HostProcess>, Stop> {
        let found = self.footprint().await?.processes;
        found.ok_or_else(|| Stop::Excused("its processes run on a machine that cannot be looked at".to_owned()))
    }

    /// Waits until the host sees no more than `most` processes in it beside the guest's own few.
    pub(super) async fn settles_at(&self, most: usize) -> Result<(), Stop> {
        const GUESTS: usize = 3;
        let start = Instant::now();
        loop {
            let found = self.processes().await?;
            let strange = found.iter().filter(|it| !it.is_guest()).count();
            if strange <= most && found.len() <= most + GUESTS {
                return Ok(());
            }
            if start.elapsed() > SETTLING {
                let names: Vec<_> = found.iter().map(|it| format!("{} ({})", it.pid, it.name)).collect();
                return Err(Stop::Breach(format!("{} processes stay: {}", found.len(), names.join(", "))));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Fails when the host is not well.
pub(super) fn host_is_well() -> Result<(), Stop> {
    host::is_well().map_err(Stop::Breach)
}

/// A machine of `sandboxes` that is already there.
pub(super) async fn find(sandboxes: &Sandboxes, id: SandboxId) -> Result<Arc<dyn Machine>, Stop> {
    Ok(sandboxes.find(id, Egress::Off).await?)
}
