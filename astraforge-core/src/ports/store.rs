//! The port for everything that must survive a restart.

use std::fmt;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    BoxError,
    access::ApiKey,
    event::{NewEvent, RunEvent},
    id::{ApiKeyId, ChangeSetId, JobId, MergeRequestId, RepositoryLinkId, RequestId, RunId, TenantId},
    job::{Claim, Job, JobState, Limits, QueuedJob},
    merge_request::MergeRequest,
    page::{Page, Paged},
    ports::call_store::CallStore,
    repository::RepositoryLink,
    request::{Attachment, Message, Request, RequestState, approval::Approval, change_set::ChangeSet},
    run::{Run, Usage},
    run_log::LogArchive,
    schedule::Turn,
};

/// Keeps requests and all that belongs to them.
///
/// # Contract
/// - [`commit`](Self::commit) is one transaction: all of it happens or none.
/// - Reads that take a tenant answer `None` (or nothing) for another tenant's rows, as if they did not exist.
/// - What a commit wrote, the next read sees.
/// - Pages that follow each other hold every row once that was there all the time; a page reads no more rows than it holds
///   and one.
/// - Each store passes the `store_conformance!` suite of `testing`.
/// - It is a [`CallStore`] too, so that what a call made and how it was answered are kept in one place.
#[async_trait]
pub trait Store: CallStore + fmt::Debug + Send + Sync + 'static {
    /// Applies changes in one transaction and returns the last sequence number of the request's log.
    ///
    /// What belongs to a request that is not there is refused. Ending a job that is over, or unknown, changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the request has another version than the one expected (load it again and decide
    /// anew), [`StoreError::AlreadyExists`] for an id that is taken, [`StoreError::ClaimLost`] when the job is over or
    /// another worker's, [`StoreError::JobMoved`] when the job seen stands elsewhere.
    async fn commit(&self, changes: Changes) -> Result<u64, StoreError>;

    /// Finds a request.
    async fn request(&self, tenant: &TenantId, id: RequestId) -> Result<Option<Request>, StoreError>;
    /// Lists requests, the newest first.
    async fn requests(&self, tenant: &TenantId) -> Result<Vec<Request>, StoreError>;
    /// Lists requests in the same order, of one state or of all, a page at a time.
    async fn requests_page(
        &self,
        tenant: &TenantId,
        state: Option<RequestState>,
        page: Page,
    ) -> Result<Paged<Request>, StoreError>;
    /// Lists the messages of a request, the oldest first.
    async fn messages(&self, request: RequestId) -> Result<Vec<Message>, StoreError>;
    /// Lists the attachments of a request.
    async fn attachments(&self, request: RequestId) -> Result<Vec<Attachment>, StoreError>;

    /// Finds a run.
    async fn run(&self, tenant: &TenantId, id: RunId) -> Result<Option<Run>, StoreError>;
    /// Lists the runs of a request, the oldest first.
    async fn runs_of(&self, request: RequestId) -> Result<Vec<Run>, StoreError>;
    /// Lists all runs, the newest first.
    async fn runs(&self, tenant: &TenantId) -> Result<Vec<Run>, StoreError>;
    /// Lists runs, the newest first, of one request or of all, a page at a time.
    async fn runs_page(
        &self,
        tenant: &TenantId,
        request: Option<RequestId>,
        page: Page,
    ) -> Result<Paged<Run>, StoreError>;
    /// Tells whether a person asked for the run to stop.
    async fn cancel_requested(&self, run: RunId) -> Result<bool, StoreError>;
    /// Adds to what a run's model calls used; safe beside concurrent commits.
    async fn add_usage(&self, run: RunId, usage: Usage) -> Result<(), StoreError>;

    /// Finds a change set.
    async fn change_set(&self, id: ChangeSetId) -> Result<Option<ChangeSet>, StoreError>;
    /// Finds the newest change set of a request.
    async fn latest_change_set(&self, request: RequestId) -> Result<Option<ChangeSet>, StoreError>;
    /// Lists the approvals of a request, the oldest first.
    async fn approvals(&self, request: RequestId) -> Result<Vec<Approval>, StoreError>;

    /// Finds a merge request.
    async fn merge_request(&self, tenant: &TenantId, id: MergeRequestId) -> Result<Option<MergeRequest>, StoreError>;
    /// Finds the merge request of a request, the newest if there are several.
    async fn merge_request_of(&self, request: RequestId) -> Result<Option<MergeRequest>, StoreError>;
    /// Lists merge requests, the newest first.
    async fn merge_requests(&self, tenant: &TenantId) -> Result<Vec<MergeRequest>, StoreError>;
    /// Lists merge requests in the same order, of one request or of all, a page at a time.
    async fn merge_requests_page(
        &self,
        tenant: &TenantId,
        request: Option<RequestId>,
        page: Page,
    ) -> Result<Paged<MergeRequest>, StoreError>;

    /// Writes events at the end of their requests' logs and returns the last sequence number.
    async fn append(&self, events: Vec<NewEvent>) -> Result<u64, StoreError>;
    /// Reads at most `limit` events after sequence number `after`, in order, of those that are rows. Others are in archives;
    /// [`RunLogs`](crate::run_log::RunLogs) reads both.
    async fn events(&self, request: RequestId, after: u64, limit: u32) -> Result<Vec<RunEvent>, StoreError>;
    /// Reads all events of one run that are rows, in order.
    async fn events_of_run(&self, run: RunId) -> Result<Vec<RunEvent>, StoreError>;
    /// Tells the sequence number of the last event of a log, be it archived; 0 when there is none.
    async fn last_event(&self, request: RequestId) -> Result<u64, StoreError>;
    /// Lists the ends of the logs of those requests that changed since then or have a job at work: at most `limit`, those
    /// that changed last first.
    async fn recent_logs(&self, since: DateTime<Utc>, limit: u32) -> Result<Vec<LogEnd>, StoreError>;

    /// Tells how the logs of those of these requests stand that are there, each as of one moment, in no order.
    async fn log_states(&self, requests: &[RequestId]) -> Result<Vec<LogState>, StoreError>;

    /// Tells how many bytes the events of all logs have as rows, roughly.
    async fn logs_size(&self) -> Result<u64, StoreError>;
    /// Lists logs with rows that may be archived: of requests at rest ([`RequestState::is_at_rest`]) whose logs cannot grow
    /// without a person acting ([`LogState::may_grow`]). At most `limit`, those whose requests changed first.
    ///
    /// [`RequestState::is_at_rest`]: crate::request::RequestState::is_at_rest
    async fn resting_logs(&self, limit: u32) -> Result<Vec<RestingLog>, StoreError>;
    /// Lists the archives of a log in the order of their events.
    async fn archives(&self, request: RequestId) -> Result<Vec<LogArchive>, StoreError>;
    /// Writes that events are archived and removes their rows, in one transaction. Tells whether it did: it does nothing
    /// unless the log [may be archived](Self::resting_logs), and its first rows are exactly these events.
    async fn archive(&self, archive: &LogArchive) -> Result<bool, StoreError>;

    /// Takes a waiting job and marks it running on a lease until `until`: of the tenant that has the fewest at work, the
    /// oldest one of the highest [priority](crate::job::JobKind::priority). None is taken beyond the limits.
    ///
    /// Jobs of a request are done one at a time and in order: one waits while another one runs, and while an older one
    /// waits, be it for its time.
    async fn claim_job(
        &self,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
        limits: Limits,
    ) -> Result<Option<Job>, StoreError>;
    /// Takes over the running job whose lease ended first and before `now`, as one more attempt on a lease until `until`.
    async fn take_over_job(&self, now: DateTime<Utc>, until: DateTime<Utc>) -> Result<Option<Job>, StoreError>;
    /// Renews a lease; tells whether the claim still holds.
    async fn renew_lease(&self, claim: Claim, until: DateTime<Utc>) -> Result<bool, StoreError>;
    /// Lists jobs that are marked running.
    async fn running_jobs(&self) -> Result<Vec<Job>, StoreError>;
    /// Lists the waiting jobs of a request, the oldest first.
    async fn waiting_jobs(&self, request: RequestId) -> Result<Vec<Job>, StoreError>;
    /// Lists the dead jobs of a request, the oldest first.
    async fn dead_jobs(&self, request: RequestId) -> Result<Vec<Job>, StoreError>;
    /// Finds a job of any tenant that is not over.
    async fn job(&self, id: JobId) -> Result<Option<QueuedJob>, StoreError>;
    /// Lists at most `limit` jobs of all tenants in a state, the oldest first.
    async fn jobs(&self, state: JobState, limit: u32) -> Result<Vec<QueuedJob>, StoreError>;

    /// Takes a turn at a schedule that is due, on a lease until `until`, if nobody has one whose lease has not ended before
    /// `now`. A schedule that was never heard of is due.
    async fn take_turn(
        &self,
        schedule: &str,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Option<Turn>, StoreError>;
    /// Renews the lease of a turn; tells whether it is still the last one that was taken, and not over.
    async fn renew_turn(&self, turn: &Turn, until: DateTime<Utc>) -> Result<bool, StoreError>;
    /// Ends a turn, and has the next one due at `due_at`; tells whether it was still the last one, and not over.
    async fn end_turn(&self, turn: &Turn, due_at: DateTime<Utc>) -> Result<bool, StoreError>;

    /// Adds a repository link.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] when the tenant has one for the same provider and repository.
    async fn add_link(&self, link: RepositoryLink) -> Result<(), StoreError>;
    /// Finds a repository link.
    async fn link(&self, tenant: &TenantId, id: RepositoryLinkId) -> Result<Option<RepositoryLink>, StoreError>;
    /// Lists repository links, the oldest first.
    async fn links(&self, tenant: &TenantId) -> Result<Vec<RepositoryLink>, StoreError>;
    /// Lists repository links in the same order, a page at a time.
    async fn links_page(&self, tenant: &TenantId, page: Page) -> Result<Paged<RepositoryLink>, StoreError>;
    /// Replaces a repository link; tells whether there was one.
    async fn update_link(&self, link: RepositoryLink) -> Result<bool, StoreError>;
    /// Removes a repository link; tells whether there was one.
    async fn remove_link(&self, tenant: &TenantId, id: RepositoryLinkId) -> Result<bool, StoreError>;

    /// Adds an API key.
    async fn add_api_key(&self, key: ApiKey) -> Result<(), StoreError>;
    /// Finds an active API key by its hash.
    async fn api_key_by_hash(&self, hash: &str) -> Result<Option<ApiKey>, StoreError>;
    /// Lists API keys, the oldest first.
    async fn api_keys(&self, tenant: &TenantId) -> Result<Vec<ApiKey>, StoreError>;
    /// Lists API keys, the newest first, a page at a time.
    async fn api_keys_page(&self, tenant: &TenantId, page: Page) -> Result<Paged<ApiKey>, StoreError>;
    /// Counts all API keys of all tenants, revoked ones too.
    async fn count_api_keys(&self) -> Result<u64, StoreError>;
    /// Revokes an API key; tells whether there was one.
    async fn revoke_api_key(&self, tenant: &TenantId, id: ApiKeyId) -> Result<bool, StoreError>;
    /// Notes that a key was used, to the minute; tells whether that minute was not noted yet.
    async fn touch_api_key(&self, id: ApiKeyId, now: DateTime<Utc>) -> Result<bool, StoreError>;
}

/// What one commit changes.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The claim that this is written under: if it does not hold any more, nothing is.
    pub claim: Option<Claim>,
    /// A job that must stand as somebody saw it: if it does not any more, nothing is written.
    pub seen_job: Option<(JobId, JobState)>,
    /// The request, as it is to be.
    pub request: Option<RequestChange>,
    /// Messages to add.
    pub messages: Vec<Message>,
    /// Attachments to add.
    pub attachments: Vec<Attachment>,
    /// Runs to add or replace. What [`Store::add_usage`] counts is left as it is for a run that exists.
    /// A cancellation that was asked for stays asked for.
    pub runs: Vec<Run>,
    /// A change set to add.
    pub change_set: Option<ChangeSet>,
    /// An approval to add.
    pub approval: Option<Approval>,
    /// A merge request to add or replace.
    pub merge_request: Option<MergeRequest>,
    /// Jobs to queue.
    pub new_jobs: Vec<Job>,
    /// Jobs that are over.
    pub ended_jobs: Vec<EndedJob>,
    /// Running jobs that their worker gives back: they wait again, with no failure counted.
    pub handed_back_jobs: Vec<JobId>,
    /// Running jobs that failed, and wait or are dead.
    pub failed_jobs: Vec<FailedJob>,
    /// Dead or waiting jobs that may be begun at once, with their failures forgotten.
    pub revived_jobs: Vec<JobId>,
    /// Events to write at the end of the log.
    pub events: Vec<NewEvent>,
}

impl Changes {
    /// Adds what others make of jobs.
    pub(crate) fn absorb_jobs(&mut self, other: Self) {
        self.ended_jobs.extend(other.ended_jobs);
        self.revived_jobs.extend(other.revived_jobs);
    }

    /// Whether the queue is another one after this.
    pub(crate) fn changes_queue(&self) -> bool {
        !(self.new_jobs.is_empty()
            && self.ended_jobs.is_empty()
            && self.handed_back_jobs.is_empty()
            && self.failed_jobs.is_empty()
            && self.revived_jobs.is_empty())
    }
}

/// A request as it is to be, and the version that must be there now.
#[derive(Debug, Clone)]
pub struct RequestChange {
    /// The request; its `version` field is ignored and counted by the store.
    pub request: Request,
    /// What must be there now.
    pub expected: Expected,
}

/// What must be in the store for a commit to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// No request with that id.
    Absent,
    /// The request at this version.
    Version(u64),
}

/// Where a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// The request whose log it is.
    pub request: RequestId,
    /// The sequence number of its last event; 0 when there is none.
    pub last: u64,
}

/// How a log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogState {
    /// Where it ends.
    pub end: LogEnd,
    /// Whether it may grow without a person acting: a job waits or is at work, a run is not over, or none has begun yet.
    pub may_grow: bool,
}

/// A log that may be archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestingLog {
    /// The request whose log it is.
    pub request: RequestId,
    /// When the request last changed.
    pub since: DateTime<Utc>,
    /// How many bytes its events have as rows, roughly.
    pub size: u64,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedJob {
    /// The job.
    pub id: JobId,
    /// `None` when it did its work, else why not.
    pub error: Option<String>,
}

/// A job that failed, and is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedJob {
    /// The job.
    pub id: JobId,
    /// Why.
    pub error: String,
    /// When it may be begun again; `None` when it is dead.
    pub not_before: Option<DateTime<Utc>>,
}

/// Why a store call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Somebody else changed the request in the meantime.
    #[error("request `{id}` was changed by somebody else in the meantime")]
    Conflict {
        /// The request.
        id: RequestId,
    },
    /// The worker's job is over, or another worker's by now.
    #[error("job `{job}` is over or another worker's by now, so nothing was written")]
    ClaimLost {
        /// The job.
        job: JobId,
    },
    /// The job is over, or in another state, since somebody looked at it.
    #[error("job `{job}` is not {seen} any more, so nothing was written")]
    JobMoved {
        /// The job.
        job: JobId,
        /// Where it stood.
        seen: JobState,
    },
    /// The id or name is taken.
    #[error("{what} already exists")]
    AlreadyExists {
        /// What is taken.
        what: String,
    },
    /// What is kept there is damaged, or of a form that this program does not know. The rest can be read.
    #[error("the store cannot {operation}: what it holds is unreadable")]
    Unreadable {
        /// What was tried.
        operation: &'static str,
        /// What is wrong with it.
        #[source]
        source: BoxError,
    },
    /// The store failed.
    #[error("the store failed to {operation}")]
    Backend {
        /// What was tried.
        operation: &'static str,
        /// The store's own error.
        #[source]
        source: BoxError,
    },
}
