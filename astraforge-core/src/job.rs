//! Background jobs: work that was accepted and must not be forgotten.

use std::{fmt, num::NonZeroU32, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    event::EventKind,
    id::{ChangeSetId, JobId, MergeRequestId, RequestId, RunId, TenantId},
};

pub mod backoff;
pub mod desk;

/// A piece of work in the queue. At most one job of a request runs at a time, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// The tenant it is done for.
    pub tenant: TenantId,
    /// The request it belongs to.
    pub request: RequestId,
    /// What is to be done.
    pub kind: JobKind,
    /// How often it was begun. Whoever began it last holds it; see [`Claim`].
    pub attempts: u32,
    /// How often it failed for a reason that may pass, or lost its worker, since a person last queued it.
    pub failures: u32,
    /// When it was queued.
    pub created_at: DateTime<Utc>,
}

impl Job {
    /// A job that waits for a worker.
    #[must_use]
    pub fn new(tenant: TenantId, request: RequestId, kind: JobKind, now: DateTime<Utc>) -> Self {
        Self { id: JobId::random(), tenant, request, kind, attempts: 0, failures: 0, created_at: now }
    }

    /// The claim of whoever got the job like this from the queue.
    #[must_use]
    pub fn claim(&self) -> Claim {
        Claim { job: self.id, attempt: self.attempts }
    }
}

/// A job as it stands in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedJob {
    /// The job.
    pub job: Job,
    /// Where it stands.
    pub state: JobState,
    /// When it may be begun, if it failed and waits for that.
    pub not_before: Option<DateTime<Utc>>,
    /// Why it failed last.
    pub error: Option<String>,
}

/// Where a job stands that is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits for a worker.
    Waiting,
    /// A worker is at it.
    Running,
    /// It failed too often. Nothing happens until a person has it tried again, or drops it.
    Dead,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Waiting, Self::Running, Self::Dead];

    /// The name, as stores and command lines have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no state of a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no state of a job: expected waiting, running or dead")]
pub struct ParseJobStateError(String);

impl FromStr for JobState {
    type Err = ParseJobStateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| ParseJobStateError(text.to_owned()))
    }
}

/// A worker's hold on a job, for as long as it renews its lease. Each attempt has a number of its own: what a worker
/// writes that was taken for dead, and whose job another one has begun again, is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: u32,
}

/// How many jobs may be at work at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Of one tenant; as many as there are workers, if `None`.
    pub per_tenant: Option<NonZeroU32>,
    /// Of all tenants together, whatever the number of workers; as many as there are workers, if `None`.
    pub in_all: Option<NonZeroU32>,
}

impl Limits {
    /// As many as there are workers.
    pub const NONE: Self = Self { per_tenant: None, in_all: None };
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobKind {
    /// Lets an agent work.
    Execute {
        /// The run to do.
        run: RunId,
    },
    /// Publishes an approved change.
    OpenMergeRequest {
        /// The change set that was approved.
        change_set: ChangeSetId,
    },
    /// Reviews a merge request.
    Review {
        /// The merge request to review.
        merge_request: MergeRequestId,
    },
}

impl JobKind {
    /// Which jobs of a tenant go first, whatever their age: the higher ones. A publication and its review take moments, and
    /// a person who has decided waits for them.
    #[must_use]
    pub const fn priority(self) -> u8 {
        match self {
            Self::Execute { .. } => 0,
            Self::OpenMergeRequest { .. } | Self::Review { .. } => 1,
        }
    }

    /// The run that it lets an agent do.
    pub(crate) const fn run(self) -> Option<RunId> {
        match self {
            Self::Execute { run } => Some(run),
            Self::OpenMergeRequest { .. } | Self::Review { .. } => None,
        }
    }

    /// What the log says of a job that failed for good.
    pub(crate) fn failed(self, message: String) -> EventKind {
        let stage = match self {
            Self::Execute { .. } => "execution",
            Self::OpenMergeRequest { .. } => "mr",
            Self::Review { .. } => "review",
        };
        EventKind::Error { stage: Some(stage.to_owned()), message, output: None, exit_code: None }
    }
}
