//! Requests, runs, the run log and jobs in one SQLite file.

use std::{fmt, path::Path};

use astraforge_core::{
    access::ApiKey,
    event::{NewEvent, RunEvent},
    id::{ApiKeyId, ChangeSetId, MergeRequestId, RepositoryLinkId, RequestId, RunId, TenantId},
    job::Job,
    merge_request::MergeRequest,
    ports::store::{Changes, Store, StoreError},
    repository::RepositoryLink,
    request::{Attachment, Message, Request, approval::Approval, change_set::ChangeSet},
    run::{Run, Usage},
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};

pub use self::{error::SqliteTrouble, open::OpenError};
use self::{
    error::{failed, taken},
    open::Pools,
};
use crate::secret_box::SecretKey;

mod api_keys;
mod changes;
mod commit;
mod error;
mod jobs;
mod links;
mod log;
mod open;
mod requests;
mod row;
mod runs;
mod sandboxes;

/// A store in one SQLite file, which several processes of one machine may share.
///
/// What was committed survives the death of the process (`kill -9`) at any point; a power cut may take the last commits,
/// never a part of one. Access tokens and environments of repository links are sealed with the key.
///
/// # Cancel safety
/// A call whose future is dropped happened wholly or not at all.
///
/// ```
/// use astraforge_adapters::{secret_box::SecretKey, sqlite::SqliteStore};
/// use astraforge_core::{id::TenantId, ports::store::Store};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let folder = tempfile::tempdir()?;
/// let key = SecretKey::load_or_create(folder.path().join("secret.key"))?;
/// let store = SqliteStore::open(folder.path().join("astraforge.db"), key).await?;
/// assert!(store.requests(&TenantId::new("acme")).await?.is_empty());
/// store.close().await;
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SqliteStore {
    pools: Pools,
    key: SecretKey,
}

impl SqliteStore {
    /// Opens the database, makes it if it is not there (mode 0600), and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the file, its folder or the key.
    pub async fn open(path: impl AsRef<Path>, key: SecretKey) -> Result<Self, OpenError> {
        let pools = open::open(path.as_ref(), &key).await?;
        Ok(Self { pools, key })
    }

    /// Waits until calls under way are done, and closes the file. Later calls fail.
    pub async fn close(&self) {
        self.pools.readers.close().await;
        self.pools.writer.close().await;
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = self.pools.writer.connect_options();
        f.debug_struct("SqliteStore").field("path", &options.get_filename()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn commit(&self, changes: Changes) -> Result<u64, StoreError> {
        commit::commit(&self.pools.writer, &changes).await
    }

    async fn request(&self, tenant: &TenantId, id: RequestId) -> Result<Option<Request>, StoreError> {
        requests::find(&self.pools.readers, tenant, id).await.map_err(failed("read a request"))
    }

    async fn requests(&self, tenant: &TenantId) -> Result<Vec<Request>, StoreError> {
        requests::list(&self.pools.readers, tenant).await.map_err(failed("list requests"))
    }

    async fn messages(&self, request: RequestId) -> Result<Vec<Message>, StoreError> {
        requests::messages(&self.pools.readers, request).await.map_err(failed("list messages"))
    }

    async fn attachments(&self, request: RequestId) -> Result<Vec<Attachment>, StoreError> {
        requests::attachments(&self.pools.readers, request).await.map_err(failed("list attachments"))
    }

    async fn run(&self, tenant: &TenantId, id: RunId) -> Result<Option<Run>, StoreError> {
        runs::find(&self.pools.readers, tenant, id).await.map_err(failed("read a run"))
    }

    async fn runs_of(&self, request: RequestId) -> Result<Vec<Run>, StoreError> {
        runs::of_request(&self.pools.readers, request).await.map_err(failed("list the runs of a request"))
    }

    async fn runs(&self, tenant: &TenantId) -> Result<Vec<Run>, StoreError> {
        runs::list(&self.pools.readers, tenant).await.map_err(failed("list runs"))
    }

    async fn cancel_requested(&self, run: RunId) -> Result<bool, StoreError> {
        runs::cancel_requested(&self.pools.readers, run).await.map_err(failed("read a run"))
    }

    async fn add_usage(&self, run: RunId, usage: Usage) -> Result<(), StoreError> {
        runs::add_usage(&self.pools.writer, run, usage).await.map_err(failed("count usage"))
    }

    async fn change_set(&self, id: ChangeSetId) -> Result<Option<ChangeSet>, StoreError> {
        changes::change_set(&self.pools.readers, id).await.map_err(failed("read a change set"))
    }

    async fn latest_change_set(&self, request: RequestId) -> Result<Option<ChangeSet>, StoreError> {
        changes::latest_change_set(&self.pools.readers, request).await.map_err(failed("read a change set"))
    }

    async fn approvals(&self, request: RequestId) -> Result<Vec<Approval>, StoreError> {
        changes::approvals(&self.pools.readers, request).await.map_err(failed("list approvals"))
    }

    async fn merge_request(&self, tenant: &TenantId, id: MergeRequestId) -> Result<Option<MergeRequest>, StoreError> {
        changes::merge_request(&self.pools.readers, tenant, id).await.map_err(failed("read a merge request"))
    }

    async fn merge_requests(&self, tenant: &TenantId) -> Result<Vec<MergeRequest>, StoreError> {
        changes::merge_requests(&self.pools.readers, tenant).await.map_err(failed("list merge requests"))
    }

    async fn append(&self, events: Vec<NewEvent>) -> Result<u64, StoreError> {
        commit::commit(&self.pools.writer, &Changes { events, ..Changes::default() }).await
    }

    async fn events(&self, request: RequestId, after: u64, limit: u32) -> Result<Vec<RunEvent>, StoreError> {
        log::after(&self.pools.readers, request, after, limit).await.map_err(failed("read events"))
    }

    async fn events_of_run(&self, run: RunId) -> Result<Vec<RunEvent>, StoreError> {
        log::of_run(&self.pools.readers, run).await.map_err(failed("read the events of a run"))
    }

    async fn claim_job(&self, now: DateTime<Utc>) -> Result<Option<Job>, StoreError> {
        jobs::claim(&self.pools.writer, now).await.map_err(failed("claim a job"))
    }

    async fn running_jobs(&self) -> Result<Vec<Job>, StoreError> {
        jobs::running(&self.pools.readers).await.map_err(failed("list jobs"))
    }

    async fn waiting_jobs(&self, request: RequestId) -> Result<Vec<Job>, StoreError> {
        jobs::waiting(&self.pools.readers, request).await.map_err(failed("list jobs"))
    }

    async fn add_link(&self, link: RepositoryLink) -> Result<(), StoreError> {
        let result = links::add(&self.pools.writer, &self.key, &link).await;
        result.map_err(taken("add a repository link", "a link to repository", &link.repository))
    }

    async fn link(&self, tenant: &TenantId, id: RepositoryLinkId) -> Result<Option<RepositoryLink>, StoreError> {
        links::find(&self.pools.readers, &self.key, tenant, id).await.map_err(failed("read a repository link"))
    }

    async fn links(&self, tenant: &TenantId) -> Result<Vec<RepositoryLink>, StoreError> {
        links::list(&self.pools.readers, &self.key, tenant).await.map_err(failed("list repository links"))
    }

    async fn update_link(&self, link: RepositoryLink) -> Result<bool, StoreError> {
        let result = links::update(&self.pools.writer, &self.key, &link).await;
        result.map_err(taken("change a repository link", "a link to repository", &link.repository))
    }

    async fn remove_link(&self, tenant: &TenantId, id: RepositoryLinkId) -> Result<bool, StoreError> {
        links::remove(&self.pools.writer, tenant, id).await.map_err(failed("remove a repository link"))
    }

    async fn add_api_key(&self, key: ApiKey) -> Result<(), StoreError> {
        api_keys::add(&self.pools.writer, &key).await.map_err(taken("add an API key", "API key", key.id))
    }

    async fn api_key_by_hash(&self, hash: &str) -> Result<Option<ApiKey>, StoreError> {
        api_keys::active_by_hash(&self.pools.readers, hash).await.map_err(failed("look up an API key"))
    }

    async fn api_keys(&self, tenant: &TenantId) -> Result<Vec<ApiKey>, StoreError> {
        api_keys::list(&self.pools.readers, tenant).await.map_err(failed("list API keys"))
    }

    async fn count_api_keys(&self) -> Result<u64, StoreError> {
        api_keys::count(&self.pools.readers).await.map_err(failed("count API keys"))
    }

    async fn revoke_api_key(&self, tenant: &TenantId, id: ApiKeyId) -> Result<bool, StoreError> {
        api_keys::revoke(&self.pools.writer, tenant, id).await.map_err(failed("revoke an API key"))
    }

    async fn touch_api_key(&self, id: ApiKeyId, now: DateTime<Utc>) -> Result<(), StoreError> {
        let Pools { readers, writer } = &self.pools;
        api_keys::touch(readers, writer, id, now).await.map_err(failed("note the use of an API key"))
    }
}

#[cfg(test)]
mod tests {
    use astraforge_core::testing::samples;

    use super::*;

    #[tokio::test]
    async fn a_full_disk_is_said_and_the_store_works_on_when_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("db"), SecretKey::random().unwrap()).await.unwrap();
        let request = samples::request();
        store.commit(samples::submitted(&request)).await.unwrap();
        // SQLite answers the same to a full disk and to a file that may not grow.
        limit_pages(&store, "PRAGMA max_page_count = 1").await;
        let long = || samples::log(request.id, "x".repeat(100_000));
        let error = store.append(vec![long()]).await.unwrap_err();
        let StoreError::Backend { source, .. } = &error else { panic!("{error:?}") };
        assert!(matches!(source.downcast_ref(), Some(SqliteTrouble::DiskFull(_))), "{source:?}");
        limit_pages(&store, "PRAGMA max_page_count = 1000000").await;
        assert_eq!(store.append(vec![long()]).await.unwrap(), 1, "the failed one left nothing");
    }

    #[tokio::test]
    async fn a_transaction_that_sqlite_ended_by_itself_does_not_stop_later_ones() {
        use sqlx::Connection as _;

        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("db"), SecretKey::random().unwrap()).await.unwrap();
        let mut connection = store.pools.writer.acquire().await.unwrap();
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
        // What SQLite does when the disk is full at the end of a transaction.
        sqlx::raw_sql("ROLLBACK").execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap_err();
        drop(connection);
        store.commit(samples::submitted(&samples::request())).await.unwrap();
        assert_eq!(store.requests(&samples::tenant()).await.unwrap().len(), 1);
    }

    async fn limit_pages(store: &SqliteStore, pragma: &'static str) {
        sqlx::raw_sql(pragma).execute(&store.pools.writer).await.unwrap();
    }
}
