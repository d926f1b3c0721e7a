//! The store, over any database that speaks SQL; each brings a [`Dialect`].
//!
//! Statements are the same for all, and so are the tables; what differs is a constant of the dialect.

use std::fmt;

use astraforge_core::{
    access::ApiKey,
    event::{NewEvent, RunEvent},
    id::{ApiKeyId, ChangeSetId, JobId, MergeRequestId, RepositoryLinkId, RequestId, RunId, TenantId},
    job::{Claim, Job, JobState, Limits, QueuedJob},
    merge_request::MergeRequest,
    page::{Page, Paged},
    ports::store::{Changes, LogEnd, LogState, RestingLog, Store, StoreError},
    repository::RepositoryLink,
    request::{Attachment, Message, Request, RequestState, approval::Approval, change_set::ChangeSet},
    run::{Run, Usage},
    run_log::LogArchive,
    schedule::Turn,
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{Pool, pool::PoolConnection};

use self::{
    error::{failed, taken},
    row::{Cells, SqlResult},
    statement::Statements,
    transaction::in_transaction,
    warm::{Taken, Warm},
};
use crate::secret_box::SecretKey;

mod accounts;
mod api_keys;
mod archives;
mod audit;
mod calls;
mod changes;
mod commit;
pub(crate) mod error;
pub(crate) mod jobs;
pub(crate) mod key_check;
mod links;
pub(crate) mod log;
pub(crate) mod pages;
mod requests;
pub(crate) mod row;
mod runs;
pub(crate) mod sandboxes;
mod schedules;
pub(crate) mod statement;
mod transaction;
pub(crate) mod warm;

/// What one database does in its own way.
#[async_trait]
pub trait Dialect: sqlx::Database<Row: Cells, Connection: Statements<Row = <Self as sqlx::Database>::Row>> {
    /// Begins a transaction that writes.
    const BEGIN: &'static str;
    /// Locks a request for whoever counts its events; `None` where a transaction that writes has the database alone.
    const LOCK_REQUEST: Option<&'static str>;
    /// Writes events from a list of lists in JSON: request, sequence number, run, kind, time.
    const INSERT_EVENTS: &'static str;
    /// Reads how the logs of requests stand; the placeholder is a list of their ids in JSON.
    const LOG_STATES: &'static str;
    /// Has nobody else claim a job until the transaction ends; `None` where a transaction that writes has the database alone.
    const LOCK_CLAIMS: Option<&'static str>;
    /// Takes the job whose turn it is; the placeholders are the time, the lease's end and the most jobs of a tenant and of all.
    const CLAIM: &'static str;
    /// Takes over the running job whose lease ended first; the placeholders are the time and the lease's end.
    const TAKE_OVER: &'static str;
    /// Finds a job that is held by a claim, and keeps it so until the transaction ends.
    const CHECK_CLAIM: &'static str;
    /// Reads the sandboxes of the tenant of a snapshot, and keeps them as they are until the transaction ends.
    const SANDBOXES_BESIDE_SNAPSHOT: &'static str;
    /// Notes a login of an account that has a password and may log in, which it keeps so until the transaction ends; the
    /// placeholders are the columns of a login, and the password's hash.
    const ADD_LOGIN: &'static str;
    /// Reads what is kept of sandboxes; the placeholder is a list of their ids in JSON.
    const KEPT: &'static str;

    /// Whether a connection is used again before others of the pool, because another process of the server answers each;
    /// for databases that readers and the writer have one pool for.
    const KEEPS_WARM: bool;

    /// Takes a connection that can begin a transaction, whatever the last one left.
    async fn sound_connection(pool: &Pool<Self>) -> SqlResult<PoolConnection<Self>>;

    /// Says in short which database this is, without a password.
    fn describe(pool: &Pool<Self>) -> String;
}

/// Requests, runs, the run log, jobs and sandboxes in a database.
///
/// What was committed survives the death of the process (`kill -9`) at any point. Secrets are sealed with the key.
///
/// # Cancel safety
/// A call whose future is dropped happened wholly or not at all.
pub struct SqlStore<D: Dialect> {
    pub(crate) readers: Pool<D>,
    pub(crate) writer: Pool<D>,
    /// Filled only where both pools are one, see [`Dialect::KEEPS_WARM`].
    pub(crate) warm: Warm<D>,
    pub(crate) key: SecretKey,
    pub(crate) migration: Migration,
}

/// What opening a database did to its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// The version that was found; 0 in an empty database.
    pub from: i64,
    /// The version that it has now, which is this program's.
    pub to: i64,
}

impl<D: Dialect> SqlStore<D> {
    /// What opening did to the schema.
    #[must_use]
    pub fn migration(&self) -> Migration {
        self.migration
    }

    /// Waits until calls under way are done, and closes all connections. Later calls fail.
    pub async fn close(&self) {
        self.warm.close();
        self.readers.close().await;
        self.writer.close().await;
    }

    async fn reader(&self, operation: &'static str) -> Result<Taken<D>, StoreError> {
        self.warm.or(self.readers.acquire()).await.map_err(failed(operation))
    }

    async fn write(&self, changes: &Changes) -> Result<u64, StoreError> {
        in_transaction::<D, _>(&self.warm, &self.writer, "commit", async |connection| {
            commit::apply::<D>(connection, changes).await
        })
        .await
    }

    async fn writer(&self, operation: &'static str) -> Result<Taken<D>, StoreError> {
        self.warm.or(self.writer.acquire()).await.map_err(failed(operation))
    }
}

impl<D: Dialect> fmt::Debug for SqlStore<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore").field("database", &D::describe(&self.writer)).finish_non_exhaustive()
    }
}

#[async_trait]
impl<D: Dialect> Store for SqlStore<D> {
    async fn commit(&self, changes: Changes) -> Result<u64, StoreError> {
        self.write(&changes).await
    }

    async fn request(&self, tenant: &TenantId, id: RequestId) -> Result<Option<Request>, StoreError> {
        let mut connection = self.reader("read a request").await?;
        requests::find(&mut *connection, tenant, id).await.map_err(failed("read a request"))
    }

    async fn requests(&self, tenant: &TenantId) -> Result<Vec<Request>, StoreError> {
        let mut connection = self.reader("list requests").await?;
        requests::list(&mut *connection, tenant).await.map_err(failed("list requests"))
    }

    async fn requests_page(
        &self,
        tenant: &TenantId,
        state: Option<RequestState>,
        page: Page,
    ) -> Result<Paged<Request>, StoreError> {
        let mut connection = self.reader("list requests").await?;
        requests::page(&mut *connection, tenant, state, page).await.map_err(failed("list requests"))
    }

    async fn messages(&self, request: RequestId) -> Result<Vec<Message>, StoreError> {
        let mut connection = self.reader("list messages").await?;
        requests::messages(&mut *connection, request).await.map_err(failed("list messages"))
    }

    async fn attachments(&self, request: RequestId) -> Result<Vec<Attachment>, StoreError> {
        let mut connection = self.reader("list attachments").await?;
        requests::attachments(&mut *connection, request).await.map_err(failed("list attachments"))
    }

    async fn run(&self, tenant: &TenantId, id: RunId) -> Result<Option<Run>, StoreError> {
        let mut connection = self.reader("read a run").await?;
        runs::find(&mut *connection, tenant, id).await.map_err(failed("read a run"))
    }

    async fn runs_of(&self, request: RequestId) -> Result<Vec<Run>, StoreError> {
        let mut connection = self.reader("list the runs of a request").await?;
        runs::of_request(&mut *connection, request).await.map_err(failed("list the runs of a request"))
    }

    async fn runs(&self, tenant: &TenantId) -> Result<Vec<Run>, StoreError> {
        let mut connection = self.reader("list runs").await?;
        runs::list(&mut *connection, tenant).await.map_err(failed("list runs"))
    }

    async fn runs_page(
        &self,
        tenant: &TenantId,
        request: Option<RequestId>,
        page: Page,
    ) -> Result<Paged<Run>, StoreError> {
        let mut connection = self.reader("list runs").await?;
        runs::page(&mut *connection, tenant, request, page).await.map_err(failed("list runs"))
    }

    async fn cancel_requested(&self, run: RunId) -> Result<bool, StoreError> {
        let mut connection = self.reader("read a run").await?;
        runs::cancel_requested(&mut *connection, run).await.map_err(failed("read a run"))
    }

    async fn add_usage(&self, run: RunId, usage: Usage) -> Result<(), StoreError> {
        let mut connection = self.writer("count usage").await?;
        runs::add_usage(&mut *connection, run, usage).await.map_err(failed("count usage"))
    }

    async fn change_set(&self, id: ChangeSetId) -> Result<Option<ChangeSet>, StoreError> {
        let mut connection = self.reader("read a change set").await?;
        changes::change_set(&mut *connection, id).await.map_err(failed("read a change set"))
    }

    async fn latest_change_set(&self, request: RequestId) -> Result<Option<ChangeSet>, StoreError> {
        let mut connection = self.reader("read a change set").await?;
        changes::latest_change_set(&mut *connection, request).await.map_err(failed("read a change set"))
    }

    async fn approvals(&self, request: RequestId) -> Result<Vec<Approval>, StoreError> {
        let mut connection = self.reader("list approvals").await?;
        changes::approvals(&mut *connection, request).await.map_err(failed("list approvals"))
    }

    async fn merge_request(&self, tenant: &TenantId, id: MergeRequestId) -> Result<Option<MergeRequest>, StoreError> {
        let mut connection = self.reader("read a merge request").await?;
        changes::merge_request(&mut *connection, tenant, id).await.map_err(failed("read a merge request"))
    }

    async fn merge_requests(&self, tenant: &TenantId) -> Result<Vec<MergeRequest>, StoreError> {
        let mut connection = self.reader("list merge requests").await?;
        changes::merge_requests(&mut *connection, tenant).await.map_err(failed("list merge requests"))
    }

    async fn merge_requests_page(
        &self,
        tenant: &TenantId,
        request: Option<RequestId>,
        page: Page,
    ) -> Result<Paged<MergeRequest>, StoreError> {
        let mut connection = self.reader("list merge requests").await?;
        changes::merge_requests_page(&mut *connection, tenant, request, page)
            .await
            .map_err(failed("list merge requests"))
    }

    async fn merge_request_of(&self, request: RequestId) -> Result<Option<MergeRequest>, StoreError> {
        let mut connection = self.reader("read a merge request").await?;
        changes::merge_request_of(&mut *connection, request).await.map_err(failed("read a merge request"))
    }

    async fn append(&self, events: Vec<NewEvent>) -> Result<u64, StoreError> {
        self.write(&Changes { events, ..Changes::default() }).await
    }

    async fn events(&self, request: RequestId, after: u64, limit: u32) -> Result<Vec<RunEvent>, StoreError> {
        let mut connection = self.reader("read events").await?;
        log::after::<D>(&mut connection, request, after, limit).await.map_err(failed("read events"))
    }

    async fn events_of_run(&self, run: RunId) -> Result<Vec<RunEvent>, StoreError> {
        let mut connection = self.reader("read the events of a run").await?;
        log::of_run::<D>(&mut connection, run).await.map_err(failed("read the events of a run"))
    }

    async fn last_event(&self, request: RequestId) -> Result<u64, StoreError> {
        let mut connection = self.reader("read the end of a log").await?;
        log::last_seq::<D>(&mut connection, request).await.map_err(failed("read the end of a log"))
    }

    async fn recent_logs(&self, since: DateTime<Utc>, limit: u32) -> Result<Vec<LogEnd>, StoreError> {
        let mut connection = self.reader("list logs").await?;
        log::recent::<D>(&mut connection, since, limit).await.map_err(failed("list logs"))
    }

    async fn log_states(&self, requests: &[RequestId]) -> Result<Vec<LogState>, StoreError> {
        let mut connection = self.reader("look at logs").await?;
        log::states::<D>(&mut connection, requests).await.map_err(failed("look at logs"))
    }

    async fn logs_size(&self) -> Result<u64, StoreError> {
        let mut connection = self.reader("measure logs").await?;
        archives::logs_size(&mut *connection).await.map_err(failed("measure logs"))
    }

    async fn resting_logs(&self, limit: u32) -> Result<Vec<RestingLog>, StoreError> {
        let mut connection = self.reader("list logs at rest").await?;
        archives::resting(&mut *connection, limit).await.map_err(failed("list logs at rest"))
    }

    async fn archives(&self, request: RequestId) -> Result<Vec<LogArchive>, StoreError> {
        let mut connection = self.reader("list archives of a log").await?;
        archives::of_log(&mut *connection, request).await.map_err(failed("list archives of a log"))
    }

    async fn archive(&self, archive: &LogArchive) -> Result<bool, StoreError> {
        in_transaction::<D, _>(&self.warm, &self.writer, "archive events", async |connection| {
            archives::archive::<D>(connection, archive).await
        })
        .await
    }

    async fn claim_job(
        &self,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
        limits: Limits,
    ) -> Result<Option<Job>, StoreError> {
        in_transaction::<D, _>(&self.warm, &self.writer, "claim a job", async |connection| {
            jobs::claim::<D>(connection, now, until, limits).await.map_err(failed("claim a job"))
        })
        .await
    }

    async fn take_over_job(&self, now: DateTime<Utc>, until: DateTime<Utc>) -> Result<Option<Job>, StoreError> {
        let mut connection = self.writer("take over a job").await?;
        jobs::take_over::<D>(&mut connection, now, until).await.map_err(failed("take over a job"))
    }

    async fn renew_lease(&self, claim: Claim, until: DateTime<Utc>) -> Result<bool, StoreError> {
        let mut connection = self.writer("renew a lease").await?;
        jobs::renew(&mut *connection, claim, until).await.map_err(failed("renew a lease"))
    }

    async fn running_jobs(&self) -> Result<Vec<Job>, StoreError> {
        let mut connection = self.reader("list jobs").await?;
        jobs::running(&mut *connection).await.map_err(failed("list jobs"))
    }

    async fn waiting_jobs(&self, request: RequestId) -> Result<Vec<Job>, StoreError> {
        let mut connection = self.reader("list jobs").await?;
        jobs::waiting(&mut *connection, request).await.map_err(failed("list jobs"))
    }

    async fn dead_jobs(&self, request: RequestId) -> Result<Vec<Job>, StoreError> {
        let mut connection = self.reader("list dead jobs").await?;
        jobs::dead(&mut *connection, request).await.map_err(failed("list dead jobs"))
    }

    async fn job(&self, id: JobId) -> Result<Option<QueuedJob>, StoreError> {
        let mut connection = self.reader("read a job").await?;
        jobs::find(&mut *connection, id).await.map_err(failed("read a job"))
    }

    async fn jobs(&self, state: JobState, limit: u32) -> Result<Vec<QueuedJob>, StoreError> {
        let mut connection = self.reader("list jobs").await?;
        jobs::list(&mut *connection, state, limit).await.map_err(failed("list jobs"))
    }

    async fn take_turn(
        &self,
        schedule: &str,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Option<Turn>, StoreError> {
        let mut connection = self.writer("take a turn").await?;
        schedules::take(&mut *connection, schedule, now, until).await.map_err(failed("take a turn"))
    }

    async fn renew_turn(&self, turn: &Turn, until: DateTime<Utc>) -> Result<bool, StoreError> {
        let mut connection = self.writer("renew the lease of a turn").await?;
        schedules::renew(&mut *connection, turn, until).await.map_err(failed("renew the lease of a turn"))
    }

    async fn end_turn(&self, turn: &Turn, due_at: DateTime<Utc>) -> Result<bool, StoreError> {
        let mut connection = self.writer("end a turn").await?;
        schedules::end(&mut *connection, turn, due_at).await.map_err(failed("end a turn"))
    }

    async fn add_link(&self, link: RepositoryLink) -> Result<(), StoreError> {
        let mut connection = self.writer("add a repository link").await?;
        let result = links::add(&mut *connection, &self.key, &link).await;
        result.map_err(taken("add a repository link", "a link to repository", &link.repository))
    }

    async fn link(&self, tenant: &TenantId, id: RepositoryLinkId) -> Result<Option<RepositoryLink>, StoreError> {
        let mut connection = self.reader("read a repository link").await?;
        links::find(&mut *connection, &self.key, tenant, id).await.map_err(failed("read a repository link"))
    }

    async fn links(&self, tenant: &TenantId) -> Result<Vec<RepositoryLink>, StoreError> {
        let mut connection = self.reader("list repository links").await?;
        links::list(&mut *connection, &self.key, tenant).await.map_err(failed("list repository links"))
    }

    async fn links_page(&self, tenant: &TenantId, page: Page) -> Result<Paged<RepositoryLink>, StoreError> {
        let mut connection = self.reader("list repository links").await?;
        links::page(&mut *connection, &self.key, tenant, page).await.map_err(failed("list repository links"))
    }

    async fn update_link(&self, link: RepositoryLink) -> Result<bool, StoreError> {
        let mut connection = self.writer("change a repository link").await?;
        let result = links::update(&mut *connection, &self.key, &link).await;
        result.map_err(taken("change a repository link", "a link to repository", &link.repository))
    }

    async fn remove_link(&self, tenant: &TenantId, id: RepositoryLinkId) -> Result<bool, StoreError> {
        let mut connection = self.writer("remove a repository link").await?;
        links::remove(&mut *connection, tenant, id).await.map_err(failed("remove a repository link"))
    }

    async fn add_api_key(&self, key: ApiKey) -> Result<(), StoreError> {
        let mut connection = self.writer("add an API key").await?;
        api_keys::add(&mut *connection, &key).await.map_err(taken("add an API key", "API key", key.id))
    }

    async fn api_key_by_hash(&self, hash: &str) -> Result<Option<ApiKey>, StoreError> {
        let mut connection = self.reader("look up an API key").await?;
        api_keys::active_by_hash(&mut *connection, hash).await.map_err(failed("look up an API key"))
    }

    async fn api_keys(&self, tenant: &TenantId) -> Result<Vec<ApiKey>, StoreError> {
        let mut connection = self.reader("list API keys").await?;
        api_keys::list(&mut *connection, tenant).await.map_err(failed("list API keys"))
    }

    async fn api_keys_page(&self, tenant: &TenantId, page: Page) -> Result<Paged<ApiKey>, StoreError> {
        let mut connection = self.reader("list API keys").await?;
        api_keys::page(&mut *connection, tenant, page).await.map_err(failed("list API keys"))
    }

    async fn count_api_keys(&self) -> Result<u64, StoreError> {
        let mut connection = self.reader("count API keys").await?;
        api_keys::count(&mut *connection).await.map_err(failed("count API keys"))
    }

    async fn revoke_api_key(&self, tenant: &TenantId, id: ApiKeyId) -> Result<bool, StoreError> {
        let mut connection = self.writer("revoke an API key").await?;
        api_keys::revoke(&mut *connection, tenant, id).await.map_err(failed("revoke an API key"))
    }

    async fn touch_api_key(&self, id: ApiKeyId, now: DateTime<Utc>) -> Result<bool, StoreError> {
        const OPERATION: &str = "note the use of an API key";
        let mut reader = self.reader(OPERATION).await?;
        let Some(minute) = api_keys::new_minute(&mut *reader, id, now).await.map_err(failed(OPERATION))? else {
            return Ok(false);
        };
        drop(reader);
        let mut writer = self.writer(OPERATION).await?;
        api_keys::touch(&mut *writer, id, minute).await.map_err(failed(OPERATION))
    }
}
