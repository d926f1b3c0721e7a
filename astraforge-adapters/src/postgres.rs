//! Requests, runs, the run log, jobs and sandboxes in PostgreSQL, which any number of servers share.

use async_trait::async_trait;
use sqlx::{PgConnection, Pool, Postgres, pool::PoolConnection, postgres::PgRow};

pub(crate) use self::error::trouble;
pub use self::{
    error::PostgresTrouble,
    open::{OpenError, PostgresConfig},
    wakeups::PostgresWakeups,
};
use crate::{
    secret_box::SecretKey,
    sql::{Dialect, SqlStore, jobs, log, row::SqlResult, sandboxes, statement::speaks, warm::Warm},
};

mod error;
mod open;
mod text;
mod wakeups;

/// A store in a PostgreSQL database, version 14 or newer.
///
/// What was committed is on the server's disk, as far as its `synchronous_commit` and `fsync` promise. Access tokens,
/// environments and sandboxes are sealed with the key: all servers of one database need the same.
///
/// # Cancel safety
/// A call whose future is dropped happened wholly or not at all.
///
/// ```no_run
/// use astraforge_adapters::{postgres::{PostgresConfig, PostgresStore}, secret_box::SecretKey};
/// use astraforge_core::{id::TenantId, ports::store::Store};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let key = SecretKey::load_or_create("secret.key")?;
/// let config = PostgresConfig::new("postgres://astraforge:secret@db.example:5432/astraforge")?;
/// let store = PostgresStore::open(&config, key).await?;
/// assert!(store.requests(&TenantId::new("acme")).await?.is_empty());
/// # Ok(()) }
/// ```
pub type PostgresStore = SqlStore<Postgres>;

impl PostgresStore {
    /// Connects, and brings the schema up to date; servers that start at the same time take turns.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the address, the login, the database or the key.
    pub async fn open(config: &PostgresConfig, key: SecretKey) -> Result<Self, OpenError> {
        let (pool, migration) = open::open(config, &key).await?;
        Ok(Self { readers: pool.clone(), writer: pool, warm: Warm::default(), key, migration })
    }
}

speaks!(Postgres, PgConnection, PgRow, write: text::write, read: text::read);

#[async_trait]
impl Dialect for Postgres {
    const BEGIN: &'static str = "BEGIN";
    const LOCK_REQUEST: Option<&'static str> = Some("SELECT 1 AS found FROM requests WHERE id = $1 FOR NO KEY UPDATE");
    const INSERT_EVENTS: &'static str = "INSERT INTO events (request, seq, run, kind, created_at) \
        SELECT value ->> 0, (value ->> 1)::bigint, value ->> 2, value ->> 3, (value ->> 4)::bigint \
        FROM json_array_elements($1::json)";
    const ADD_LOGIN: &'static str = "INSERT INTO logins (hash, \"user\", created_at, expires_at) SELECT $1, $2, $3::bigint, $4::bigint FROM accounts \
        WHERE \"user\" = $2 AND password_hash = $5 AND is_active FOR SHARE";
    const KEPT: &'static str = sandboxes::keeping!("sandbox = ANY (ARRAY (SELECT json_array_elements_text($1::json)))");
    const LOG_STATES: &'static str = log::standing!("id = ANY (ARRAY (SELECT json_array_elements_text($1::json)))");
    const LOCK_CLAIMS: Option<&'static str> = Some("SELECT pg_advisory_xact_lock(1098073711, 1)::text");
    const CLAIM: &'static str = jobs::claiming!(" FOR UPDATE OF jobs SKIP LOCKED");
    const TAKE_OVER: &'static str = "UPDATE jobs SET attempts = attempts + 1, claimed_at = $1, lease_until = $2 \
        WHERE position = (SELECT position FROM jobs WHERE state = 'running' AND coalesce(lease_until, 0) < $1 \
        ORDER BY lease_until, position LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING *";
    const CHECK_CLAIM: &'static str = "SELECT 1 AS found FROM jobs \
        WHERE id = $1 AND attempts = $2 AND state = 'running' FOR UPDATE";
    const SANDBOXES_BESIDE_SNAPSHOT: &'static str = "SELECT * FROM sandboxes \
        WHERE tenant = (SELECT tenant FROM snapshots WHERE id = $1) ORDER BY position FOR UPDATE";

    const KEEPS_WARM: bool = true;

    async fn sound_connection(pool: &Pool<Self>) -> SqlResult<PoolConnection<Self>> {
        pool.acquire().await
    }

    fn describe(pool: &Pool<Self>) -> String {
        open::name(&pool.connect_options())
    }
}
