//! A run: one time that an agent works on a request.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::id::{ChangeSetId, RequestId, RunId, TenantId};

/// One time that an agent works on a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// The request it belongs to.
    pub request: RequestId,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// What the agent was told.
    pub prompt: String,
    /// Where it stands.
    pub status: RunStatus,
    /// How often it was begun; more than once only after a worker was lost or stopped.
    pub attempts: Vec<Attempt>,
    /// Whether a person asked for it to stop.
    pub cancel_requested: bool,
    /// Why it failed, once it has.
    pub failure: Option<RunFailure>,
    /// What the agent said last.
    pub final_message: Option<String>,
    /// The agent's own name for the conversation, to resume it.
    pub thread: Option<String>,
    /// Where the artifact store keeps what is needed to resume the conversation.
    pub rollout: Option<String>,
    /// The change that stands after it, its own or an earlier run's; `None` until it is done, and when there is none.
    pub change_set: Option<ChangeSetId>,
    /// Exit code of the agent, once it has one.
    pub exit_code: Option<i32>,
    /// How the repository's tests went, if it names a test command.
    pub tests: Option<TestReport>,
    /// What the models were asked for.
    pub usage: Usage,
    /// When it was queued.
    pub created_at: DateTime<Utc>,
    /// When an agent began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

impl Run {
    /// A run that waits for a worker.
    #[must_use]
    pub fn queued(request: RequestId, tenant: TenantId, prompt: String, now: DateTime<Utc>) -> Self {
        Self {
            id: RunId::random(),
            request,
            tenant,
            prompt,
            status: RunStatus::Queued,
            attempts: Vec::new(),
            cancel_requested: false,
            failure: None,
            final_message: None,
            thread: None,
            rollout: None,
            change_set: None,
            exit_code: None,
            tests: None,
            usage: Usage::default(),
            created_at: now,
            started_at: None,
            finished_at: None,
        }
    }
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunStatus {
    /// It waits for a worker, or for the run before it.
    Queued,
    /// An agent is at work.
    Running,
    /// The agent did what it could; there may be a change.
    Completed,
    /// It ended without a result, for the reason in [`Run::failure`].
    Failed,
    /// A person stopped it.
    Cancelled,
}

impl RunStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Completed, Self::Failed, Self::Cancelled];

    /// Tells whether the run is over.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no run status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a run status")]
pub struct ParseRunStatusError(String);

impl FromStr for RunStatus {
    type Err = ParseRunStatusError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| ParseRunStatusError(text.to_owned()))
    }
}

/// One time that a worker began a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Counts from 1.
    pub number: u32,
    /// When the worker began.
    pub started_at: DateTime<Utc>,
    /// When it ended, if it did.
    pub finished_at: Option<DateTime<Utc>>,
    /// Why it came to nothing, if it did.
    pub failure: Option<RunFailure>,
}

/// Why a run failed, in words that a person understands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct RunFailure {
    /// What kind of failure it is.
    pub cause: FailureCause,
    /// What happened, and what to do about it.
    pub message: String,
}

impl RunFailure {
    /// A failure of a kind, in words.
    pub fn new(cause: FailureCause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into() }
    }
}

/// The kinds of failure that need different remedies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureCause {
    /// The repository could not be read: missing, empty, no such branch, no access.
    Repository,
    /// No sandbox could be made, or it was lost.
    Sandbox,
    /// A program that the run needs is not installed.
    MissingProgram,
    /// The repository's setup command failed.
    Setup,
    /// The agent ended with an error.
    Agent,
    /// The agent ended without an answer.
    NoAnswer,
    /// The model refused, was unreachable, or broke off.
    Model,
    /// The run took too long.
    TimedOut,
    /// The change could not be brought out of the sandbox.
    Push,
    /// The change contains a known secret and was thrown away.
    SecretInChange,
    /// The server stopped while the run was at work.
    Interrupted,
    /// A person stopped it.
    Cancelled,
    /// Something of ours broke.
    Internal,
}

/// How a repository's own tests went on the agent's last commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestReport {
    /// The command that was run.
    pub command: String,
    /// Its exit code.
    pub exit_code: i32,
    /// The end of its output.
    pub output_tail: String,
}

/// What models were asked for and gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Number of calls that reached a model.
    pub calls: u64,
    /// Tokens read.
    pub input_tokens: u64,
    /// Those of them that came from a cache.
    pub cached_input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Those of them spent on reasoning.
    pub reasoning_tokens: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.input_tokens += other.input_tokens;
        self.cached_input_tokens += other.cached_input_tokens;
        self.output_tokens += other.output_tokens;
        self.reasoning_tokens += other.reasoning_tokens;
    }
}
