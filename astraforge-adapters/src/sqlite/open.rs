//! Opens the database file, and says clearly why it cannot.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sqlx::{
    ConnectOptions as _, Connection as _, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous},
};

use super::error::{code, code_of};
use crate::{
    secret_box::{SecretKey, SecretKeyError},
    sql::{
        Migration,
        key_check::{self, KeyError},
        row::SqlResult,
    },
};

/// The migrations, forward only. Their number is the schema's version, which SQLite keeps as `user_version`.
const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/sqlite/0001_initial.sql"),
    include_str!("../../migrations/sqlite/0002_sandboxes.sql"),
    include_str!("../../migrations/sqlite/0003_leases.sql"),
    include_str!("../../migrations/sqlite/0004_retries.sql"),
    include_str!("../../migrations/sqlite/0005_recent_logs.sql"),
    include_str!("../../migrations/sqlite/0006_priorities.sql"),
    include_str!("../../migrations/sqlite/0007_rounds_and_archives.sql"),
    include_str!("../../migrations/sqlite/0008_nodes.sql"),
    include_str!("../../migrations/sqlite/0009_accounts.sql"),
    include_str!("../../migrations/sqlite/0010_api_keys.sql"),
    include_str!("../../migrations/sqlite/0011_identities.sql"),
    include_str!("../../migrations/sqlite/0012_audit.sql"),
    include_str!("../../migrations/sqlite/0013_calls.sql"),
    include_str!("../../migrations/sqlite/0014_requests_of_state.sql"),
];

/// Marks a file as ours, as SQLite's `application_id`: "AsFo".
const APPLICATION_ID: i64 = 0x4173_466f;

/// How long a writer waits for another process to finish its transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that read; each has a thread.
const READERS: u32 = 4;

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder of the file is not there.
    #[error("cannot open the database `{}`: its folder does not exist; create it first", path.display())]
    FolderMissing {
        /// The file.
        path: PathBuf,
    },
    /// The file or its folder may not be read or written.
    #[error("cannot open the database `{}`: permission denied; check the owner and mode of file and folder", path.display())]
    PermissionDenied {
        /// The file.
        path: PathBuf,
    },
    /// The disk is full.
    #[error("cannot open the database `{}`: the disk is full; free some space, then try again", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// Another process holds the file.
    #[error("cannot open the database `{}`: another process has locked it", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file is no SQLite database, or a damaged one.
    #[error("`{}` is not a database, or is damaged; name another file, or restore it from a backup", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The file is a database of another program.
    #[error("`{}` is a database of another program; name another file", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A newer AstraForge made or changed the file.
    #[error(
        "the database `{}` has schema version {found}, this program knows versions up to {known}; use a newer \
         program, or restore the backup from before the update", path.display()
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// The schema's version in the file.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The file was made with another key.
    #[error("the secrets in the database `{}` were sealed with another key; use the key file it was made with", path.display())]
    WrongKey {
        /// The file.
        path: PathBuf,
    },
    /// The system gave no random bytes to seal with.
    #[error("cannot seal secrets")]
    Sealing(#[source] SecretKeyError),
    /// Something else failed.
    #[error("cannot open the database `{}`", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// Why.
        source: astraforge_core::BoxError,
    },
}

/// The connections to one database file, and what opening it did to its schema.
#[derive(Debug)]
pub(super) struct Opened {
    /// One connection: SQLite has one writer at a time, and here they queue in order instead of polling a lock.
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
    pub(super) migration: Migration,
}

/// Opens or makes the file, brings its schema up to date and checks the key.
pub(super) async fn open(path: &Path, key: &SecretKey) -> Result<Opened, OpenError> {
    // Absolute, so that no name is taken for a URI.
    let path = std::path::absolute(path).map_err(|error| io_error(path, error))?;
    // Made here rather than by SQLite: only the owner may read it, and SQLite gives its side files the same mode.
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| io_error(&path, error))?;
    let migration = prepare(&path, key).await?;
    let opened = async {
        Ok(Opened {
            writer: pool_options(1).connect_with(options(&path)).await?,
            readers: pool_options(READERS).connect_with(options(&path)).await?,
            migration,
        })
    };
    opened.await.map_err(|error| sql_error(&path, error))
}

async fn prepare(path: &Path, key: &SecretKey) -> Result<Migration, OpenError> {
    let sql = |error| sql_error(path, error);
    let mut connection = options(path).connect().await.map_err(sql)?;
    enter_wal(&mut connection).await.map_err(sql)?;
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(sql)?;
    let migration = migrate(&mut transaction, path).await?;
    key_check::check(&mut *transaction, key).await.map_err(|error| match error {
        KeyError::Sql(error) => sql_error(path, error),
        KeyError::Wrong => OpenError::WrongKey { path: path.to_owned() },
        KeyError::Sealing(error) => OpenError::Sealing(error),
    })?;
    transaction.commit().await.map_err(sql)?;
    connection.close().await.map_err(sql)?;
    Ok(migration)
}

/// Write-ahead logging lets readers read while one writes. Entering it takes a lock that SQLite does not wait for.
async fn enter_wal(connection: &mut SqliteConnection) -> SqlResult<()> {
    let begun = Instant::now();
    loop {
        match sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&mut *connection).await {
            Err(error) if code_of(&error) == Some(code::BUSY) && begun.elapsed() < BUSY_TIMEOUT => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => return result.map(|_| ()),
        }
    }
}

async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<Migration, OpenError> {
    let sql = |error| sql_error(path, error);
    let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await.map_err(sql)?;
    let owner: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await.map_err(sql)?;
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *connection).await.map_err(sql)?;
    let known = MIGRATIONS.len() as i64;
    let is_fresh = tables == 0 && found == 0 && owner == 0;
    if !is_fresh && owner != APPLICATION_ID {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    if found > known {
        return Err(OpenError::NewerSchema { path: path.to_owned(), found, known });
    }
    for (version, migration) in (1i64..).zip(MIGRATIONS).skip(usize::try_from(found).unwrap_or(0)) {
        sqlx::raw_sql(*migration).execute(&mut *connection).await.map_err(sql)?;
        let mark = format!("PRAGMA user_version = {version}; PRAGMA application_id = {APPLICATION_ID}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(mark)).execute(&mut *connection).await.map_err(sql)?;
        tracing::debug!(version, path = %path.display(), "a step of the database's schema was taken");
    }
    if found < known {
        tracing::info!(from = found, to = known, path = %path.display(), "database schema updated");
    }
    Ok(Migration { from: found, to: known })
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        // Survives the death of the process at any point: the kernel has what was committed. A power cut may take the
        // last commits, but leaves whole ones: SQLite syncs the log before it copies it into the database.
        .synchronous(SqliteSynchronous::Normal)
        .disable_statement_logging()
}

fn pool_options(connections: u32) -> SqlitePoolOptions {
    // A connection to a file does not go stale: no end to its life, and no test before use, but the one before a transaction.
    SqlitePoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
}

fn io_error(path: &Path, error: io::Error) -> OpenError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => OpenError::FolderMissing { path },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => OpenError::PermissionDenied { path },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OpenError::DiskFull { path },
        io::ErrorKind::IsADirectory => OpenError::NotADatabase { path },
        _ => OpenError::Other { path, source: error.into() },
    }
}

fn sql_error(path: &Path, error: sqlx::Error) -> OpenError {
    let path = path.to_owned();
    match code_of(&error) {
        Some(code::NOT_A_DATABASE | code::CORRUPT) => OpenError::NotADatabase { path },
        Some(code::BUSY) => OpenError::Locked { path },
        Some(code::FULL) => OpenError::DiskFull { path },
        Some(code::READONLY) => OpenError::PermissionDenied { path },
        _ => OpenError::Other { path, source: error.into() },
    }
}
