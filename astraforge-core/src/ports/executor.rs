//! The port for coding agents.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    cancel::Cancellation,
    id::{RequestId, RunId, TenantId},
    journal::Reporter,
    ports::guest_service::GuestService,
    repository::RepositoryEnvironment,
    request::{Attachment, Plan},
    run::{RunFailure, TestReport},
};

/// Lets a coding agent work on a request in an isolated workspace.
///
/// # Contract
/// - Nothing that `execute` made is left when it returns, whatever it returns: workspaces, tokens, processes.
/// - When `cancel` fires it ends soon, with [`FailureCause::Cancelled`](crate::run::FailureCause::Cancelled).
/// - The agent's change leaves the workspace only as commits pushed to `assignment.work_branch` of the quarantine.
#[async_trait]
pub trait AgentExecutor: fmt::Debug + Send + Sync + 'static {
    /// Does the work and reports every step.
    ///
    /// # Errors
    /// [`RunFailure`], in words that a person understands.
    async fn execute(
        &self,
        assignment: Assignment,
        reporter: Reporter,
        cancel: Cancellation,
    ) -> Result<AgentOutcome, RunFailure>;

    /// Makes a plan for a prompt, without touching anything.
    async fn plan(&self, prompt: &str, environment: &RepositoryEnvironment) -> Result<Plan, RunFailure>;
}

/// What an agent is to do, and with what.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The request.
    pub request: RequestId,
    /// The run.
    pub run: RunId,
    /// The tenant it is done for.
    pub tenant: TenantId,
    /// What the agent is told.
    pub prompt: String,
    /// How runs on this repository are set up.
    pub environment: RepositoryEnvironment,
    /// The quarantine, as a git server for the workspace (`git://127.0.0.2:PORT/repository`).
    pub repository: Arc<dyn GuestService>,
    /// The branch that the change is for.
    pub base_branch: String,
    /// The commit that the work begins at, in full: the base, or the head of the run before.
    pub start_commit: String,
    /// The branch that the change is pushed to; the quarantine takes no other.
    pub work_branch: String,
    /// The conversation to go on with, if there is one.
    pub resume: Option<Thread>,
    /// Files that came with the request, with their bytes.
    pub attachments: Vec<(Attachment, Bytes)>,
}

/// A conversation with an agent that can be gone on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// The agent's own name for it.
    pub id: String,
    /// What the agent needs to go on with it.
    pub rollout: Bytes,
}

/// What an agent did.
#[derive(Debug, Clone, Default)]
pub struct AgentOutcome {
    /// What it said last.
    pub final_message: Option<String>,
    /// The conversation, to go on with later.
    pub thread: Option<Thread>,
    /// The commit that was pushed to the quarantine, in full; `None` when nothing changed.
    pub head_commit: Option<String>,
    /// Exit code of the agent's program.
    pub exit_code: Option<i32>,
    /// How the repository's tests went.
    pub tests: Option<TestReport>,
}
