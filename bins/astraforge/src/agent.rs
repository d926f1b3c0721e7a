//! The agent of a node and the sandboxes it works in, as configured; and what stands in where they can't be had.

use std::{path::PathBuf, sync::Arc};

use astraforge_codex::{CodexProgram, CodexRunner, LlmProxy, RunSettings, StubExecutor, runner::CodexNotFound};
use astraforge_core::{
    cancel::Cancellation,
    journal::Reporter,
    ports::{
        executor::{AgentExecutor, AgentOutcome, Assignment},
        model::ModelUpstream,
        sessions::Sessions,
        store::Store,
        usage::UsageLog,
    },
    registry::Registry,
    repository::RepositoryEnvironment,
    request::Plan,
    run::{FailureCause, RunFailure},
    session::Workspace,
};
use astraforge_sandbox::sandboxes::Sandboxes;
use async_trait::async_trait;

use crate::{
    config::{Executor, Provisioner, ServerArgs},
    data_folder::DataFolder,
    drivers::{self, Purpose},
    egress_refusals::EgressRefusals,
};

/// The agent of a node.
pub(crate) struct Agent {
    /// What runs are given to.
    pub(crate) executor: Arc<dyn AgentExecutor>,
    /// Where it works, if this machine can run sandboxes.
    pub(crate) sandboxes: Option<Arc<Sandboxes>>,
    /// Why runs will fail, if they will.
    pub(crate) trouble: Option<String>,
}

impl Agent {
    /// Finds the agent and makes it ready. One that can't work is no reason to hide what was done before: the node
    /// starts, says why, and every run fails with that reason.
    pub(crate) async fn new(
        args: &ServerArgs,
        folder: &DataFolder,
        model: Arc<dyn ModelUpstream>,
        store: Arc<dyn Store>,
        refusals: &EgressRefusals,
    ) -> Self {
        let sandboxes = match drivers::default(args, folder.root(), Purpose::Runs, refusals).await {
            Ok(sandboxes) => Arc::new(sandboxes),
            Err(error) => return Self::unavailable(None, &error, FailureCause::Sandbox),
        };
        match executor(args, sandboxes.clone(), model, store) {
            Ok(executor) => Self { executor, sandboxes: Some(sandboxes), trouble: None },
            Err(error) => Self::unavailable(Some(sandboxes), &error, FailureCause::MissingProgram),
        }
    }

    fn unavailable(sandboxes: Option<Arc<Sandboxes>>, error: &anyhow::Error, cause: FailureCause) -> Self {
        let reason = format!("{error:#}");
        let executor = Arc::new(Unavailable(RunFailure::new(cause, reason.clone())));
        Self { executor, sandboxes, trouble: Some(format!("runs will fail: {reason}")) }
    }
}

/// The executor of that name; only the chosen one is made.
fn executor(
    args: &ServerArgs,
    sandboxes: Arc<dyn Sessions>,
    model: Arc<dyn ModelUpstream>,
    store: Arc<dyn Store>,
) -> anyhow::Result<Arc<dyn AgentExecutor>> {
    let settings = RunSettings::default()
        .with_author(&args.git_author_name, &args.git_author_email)
        .with_workspace(Workspace::Tmpfs { size: args.workspace_size });
    let mut executors: Registry<dyn AgentExecutor> = Registry::new("executor");
    let (codex, codex_model) = (codex_program(args), args.codex_model.clone());
    let (codex_sandboxes, codex_settings) = (sandboxes.clone(), settings.clone());
    let usage: Arc<dyn UsageLog> = Arc::new(store);
    executors.register("codex", move || {
        let proxy = LlmProxy::builder(model.clone()).with_usage_log(usage.clone()).build();
        let runner = CodexRunner::builder(codex_sandboxes.clone(), proxy, codex.clone()?)
            .with_model(&codex_model)
            .with_settings(codex_settings.clone());
        Ok(Arc::new(runner.build()))
    })?;
    executors.register("stub", move || Ok(Arc::new(StubExecutor::new(sandboxes.clone(), settings.clone()))))?;
    let name = match args.executor {
        Executor::Codex => "codex",
        Executor::Stub => "stub",
    };
    Ok(executors.resolve(name)?)
}

/// The program that runs will use: the host's, or the image's where sandboxes see nothing of the host.
pub(crate) fn codex_program(args: &ServerArgs) -> Result<CodexProgram, CodexNotFound> {
    match args.provisioner {
        Provisioner::K8s => Ok(CodexProgram::in_image()),
        _ => CodexProgram::find(args.codex.as_deref(), search_path()),
    }
}

/// The folders of `PATH`.
pub(crate) fn search_path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

/// Stands in for an agent that can't work here: fails every run, with the reason.
#[derive(Debug)]
struct Unavailable(RunFailure);

#[async_trait]
impl AgentExecutor for Unavailable {
    async fn execute(&self, _: Assignment, _: Reporter, _: Cancellation) -> Result<AgentOutcome, RunFailure> {
        Err(self.0.clone())
    }

    async fn plan(&self, _: &str, _: &RepositoryEnvironment) -> Result<Plan, RunFailure> {
        Err(self.0.clone())
    }
}
