//! Background jobs: work that was accepted and must not be forgotten.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::id::{ChangeSetId, JobId, MergeRequestId, RequestId, RunId, TenantId};

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
    /// When it was queued.
    pub created_at: DateTime<Utc>,
}

impl Job {
    /// A job that waits for a worker.
    #[must_use]
    pub fn new(tenant: TenantId, request: RequestId, kind: JobKind, now: DateTime<Utc>) -> Self {
        Self { id: JobId::random(), tenant, request, kind, attempts: 0, created_at: now }
    }

    /// The claim of whoever got the job like this from the queue.
    #[must_use]
    pub fn claim(&self) -> Claim {
        Claim { job: self.id, attempt: self.attempts }
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
