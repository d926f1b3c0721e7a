//! A node: what a server process is made of, put together here and nowhere else.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use astraforge_adapters::{
    clock::SystemClock,
    git::{Quarantine, QuarantineConfig},
    local::{LocalConfig, LocalProvider},
    models::ModelReviewer,
    rego::RegoPolicy,
};
use astraforge_core::{
    access::{ApiKey, Role, Scopes},
    audit::{Actor, NewEntry},
    cancel::{Cancellation, Canceller},
    control_plane::ControlPlane,
    forge::{Forge, Ports, Settings},
    id::{ApiKeyId, TenantId, UserId},
    job::Limits,
    journal::Journal,
    ports::{
        artifacts::ArtifactStore, clock::Clock, git::VcsProvider, model::ModelUpstream, review::Reviewer,
        sessions::Sessions,
    },
    redact::{KnownSecret, Redactor},
    registry::Registry,
    repository::Secret,
    retention::Retention,
    review::rules::RuleReviewer,
    run_log::RunLogs,
    worker::Worker,
};
use astraforge_http::{
    AppState, mint_api_key, router,
    server::{AppStateBuilder, Need, Server, auth::prefix_of, health_router},
};
use astraforge_sandbox::sandboxes::Sandboxes;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    agent::Agent,
    audit,
    config::{Executor, ServerArgs, TENANT},
    data_folder::{DataFolder, ServerFile},
    database::Database,
    drivers,
    egress_log::EgressLog,
    egress_refusals::EgressRefusals,
    event_bus::EventBus,
    files::{self, Files},
    model::ModelConfig,
    rounds::{self, Turns},
    sandbox_plane,
};

/// A running node: it accepts calls, works through the queue, or both, until it is stopped.
pub(crate) struct Node {
    /// What a person should know at the start.
    pub(crate) notes: Vec<String>,
    running: Running,
    /// How long workers may see through what they are at when the node is stopped.
    drain_time: Duration,
    folder: DataFolder,
    bus: EventBus,
    database: Database,
    _known: Option<KnownSecret>,
}

/// What runs in a node, and what ends it.
struct Running {
    /// Has workers begin nothing more.
    drain: Arc<Canceller>,
    workers: JoinSet<()>,
    /// Ends everything.
    stop: Arc<Canceller>,
    stopped: Cancellation,
    tasks: JoinSet<()>,
    /// What tells other servers that this one is there.
    known: Option<ControlPlane>,
}

/// Where a node takes calls.
pub(crate) struct Door {
    /// Its address, as a client takes it.
    pub(crate) url: String,
    /// The key of whoever owns the data folder.
    pub(crate) owner_key: Secret,
    /// Whether that key was made just now, and is the first of all.
    pub(crate) is_first_start: bool,
}

/// What a node does about what waits in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    /// Works through it.
    Work,
    /// Leaves it as it is: a command that only reads must not begin a run that ends with it, and an API has workers.
    Leave,
}

impl Node {
    /// Starts a node that takes calls on `listener`.
    pub(crate) async fn serve(args: &ServerArgs, listener: TcpListener, queue: Queue) -> anyhow::Result<(Self, Door)> {
        let parts = Box::pin(Parts::assemble(args)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (owner_key, is_first_start) = owner_key(&parts.forge, &parts.folder).await?;
        let listening = listener.local_addr()?;
        let (root, pool) = (parts.folder.root(), args.native.pool);
        let plane = sandbox_plane::build(args, root, parts.database.sandboxes(), pool, &parts.refusals).await;
        let mut running = parts.start(if queue == Queue::Work { args.workers } else { 0 }, args.lease).await?;
        let stopped = running.stopped.clone();
        // Whoever gets a link may have come by another address than one that stands for all.
        let own_address = if listening.ip().is_unspecified() { "" } else { url.as_str() };
        let state = parts.state(&stopped, Need::Helps).with_link_base(args.files.link_base().unwrap_or(own_address));
        let state = plane.as_ref().ok().cloned().into_iter().fold(state, AppStateBuilder::with_sandboxes);
        let egress_log = EgressLog::open(parts.folder.root()).context("cannot keep a log of egress")?;
        let state = state.with_egress_log(move |sandbox, n| Ok(egress_log.last(sandbox, n)?));
        let accounts = args.accounts.open(parts.database.accounts());
        let state = state.with_accounts(args.oidc.attach(accounts, args.keys.secrets(parts.folder.root())?)?);
        let state = state.with_rate_limits(args.rates.limits()?);
        let state = if parts.database.is_shared() { state.with_peers(peers_client()?) } else { state };
        match plane {
            Ok(plane) => parts.look_after(plane, args, listening, &mut running).await?,
            Err(error) => tracing::warn!("durable sandboxes cannot be used: {error:#}"),
        }
        running.tasks.spawn(serve(listener, router(state.build()), stopped));
        parts.folder.announce(&ServerFile { url: url.clone(), api_key: owner_key.reveal().to_owned() })?;
        Ok((parts.into_node(running, Duration::ZERO), Door { url, owner_key, is_first_start }))
    }

    /// Starts a node that works through the queue only; on `listener` it tells how it is. When it is stopped, it has
    /// `drain_time` to see through what it is at.
    pub(crate) async fn work(
        args: &ServerArgs,
        listener: Option<TcpListener>,
        drain_time: Duration,
    ) -> anyhow::Result<Self> {
        let parts = Box::pin(Parts::assemble(args)).await?;
        let mut running = parts.start(args.workers, args.lease).await?;
        if let Some(listener) = listener {
            let stopped = running.stopped.clone();
            let state = parts.state(&stopped, Need::Needed).build();
            running.tasks.spawn(serve(listener, health_router(state), stopped));
        }
        Ok(parts.into_node(running, drain_time))
    }

    /// Stops: nothing new is begun, what is at work has its time, and what is left of it then is given back;
    /// calls are no longer accepted, sandboxes are gone.
    pub(crate) async fn stop(self) {
        let Running { drain, mut workers, stop, mut tasks, known, .. } = self.running;
        drain.cancel();
        if !self.drain_time.is_zero() {
            let drained = async { while workers.join_next().await.is_some() {} };
            if tokio::time::timeout(self.drain_time, drained).await.is_err() {
                tracing::warn!(seconds = self.drain_time.as_secs(), "what is still at work is interrupted");
            }
        }
        stop.cancel();
        while workers.join_next().await.is_some() {}
        while tasks.join_next().await.is_some() {}
        if let Some(plane) = known
            && let Err(error) = plane.withdraw().await
        {
            tracing::warn!(%error, "other servers take this one for gone in a minute only");
        }
        self.bus.close().await;
        self.database.close().await;
        self.folder.withdraw();
    }
}

/// What every node is made of.
struct Parts {
    forge: Forge,
    folder: DataFolder,
    bus: EventBus,
    database: Database,
    quarantine: Quarantine,
    refusals: EgressRefusals,
    retention: Retention,
    /// Where a killed process may have left a file half written.
    file_folders: files::Folders,
    notes: Vec<String>,
    /// Whether this machine has what runs need.
    can_run: bool,
    known: Option<KnownSecret>,
}

impl Parts {
    async fn assemble(args: &ServerArgs) -> anyhow::Result<Self> {
        let folder = DataFolder::open(&args.data_folder()?)?;
        let redactor = Redactor::default();
        let (model, known) = args.model.config()?.open(&redactor)?;
        let database = args.open_database(folder.root()).await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let artifacts = Arc::new(Files::for_requests(&args.files, folder.root()).await?);
        let logs = RunLogs::from(database.requests()).with_archives(artifacts.clone());
        let bus = args.event_bus.open(&args.database, logs.clone())?;
        let audit = audit::open(args, folder.root(), &database, redactor.clone())?;
        let refusals = EgressRefusals::told_to(audit.clone(), database.sandboxes());
        let journal = Journal::new(logs, bus.wakeups(), clock.clone(), redactor).with_audit(audit);
        let agent = Agent::new(args, &folder, model.clone(), database.requests(), &refusals).await;
        let notes = agent.trouble.clone().into_iter().chain(notes(args)?).chain(bus.trouble_at_start().await).collect();
        let retention = Retention::new(database.requests(), artifacts.clone(), clock, args.retention.kept());
        let quarantine = Quarantine::new(QuarantineConfig::new(folder.path("quarantine"), artifacts.clone()));
        let file_folders = files::Folders::of(&args.files, folder.root())?;
        let forge = Forge::new(ports(args, &folder, journal, &agent, &quarantine, artifacts, &model)?);
        if let Some(sandboxes) = &agent.sandboxes {
            remove_left(sandboxes).await?;
        }
        for folder in file_folders.all() {
            folder.sweep().await.context("cannot clear the files that were left half written")?;
        }
        // The quarantines are this process's alone, so nothing of them is in use.
        quarantine.sweep_older_than(Duration::ZERO).await?;
        let can_run = agent.trouble.is_none();
        Ok(Self { forge, folder, bus, database, quarantine, refusals, retention, file_folders, notes, can_run, known })
    }

    /// Settles what an earlier process left, and begins to work.
    async fn start(&self, n_workers: u16, lease: u32) -> anyhow::Result<Running> {
        let worker = Worker::new(self.forge.clone()).with_lease(Duration::from_secs(lease.into()));
        if !self.database.is_shared() {
            // Nobody else can be at work. Elsewhere leases tell.
            worker.recover().await?;
        }
        let (drain, drained) = Cancellation::pair();
        let (stop, stopped) = Cancellation::pair();
        let mut workers = JoinSet::new();
        for _ in 0..n_workers {
            let (worker, drained, stopped) = (worker.clone(), drained.clone(), stopped.clone());
            workers.spawn(async move { worker.run_until(drained, stopped).await });
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(rounds::clear_quarantine(self.quarantine.clone(), stopped.clone()));
        tasks.spawn(self.turns(&stopped).sweep_archives(self.retention.clone()));
        tasks.spawn(self.turns(&stopped).forget_calls());
        if !self.retention.keeps_all() {
            tasks.spawn(self.turns(&stopped).archive_logs(self.retention.clone()));
        }
        if let Some(folder) = self.file_folders.shared.clone() {
            tasks.spawn(self.turns(&stopped).clear_shared(folder));
        }
        Ok(Running { drain, workers, stop, stopped, tasks, known: None })
    }

    /// What takes turns with the other nodes of the installation.
    fn turns(&self, stopped: &Cancellation) -> Turns {
        Turns { store: self.database.requests(), stopped: stopped.clone() }
    }

    /// Looks after the sandboxes of this node, which listens at `listening`.
    async fn look_after(
        &self,
        plane: ControlPlane,
        args: &ServerArgs,
        listening: SocketAddr,
        running: &mut Running,
    ) -> anyhow::Result<()> {
        let stopped = running.stopped.clone();
        if self.database.is_shared() {
            let address = args.node_address(listening)?;
            match &address {
                None => tracing::warn!(
                    "other servers pass no calls for sandboxes on to this one: it listens on all addresses; say with \
                     ASTRAFORGE_NODE_URL at which of them they reach it"
                ),
                Some(_) if args.node_url.is_none() && listening.ip().is_loopback() => tracing::info!(
                    "servers on other machines pass no calls for sandboxes on to this one, which listens on {}; say with \
                     ASTRAFORGE_NODE_URL where they reach it",
                    listening.ip()
                ),
                Some(_) => {}
            }
            // Before anything is made here: what belongs to a node that nobody knows of counts as left.
            plane.announce(address.as_deref()).await.context("cannot tell other servers that this one is there")?;
            running.tasks.spawn(rounds::stay_known(plane.clone(), address, stopped.clone()));
            running.known = Some(plane.clone());
        }
        let place = args.files.place_of_sandbox_files(drivers::node(self.folder.root())?)?;
        running.tasks.spawn(self.turns(&stopped).sweep_sandbox_files(plane.clone(), place));
        running.tasks.spawn(rounds::look_after_machines(plane, self.file_folders.own.clone(), stopped));
        Ok(())
    }

    /// What handlers share; `/readyz` tells of the bus, and of where `runs` work.
    fn state(&self, stopped: &Cancellation, runs: Need) -> AppStateBuilder {
        // Anybody may ask, so what exactly is wrong is in the log and in the greeting only.
        let (bus, can_run) = (self.bus.clone(), self.can_run);
        let unwell = |what: &str| format!("{what}; see the server's log");
        AppState::builder(self.forge.clone())
            .with_shutdown(stopped.clone())
            .with_part("bus", Need::Helps, move || bus.check().map_err(|trouble| unwell(trouble.meaning())))
            .with_part("sandboxes", runs, move || if can_run { Ok(()) } else { Err(unwell("runs cannot work here")) })
    }

    fn into_node(self, running: Running, drain_time: Duration) -> Node {
        let Self { notes, folder, bus, database, known, .. } = self;
        Node { notes, running, drain_time, folder, bus, database, _known: known }
    }
}

fn ports(
    args: &ServerArgs,
    folder: &DataFolder,
    journal: Journal,
    agent: &Agent,
    quarantine: &Quarantine,
    artifacts: Arc<dyn ArtifactStore>,
    model: &Arc<dyn ModelUpstream>,
) -> anyhow::Result<Ports> {
    let mut providers: Registry<dyn VcsProvider> = Registry::new("VCS provider");
    let local = local_provider(args, folder)?;
    providers.register(LocalProvider::NAME, move || Ok(Arc::new(local.clone())))?;
    let policy = match &args.policies {
        Some(dir) => RegoPolicy::from_dir(dir)?,
        None => RegoPolicy::shipped()?,
    };
    let mut reviewers: Vec<Arc<dyn Reviewer>> = vec![Arc::new(RuleReviewer::default())];
    if let ModelConfig::OpenAi { .. } | ModelConfig::Proxy { .. } = args.model.config()? {
        reviewers.push(Arc::new(ModelReviewer::new(model.clone(), args.codex_model.clone())));
    }
    let settings = Settings {
        approver_must_differ: args.approver_must_differ,
        limits: Limits { per_tenant: args.tenant_jobs, in_all: args.jobs },
    };
    Ok(Ports {
        journal,
        executor: agent.executor.clone(),
        broker: Arc::new(quarantine.clone()),
        providers,
        policy: Arc::new(policy),
        reviewers,
        artifacts,
        settings,
    })
}

/// The provider of repositories on this machine; clones that `run` registered are read from the data folder each time.
pub(crate) fn local_provider(args: &ServerArgs, folder: &DataFolder) -> anyhow::Result<LocalProvider> {
    let repositories = match &args.repositories {
        Some(repositories) => std::path::absolute(repositories)?,
        None => folder.path("repositories"),
    };
    std::fs::create_dir_all(&repositories).with_context(|| format!("cannot make {}", repositories.display()))?;
    let config = LocalConfig::new(repositories, args.published.clone().unwrap_or_else(|| folder.path("published")))
        .with_registry(folder.path(DataFolder::REGISTERED));
    Ok(LocalProvider::new(config))
}

/// What a person should know at the start.
fn notes(args: &ServerArgs) -> anyhow::Result<Vec<String>> {
    let mut notes = Vec::new();
    match (args.executor, args.model.config()?) {
        (Executor::Stub, _) => notes.push("EXECUTOR=stub: no agent works, no model is asked".to_owned()),
        (_, ModelConfig::Missing) => {
            notes.push("no model is configured, so runs will fail: set OPENAI_API_KEY and start again".to_owned());
        }
        (_, ModelConfig::Scripted { scenario }) => {
            notes.push(format!("the model is a script, not a model: {}", scenario.display()));
        }
        (_, ModelConfig::OpenAi { .. } | ModelConfig::Proxy { .. }) => {}
    }
    Ok(notes)
}

/// What passes calls on to other servers: it goes nowhere else with them.
fn peers_client() -> anyhow::Result<reqwest::Client> {
    let client = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(5))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build();
    client.context("cannot set up what passes calls on to other servers")
}

/// The admin key of whoever owns the data folder, made on the first start.
async fn owner_key(forge: &Forge, folder: &DataFolder) -> anyhow::Result<(Secret, bool)> {
    if let Some(key) = folder.owner_key()? {
        return Ok((key, false));
    }
    let is_first_start = forge.store().count_api_keys().await? == 0;
    let (key, hash) = mint_api_key()?;
    let id = ApiKeyId::random();
    forge
        .store()
        .add_api_key(ApiKey {
            id,
            tenant: TenantId::new(TENANT),
            user: UserId::new("owner"),
            name: "owner of the data folder".to_owned(),
            prefix: prefix_of(&key),
            hash,
            role: Role::Admin,
            scopes: Scopes::All,
            is_active: true,
            expires_at: None,
            created_at: forge.journal().clock().now(),
            last_used_at: None,
        })
        .await?;
    let made = NewEntry::new(TenantId::new(TENANT), Actor::server(), "key.made", id.to_string(), "done");
    forge.journal().note(made.with("user", "owner").with("role", "admin")).await;
    folder.keep_owner_key(&key)?;
    Ok((key, is_first_start))
}

/// Removes the sandboxes that an earlier process left: their runs begin anew.
async fn remove_left(sandboxes: &Sandboxes) -> anyhow::Result<()> {
    for left in sandboxes.list().await? {
        sandboxes.destroy(left).await?;
    }
    Ok(())
}

/// Serves until it is stopped. A client that then reads no more has a moment, and is left.
async fn serve(listener: TcpListener, app: axum::Router, stopped: Cancellation) {
    const GRACE: Duration = Duration::from_secs(2);
    Server::new(listener, app).with_grace(GRACE).run_until(stopped.cancelled()).await;
}
