//! Requests, runs, the run log, jobs and sandboxes in one SQLite file.

use std::path::Path;

use async_trait::async_trait;
use sqlx::{Connection as _, Pool, Sqlite, SqliteConnection, pool::PoolConnection, sqlite::SqliteRow};

pub(crate) use self::error::trouble;
pub use self::{error::SqliteTrouble, open::OpenError};
use crate::{
    secret_box::SecretKey,
    sql::{Dialect, SqlStore, jobs, log, row::SqlResult, sandboxes, statement::speaks, warm::Warm},
};

mod error;
mod open;
#[cfg(test)]
mod plans;

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
pub type SqliteStore = SqlStore<Sqlite>;

impl SqliteStore {
    /// Opens the database, makes it if it is not there (mode 0600), and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the file, its folder or the key.
    pub async fn open(path: impl AsRef<Path>, key: SecretKey) -> Result<Self, OpenError> {
        let open::Opened { readers, writer, migration } = open::open(path.as_ref(), &key).await?;
        Ok(Self { readers, writer, warm: Warm::default(), key, migration })
    }
}

speaks!(Sqlite, SqliteConnection, SqliteRow, write: std::convert::identity, read: std::borrow::Cow::Borrowed);

#[async_trait]
impl Dialect for Sqlite {
    // The write lock first: a transaction that reads before it writes could not go on beside another.
    const BEGIN: &'static str = "BEGIN IMMEDIATE";
    const LOCK_REQUEST: Option<&'static str> = None;
    const INSERT_EVENTS: &'static str = "INSERT INTO events (request, seq, run, kind, created_at) \
        SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each($1)";
    const ADD_LOGIN: &'static str = "INSERT INTO logins (hash, \"user\", created_at, expires_at) SELECT $1, $2, $3, $4 FROM accounts \
        WHERE \"user\" = $2 AND password_hash = $5 AND is_active";
    const KEPT: &'static str = sandboxes::keeping!("sandbox IN (SELECT value FROM json_each($1))");
    const LOG_STATES: &'static str = log::standing!("id IN (SELECT value FROM json_each($1))");
    const LOCK_CLAIMS: Option<&'static str> = None;
    const CLAIM: &'static str = jobs::claiming!("");
    const TAKE_OVER: &'static str = "UPDATE jobs SET attempts = attempts + 1, claimed_at = $1, lease_until = $2 \
        WHERE position = (SELECT position FROM jobs WHERE state = 'running' AND coalesce(lease_until, 0) < $1 \
        ORDER BY lease_until, position LIMIT 1) RETURNING *";
    const CHECK_CLAIM: &'static str =
        "SELECT 1 AS found FROM jobs WHERE id = $1 AND attempts = $2 AND state = 'running'";
    const SANDBOXES_BESIDE_SNAPSHOT: &'static str =
        "SELECT * FROM sandboxes WHERE tenant = (SELECT tenant FROM snapshots WHERE id = $1)";

    const KEEPS_WARM: bool = false;

    /// Takes the connection that writes, or a new one if the last commit left it in a state of its own.
    ///
    /// After some errors, such as a disk that is full at `COMMIT`, SQLite ends the transaction by itself. sqlx still counts
    /// it as open, and would refuse every later one.
    async fn sound_connection(pool: &Pool<Self>) -> SqlResult<PoolConnection<Self>> {
        loop {
            let mut connection = pool.acquire().await?;
            // The answer also says that a rollback which was queued before it is done.
            connection.ping().await?;
            if !connection.is_in_transaction() {
                return Ok(connection);
            }
            connection.close().await?;
        }
    }

    fn describe(pool: &Pool<Self>) -> String {
        pool.connect_options().get_filename().display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use astraforge_core::{
        job::Limits,
        ports::{
            sandbox_store::SandboxStore as _,
            store::{Changes, Store as _, StoreError},
        },
        sandbox::Snapshot,
        testing::samples::{self, at},
    };

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
        let mut connection = store.writer.acquire().await.unwrap();
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
        // What SQLite does when the disk is full at the end of a transaction.
        sqlx::raw_sql("ROLLBACK").execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap_err();
        drop(connection);
        store.commit(samples::submitted(&samples::request())).await.unwrap();
        assert_eq!(store.requests(&samples::tenant()).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_connection_on_which_a_transaction_failed_is_not_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("db"), SecretKey::random().unwrap()).await.unwrap();
        let (request, sandbox) = (samples::request(), samples::sandbox());
        let job = samples::execute(&samples::run(&request));
        // What is temporary belongs to one connection.
        let fail_once = async |event: &str| {
            let text = format!("CREATE TEMP TRIGGER broken BEFORE {event} BEGIN SELECT RAISE(ABORT, 'broken'); END");
            sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&store.writer).await.unwrap();
        };

        fail_once("INSERT ON main.requests").await;
        let changes = || Changes { new_jobs: vec![job.clone()], ..samples::submitted(&request) };
        store.commit(changes()).await.unwrap_err();
        store.commit(changes()).await.unwrap();

        fail_once("UPDATE ON main.jobs").await;
        store.claim_job(at(9), at(20), Limits::NONE).await.unwrap_err();
        assert!(store.claim_job(at(9), at(20), Limits::NONE).await.unwrap().is_some());

        store.add_sandbox(&sandbox).await.unwrap();
        let snapshot = Snapshot { sandbox: sandbox.id, ..samples::snapshot() };
        store.add_snapshot(&snapshot).await.unwrap();
        fail_once("DELETE ON main.snapshots").await;
        store.remove_snapshot(snapshot.id).await.unwrap_err();
        assert!(store.remove_snapshot(snapshot.id).await.unwrap());
    }

    async fn limit_pages(store: &SqliteStore, pragma: &'static str) {
        sqlx::raw_sql(pragma).execute(&store.writer).await.unwrap();
    }
}
