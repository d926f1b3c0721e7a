//! Runs.

use astraforge_core::{
    event::RunEvent,
    id::{RequestId, RunId},
    request::change_set::ChangeSet,
    run::{FailureCause, Run, RunStatus, TestReport, Usage},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{schema, text, timestamp};

/// A run, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunSummary {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: RunId,
    /// The request it belongs to.
    #[schema(value_type = uuid::Uuid)]
    pub request_id: RequestId,
    /// The title of that request.
    pub request_title: String,
    /// Where it stands.
    #[serde(with = "text")]
    #[schema(schema_with = schema::run_status)]
    pub status: RunStatus,
    /// When an agent began; null while it waits.
    #[serde(with = "timestamp::offset::optional")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended; null until then.
    #[serde(with = "timestamp::offset::optional")]
    pub finished_at: Option<DateTime<Utc>>,
    /// Length of the diff in characters.
    pub diff_size: usize,
}

impl RunSummary {
    /// Puts a run together with its request's title and its change.
    #[must_use]
    pub fn new(run: &Run, request_title: String, change_set: Option<&ChangeSet>) -> Self {
        Self {
            id: run.id,
            request_id: run.request,
            request_title,
            status: run.status,
            started_at: run.started_at,
            finished_at: run.finished_at,
            diff_size: change_set.map_or(0, |set| set.change.diff.chars().count()),
        }
    }
}

/// A run with everything about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunDetail {
    /// What lists show.
    #[serde(flatten)]
    pub summary: RunSummary,
    /// Its events, in order.
    #[schema(value_type = Vec<schema::RunEventSchema>)]
    pub events: Vec<RunEvent>,
    /// The unified diff; empty when nothing changed.
    pub diff: String,
    /// How it went.
    pub reports: ReportsView,
    /// What it left.
    pub artifacts: RunArtifacts,
    /// Why it failed; only when it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub error: Option<String>,
    /// What kind of failure it was; only when it failed; additive.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false, example = "timed_out")]
    pub error_cause: Option<FailureCause>,
}

impl RunDetail {
    /// Puts a run together with its request's title, its events and its change.
    #[must_use]
    pub fn new(run: Run, request_title: String, events: Vec<RunEvent>, change_set: Option<ChangeSet>) -> Self {
        Self {
            summary: RunSummary::new(&run, request_title, change_set.as_ref()),
            events,
            reports: ReportsView::of(&run),
            artifacts: RunArtifacts::of(&run, change_set.as_ref()),
            diff: change_set.map(|set| set.change.diff).unwrap_or_default(),
            error_cause: run.failure.as_ref().map(|failure| failure.cause),
            error: run.failure.map(|failure| failure.message),
        }
    }
}

/// A run, as the `metadata` of its request shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunRecord {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: RunId,
    /// The request it belongs to.
    #[schema(value_type = uuid::Uuid)]
    pub request_id: RequestId,
    /// Where it stands.
    #[serde(with = "text")]
    #[schema(schema_with = schema::run_status)]
    pub status: RunStatus,
    /// When an agent began; null while it waits.
    #[serde(with = "timestamp::offset::optional")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended; null until then.
    #[serde(with = "timestamp::offset::optional")]
    pub finished_at: Option<DateTime<Utc>>,
    /// Its events, in order.
    #[schema(value_type = Vec<schema::RunEventSchema>)]
    pub events: Vec<RunEvent>,
    /// The unified diff; null until there is one.
    pub diff: Option<String>,
    /// How it went.
    pub reports: ReportsView,
    /// What it left.
    pub artifacts: RunArtifacts,
    /// Why it failed; only when it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub error: Option<String>,
}

impl RunRecord {
    /// Puts a run together with its events and its change.
    #[must_use]
    pub fn new(run: &Run, events: Vec<RunEvent>, change_set: Option<&ChangeSet>) -> Self {
        Self {
            id: run.id,
            request_id: run.request,
            status: run.status,
            started_at: run.started_at,
            finished_at: run.finished_at,
            events,
            diff: change_set.map(|set| set.change.diff.clone()),
            reports: ReportsView::of(run),
            artifacts: RunArtifacts::of(run, change_set),
            error: run.failure.as_ref().map(|failure| failure.message.clone()),
        }
    }
}

/// How a run went. Empty until there is something to tell.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct ReportsView {
    /// Exit code of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub codex_exit_code: Option<i32>,
    /// How the repository's tests went, if it names a test command.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub tests: Option<TestsView>,
    /// What the models were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub usage: Option<UsageView>,
}

impl ReportsView {
    /// The reports of a run.
    #[must_use]
    pub fn of(run: &Run) -> Self {
        Self {
            codex_exit_code: run.exit_code,
            tests: run.tests.clone().map(TestsView::from),
            usage: (run.usage != Usage::default()).then(|| run.usage.into()),
        }
    }
}

/// How a repository's own tests went on the agent's last commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestsView {
    /// The command that was run.
    pub command: String,
    /// Its exit code.
    pub exit_code: i32,
    /// The end of its output.
    pub output_tail: String,
}

impl From<TestReport> for TestsView {
    fn from(report: TestReport) -> Self {
        let TestReport { command, exit_code, output_tail } = report;
        Self { command, exit_code, output_tail }
    }
}

/// What models were asked for and gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageView {
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

impl From<Usage> for UsageView {
    fn from(usage: Usage) -> Self {
        let Usage { calls, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens } = usage;
        Self { calls, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens }
    }
}

/// What a run left. Empty until there is something.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct RunArtifacts {
    /// The branch that holds the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub branch: Option<String>,
    /// The last commit of the change, in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub commit: Option<String>,
    /// What the agent said last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub final_message: Option<String>,
}

impl RunArtifacts {
    /// What a run left, with its change.
    #[must_use]
    pub fn of(run: &Run, change_set: Option<&ChangeSet>) -> Self {
        Self {
            branch: change_set.map(|set| set.change.branch.clone()),
            commit: change_set.map(|set| set.change.head_commit.clone()),
            final_message: run.final_message.clone(),
        }
    }
}
