//! Runs an agent on a request: prepare → work → collect → tests → teardown.

use std::{fmt, sync::Arc, time::Duration};

use astraforge_core::{
    BoxError,
    cancel::Cancellation,
    egress::Egress,
    id::SandboxId,
    journal::Reporter,
    ports::{
        executor::{AgentExecutor, AgentOutcome, Assignment, Thread},
        guest_service::ServiceBinding,
        sessions::Sessions,
    },
    repository::RepositoryEnvironment,
    request::Plan,
    run::{FailureCause, RunFailure},
    session::{ByteSize, Limits, SandboxSpec, Workspace},
};
use async_trait::async_trait;
use futures::FutureExt;
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneSyncService};

mod attachments;
mod bench;
mod checkout;
mod codex;
mod collect;
mod config;
mod events;
mod lines;
mod log;
mod plan;
mod program;
mod sandbox;
mod setup;
mod stop;
mod stub;

pub use program::{CodexNotFound, CodexProgram};

use self::{
    bench::{Bench, LAST_MOMENT, session_failure},
    checkout::REPOSITORY_PORT,
    codex::Codex,
    collect::Leftovers,
    log::Log,
    sandbox::Teardown,
    stop::Stop,
    stub::Stub,
};
use crate::proxy::LlmProxy;

/// Where a workspace holds the repository.
const WORKSPACE: &str = "/workspace";
/// Where a workspace holds everything else.
const HOME: &str = "/home/agent";
/// The model that is asked unless another is named.
const MODEL: &str = "gpt-5.5";
/// What the model is told about its work, unless something else is.
const INSTRUCTIONS: &str = include_str!("runner/instructions.md");

/// One run to carry out: the command behind [`AgentExecutor::execute`].
#[derive(Debug, Clone)]
pub struct Execute {
    /// What is to be done.
    pub assignment: Assignment,
    /// Where every step is told.
    pub reporter: Reporter,
    /// When it is to end early.
    pub cancel: Cancellation,
}

/// Carries out runs, as a tower service. Its errors are [`RunFailure`]s, unless a layer has others.
pub type RunService = BoxCloneSyncService<Execute, AgentOutcome, BoxError>;

/// Lets the Codex CLI work on requests, each in a sandbox of its own.
///
/// A run: make a sandbox → clone the quarantine → setup command → Codex → commit and push → tests → destroy. Every
/// step and every command is told to the run's log. The sandbox is destroyed whatever happens, also when the future is
/// dropped.
///
/// ```
/// use std::sync::Arc;
/// use astraforge_codex::{CodexProgram, CodexRunner, LlmProxy};
/// use astraforge_core::ports::{executor::AgentExecutor, sessions::Sessions};
///
/// fn executor(sessions: Arc<dyn Sessions>, proxy: LlmProxy, codex: CodexProgram) -> Arc<dyn AgentExecutor> {
///     Arc::new(CodexRunner::builder(sessions, proxy, codex).with_model("gpt-5.5").build())
/// }
/// ```
#[derive(Clone)]
pub struct CodexRunner {
    service: RunService,
}

impl CodexRunner {
    /// Begins a runner that makes its sandboxes with `sessions` and thinks through `proxy`.
    #[must_use]
    pub fn builder(sessions: Arc<dyn Sessions>, proxy: LlmProxy, codex: CodexProgram) -> CodexRunnerBuilder {
        let codex = Codex { proxy, program: codex, model: MODEL.to_owned(), instructions: INSTRUCTIONS.to_owned() };
        CodexRunnerBuilder { sessions, codex, settings: RunSettings::default(), layers: Vec::new() }
    }
}

impl fmt::Debug for CodexRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodexRunner")
    }
}

#[async_trait]
impl AgentExecutor for CodexRunner {
    async fn execute(
        &self,
        assignment: Assignment,
        reporter: Reporter,
        cancel: Cancellation,
    ) -> Result<AgentOutcome, RunFailure> {
        execute(self.service.clone(), Execute { assignment, reporter, cancel }).await
    }

    async fn plan(&self, prompt: &str, environment: &RepositoryEnvironment) -> Result<Plan, RunFailure> {
        Ok(plan::outline(prompt, environment))
    }
}

/// Does what [`CodexRunner`] does, with an agent that asks no model and appends a line to a file.
///
/// For `EXECUTOR=stub`: everything around the agent is real.
#[derive(Clone)]
pub struct StubExecutor {
    service: RunService,
}

impl StubExecutor {
    /// An executor that makes its sandboxes with `sessions`.
    #[must_use]
    pub fn new(sessions: Arc<dyn Sessions>, settings: RunSettings) -> Self {
        Self { service: run_service(sessions, Arc::new(Stub), settings) }
    }
}

impl fmt::Debug for StubExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StubExecutor")
    }
}

#[async_trait]
impl AgentExecutor for StubExecutor {
    async fn execute(
        &self,
        assignment: Assignment,
        reporter: Reporter,
        cancel: Cancellation,
    ) -> Result<AgentOutcome, RunFailure> {
        execute(self.service.clone(), Execute { assignment, reporter, cancel }).await
    }

    async fn plan(&self, prompt: &str, environment: &RepositoryEnvironment) -> Result<Plan, RunFailure> {
        Ok(plan::outline(prompt, environment))
    }
}

async fn execute(service: RunService, command: Execute) -> Result<AgentOutcome, RunFailure> {
    service.oneshot(command).await.map_err(|error| match error.downcast::<RunFailure>() {
        Ok(failure) => *failure,
        Err(error) => RunFailure::new(FailureCause::Internal, format!("The run was not carried out: {error}")),
    })
}

/// Who commits what agents change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// A name, such as `AstraForge Bot`.
    pub name: String,
    /// An e-mail address.
    pub email: String,
}

impl Default for Author {
    fn default() -> Self {
        Self { name: "AstraForge Bot".to_owned(), email: "bot@astraforge.local".to_owned() }
    }
}

/// How every run is made, whatever its agent.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunSettings {
    /// Who commits. Default `AstraForge Bot <bot@astraforge.local>`.
    pub author: Author,
    /// Where the workspace lives. Default: 2 GiB in memory.
    pub workspace: Workspace,
    /// What a sandbox may use up.
    pub limits: Limits,
    /// How long the setup command may take. Default 20 min; never longer than the run.
    pub setup_timeout: Duration,
    /// How long the test command may take. Default 20 min; never longer than the run.
    pub test_timeout: Duration,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            author: Author::default(),
            workspace: Workspace::Tmpfs { size: ByteSize::gib(2) },
            limits: Limits::default(),
            setup_timeout: Duration::from_secs(20 * 60),
            test_timeout: Duration::from_secs(20 * 60),
        }
    }
}

impl RunSettings {
    /// Sets who commits.
    #[must_use]
    pub fn with_author(mut self, name: impl Into<String>, email: impl Into<String>) -> Self {
        self.author = Author { name: name.into(), email: email.into() };
        self
    }

    /// Sets where the workspace lives.
    #[must_use]
    pub fn with_workspace(mut self, workspace: Workspace) -> Self {
        self.workspace = workspace;
        self
    }

    /// Sets what a sandbox may use up.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets how long the setup command may take.
    #[must_use]
    pub fn with_setup_timeout(mut self, timeout: Duration) -> Self {
        self.setup_timeout = timeout;
        self
    }

    /// Sets how long the test command may take.
    #[must_use]
    pub fn with_test_timeout(mut self, timeout: Duration) -> Self {
        self.test_timeout = timeout;
        self
    }
}

/// Wraps a service into one more layer.
type Wrap = Box<dyn FnOnce(RunService) -> RunService + Send>;

/// Puts a [`CodexRunner`] together.
pub struct CodexRunnerBuilder {
    sessions: Arc<dyn Sessions>,
    codex: Codex,
    settings: RunSettings,
    layers: Vec<Wrap>,
}

impl CodexRunnerBuilder {
    /// Sets the model's name, as the upstream knows it. Default `gpt-5.5`.
    #[must_use]
    pub fn with_model(mut self, model: impl Into<String>) -> Self {
        self.codex.model = model.into();
        self
    }

    /// Replaces what the model is told about its work.
    #[must_use]
    pub fn with_instructions(mut self, instructions: impl Into<String>) -> Self {
        self.codex.instructions = instructions.into();
        self
    }

    /// Replaces all settings of runs.
    #[must_use]
    pub fn with_settings(mut self, settings: RunSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Puts a layer of your own around runs.
    #[must_use]
    pub fn with_layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<RunService> + Send + 'static,
        L::Service: Service<Execute, Response = AgentOutcome> + Clone + Send + Sync + 'static,
        <L::Service as Service<Execute>>::Error: Into<BoxError>,
        <L::Service as Service<Execute>>::Future: Send + 'static,
    {
        self.layers.push(Box::new(move |service| BoxCloneSyncService::new(layer.layer(service).map_err(Into::into))));
        self
    }

    /// Builds the runner.
    #[must_use]
    pub fn build(self) -> CodexRunner {
        let service = run_service(self.sessions, Arc::new(self.codex), self.settings);
        CodexRunner { service: self.layers.into_iter().fold(service, |service, wrap| wrap(service)) }
    }
}

impl fmt::Debug for CodexRunnerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodexRunnerBuilder")
            .field("codex", &self.codex)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// What differs between agents; the steps around them are the same.
#[async_trait]
trait Agent: fmt::Debug + Send + Sync + 'static {
    /// Adds what the agent needs to its sandbox.
    fn outfit(&self, assignment: &Assignment, spec: SandboxSpec) -> (SandboxSpec, Vec<ServiceBinding>);

    /// Makes sure that the agent can work, before anything takes time.
    async fn check(&self, bench: &Bench) -> Result<(), RunFailure>;

    /// Does the work.
    async fn work(&self, bench: &Bench, assignment: &Assignment, prompt: &str) -> Result<Answer, RunFailure>;
}

/// What an agent gave.
struct Answer {
    final_message: Option<String>,
    thread: Option<Thread>,
    exit_code: Option<i32>,
}

fn run_service(sessions: Arc<dyn Sessions>, agent: Arc<dyn Agent>, settings: RunSettings) -> RunService {
    let steps = Arc::new(Steps { sessions, agent, settings });
    BoxCloneSyncService::new(service_fn(move |command: Execute| {
        let steps = steps.clone();
        async move { steps.carry_out(command).await.map_err(BoxError::from) }.boxed()
    }))
}

/// The steps of a run.
struct Steps {
    sessions: Arc<dyn Sessions>,
    agent: Arc<dyn Agent>,
    settings: RunSettings,
}

impl Steps {
    async fn carry_out(&self, Execute { assignment, reporter, cancel }: Execute) -> Result<AgentOutcome, RunFailure> {
        let stop = Stop::new(cancel, assignment.environment.timeout());
        let log = Arc::new(Log::start(reporter));
        let sandbox = SandboxId::random();
        let teardown = Teardown::of(self.sessions.clone(), sandbox);
        let outcome = self.until_stopped(&assignment, sandbox, &log, &stop).await;
        teardown.now().await;
        let kept = match Arc::into_inner(log) {
            Some(log) => log.close().await,
            None => Ok(()),
        };
        outcome.and_then(|outcome| kept.map(|()| outcome))
    }

    /// Takes the steps; when the run must stop, the step under way is given a moment to end by itself.
    async fn until_stopped(
        &self,
        assignment: &Assignment,
        sandbox: SandboxId,
        log: &Arc<Log>,
        stop: &Stop,
    ) -> Result<AgentOutcome, RunFailure> {
        let mut steps = self.steps(assignment, sandbox, log, stop).boxed();
        let why = tokio::select! {
            outcome = &mut steps => return outcome,
            why = stop.called() => why,
        };
        _ = tokio::time::timeout(LAST_MOMENT, steps).await;
        Err(why.into())
    }

    async fn steps(
        &self,
        assignment: &Assignment,
        sandbox: SandboxId,
        log: &Arc<Log>,
        stop: &Stop,
    ) -> Result<AgentOutcome, RunFailure> {
        let bench = self.prepare(assignment, sandbox, log, stop).await?;
        let prompt = attachments::deliver(&bench, assignment).await?;
        let leftovers = self.set_up(&bench, assignment).await?;
        let answer = self.agent.work(&bench, assignment, &prompt).await?;
        let head_commit = collect::collect(&bench, assignment, &self.settings.author, &leftovers).await?;
        let tests = setup::test(&bench, &assignment.environment, self.settings.test_timeout).await?;
        log.flush().await;
        let Answer { final_message, thread, exit_code } = answer;
        Ok(AgentOutcome { final_message, thread, head_commit, exit_code, tests })
    }

    /// Runs the setup command, and notes what it leaves in the workspace: that is no part of the agent's change.
    async fn set_up(&self, bench: &Bench, assignment: &Assignment) -> Result<Leftovers, RunFailure> {
        if !setup::set_up(bench, &assignment.environment, self.settings.setup_timeout).await? {
            return Ok(Leftovers::default());
        }
        collect::leftovers(bench, assignment, &self.settings.author).await
    }

    /// Makes the sandbox, with the repository in it.
    async fn prepare(
        &self,
        assignment: &Assignment,
        sandbox: SandboxId,
        log: &Arc<Log>,
        stop: &Stop,
    ) -> Result<Bench, RunFailure> {
        let spec = SandboxSpec::default()
            .with_workspace(self.settings.workspace)
            .with_limits(self.settings.limits.clone())
            .with_egress(Egress::allowlist(assignment.environment.egress.iter().cloned()));
        let (spec, mut services) = self.agent.outfit(assignment, spec);
        services.push(ServiceBinding { port: REPOSITORY_PORT, service: assignment.repository.clone() });
        let session = self.sessions.create(sandbox, spec, services).await.map_err(session_failure)?;
        log.status("provisioning", format!("Provisioned workspace {sandbox}")).await;
        let bench = Bench { session, log: log.clone(), stop: stop.clone() };
        self.agent.check(&bench).await?;
        checkout::check_out(&bench, assignment, &self.settings.author).await?;
        Ok(bench)
    }
}
