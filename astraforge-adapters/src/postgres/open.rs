//! Connects to the database, and says clearly why it cannot.

use std::{fmt, io, time::Duration};

use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::error::code_of;
use crate::{
    secret_box::{SecretKey, SecretKeyError},
    sql::{
        Migration,
        key_check::{self, KeyError},
        row::{Columns as _, SqlResult},
        statement::Statements as _,
        warm::TRUSTED,
    },
};

/// The migrations, forward only. Their number is the schema's version.
const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/postgres/0001_initial.sql"),
    include_str!("../../migrations/postgres/0002_sandboxes.sql"),
    include_str!("../../migrations/postgres/0003_leases.sql"),
    include_str!("../../migrations/postgres/0004_retries.sql"),
    include_str!("../../migrations/postgres/0005_recent_logs.sql"),
    include_str!("../../migrations/postgres/0006_priorities.sql"),
    include_str!("../../migrations/postgres/0007_rounds_and_archives.sql"),
    include_str!("../../migrations/postgres/0008_nodes.sql"),
    include_str!("../../migrations/postgres/0009_accounts.sql"),
    include_str!("../../migrations/postgres/0010_api_keys.sql"),
    include_str!("../../migrations/postgres/0011_identities.sql"),
    include_str!("../../migrations/postgres/0012_audit.sql"),
    include_str!("../../migrations/postgres/0013_calls.sql"),
    include_str!("../../migrations/postgres/0014_requests_of_state.sql"),
];

/// Held by whoever changes the schema: "AsFo".
const MIGRATION_LOCK: i64 = 0x4173_466f;

/// How long a server may take to answer when a connection is made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a call waits for a connection that is free.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the server stops by itself: a statement that takes too long, one that waits too long for another's lock, and a
/// transaction whose client is silent.
const TIMEOUTS: [(&str, &str); 3] =
    [("statement_timeout", "30s"), ("lock_timeout", "10s"), ("idle_in_transaction_session_timeout", "60s")];

/// Where the database is, and how it is used.
///
/// ```
/// let config = astraforge_adapters::postgres::PostgresConfig::new("postgres://localhost/astraforge")?;
/// let config = config.with_max_connections(5);
/// # Ok::<(), astraforge_adapters::postgres::OpenError>(())
/// ```
#[derive(Clone)]
pub struct PostgresConfig {
    options: PgConnectOptions,
    max_connections: u32,
}

impl PostgresConfig {
    /// Reads an address such as `postgres://user:password@host:5432/database?sslmode=require`. `sslmode` is one of
    /// `disable`, `prefer` (the default), `require`, `verify-ca` and `verify-full`; `sslrootcert` names a file.
    ///
    /// # Errors
    /// [`OpenError::Address`].
    pub fn new(url: &str) -> Result<Self, OpenError> {
        let known = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
        let parsed = if known { url.parse::<PgConnectOptions>().ok() } else { None };
        let options = parsed.ok_or(OpenError::Address)?;
        Ok(Self { options, max_connections: 10 })
    }

    /// Has this process open at most so many connections; 10 unless set, at least 1.
    #[must_use]
    pub fn with_max_connections(mut self, max_connections: u32) -> Self {
        self.max_connections = max_connections.max(1);
        self
    }

    /// Host, port and name.
    pub(super) fn name(&self) -> String {
        name(&self.options)
    }

    /// What the server stops by itself holds for each connection.
    pub(super) fn for_statements(&self) -> PgConnectOptions {
        self.options.clone().application_name("astraforge").options(TIMEOUTS).disable_statement_logging()
    }

    /// Says why no connection came to be, or what was the matter with the first statements.
    pub(super) fn explain(&self, error: sqlx::Error) -> OpenError {
        let database = self.name();
        match (code_of(&error).map(str::to_owned).as_deref(), error) {
            (None, sqlx::Error::Io(source)) => OpenError::Unreachable { database, source },
            (None, source @ sqlx::Error::Tls(_)) => OpenError::Tls { database, source },
            (Some("28P01" | "28000"), source) => OpenError::LoginRefused { database, source },
            (Some("3D000"), _) => OpenError::NoDatabase { database },
            (Some("42501"), source) => OpenError::PermissionDenied { database, source },
            (_, source) => OpenError::Other { database, source },
        }
    }
}

// Without the password.
impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { options, max_connections } = self;
        f.debug_struct("PostgresConfig")
            .field("database", &name(options))
            .field("max_connections", max_connections)
            .finish()
    }
}

/// Which database it is, for people: host, port and name.
pub(super) fn name(options: &PgConnectOptions) -> String {
    format!("{}:{}/{}", options.get_host(), options.get_port(), options.get_database().unwrap_or_default())
}

/// Why a database could not be opened. None of the texts holds a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The address is not one.
    #[error(
        "the database address is no `postgres://user:password@host:port/database`; a password with signs such as `@` or `/` has them percent-encoded"
    )]
    Address,
    /// Nobody answers there.
    #[error("no PostgreSQL server answers at {database}: look at host, port and firewall, and whether it runs")]
    Unreachable {
        /// Host, port and name.
        database: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The server did not answer in time.
    #[error("the PostgreSQL server at {database} does not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Silent {
        /// Host, port and name.
        database: String,
    },
    /// The login is refused.
    #[error("the PostgreSQL server refuses the login to {database}: look at user and password, and at its pg_hba.conf")]
    LoginRefused {
        /// Host, port and name.
        database: String,
        /// What the server says.
        #[source]
        source: sqlx::Error,
    },
    /// The server has no such database.
    #[error("there is no database {database}: create it, owned by the login")]
    NoDatabase {
        /// Host, port and name.
        database: String,
    },
    /// The connection cannot be encrypted as asked.
    #[error("no encrypted connection to {database}: look at `sslmode` and `sslrootcert` in the address")]
    Tls {
        /// Host, port and name.
        database: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The login may not make tables.
    #[error("the login may not change the schema of {database}: let it own the database, or the schema")]
    PermissionDenied {
        /// Host, port and name.
        database: String,
        /// What the server says.
        #[source]
        source: sqlx::Error,
    },
    /// The database is another program's.
    #[error("the database {database} holds tables of another program; name an empty one")]
    Foreign {
        /// Host, port and name.
        database: String,
    },
    /// A newer AstraForge changed the schema.
    #[error(
        "the database {database} has schema version {found}, this program knows versions up to {known}; use a newer \
         program, or restore the backup from before the update"
    )]
    NewerSchema {
        /// Host, port and name.
        database: String,
        /// The schema's version there.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The database was made with another key.
    #[error("the secrets in the database {database} were sealed with another key; use the key that it was made with")]
    WrongKey {
        /// Host, port and name.
        database: String,
    },
    /// The system gave no random bytes to seal with.
    #[error("cannot seal secrets")]
    Sealing(#[source] SecretKeyError),
    /// Something else failed.
    #[error("cannot open the database {database}")]
    Other {
        /// Host, port and name.
        database: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
}

/// Connects, brings the schema up to date and checks the key.
pub(super) async fn open(config: &PostgresConfig, key: &SecretKey) -> Result<(PgPool, Migration), OpenError> {
    let mut connection = connect(config).await?;
    let migration = prepare(&mut connection, key).await.map_err(|trouble| match trouble {
        Trouble::Foreign => OpenError::Foreign { database: config.name() },
        Trouble::Newer(found) => {
            OpenError::NewerSchema { database: config.name(), found, known: MIGRATIONS.len() as i64 }
        }
        Trouble::Key(KeyError::Wrong) => OpenError::WrongKey { database: config.name() },
        Trouble::Key(KeyError::Sealing(error)) => OpenError::Sealing(error),
        Trouble::Sql(error) | Trouble::Key(KeyError::Sql(error)) => config.explain(error),
    })?;
    connection.close().await.map_err(|error| config.explain(error))?;
    let pool = PgPoolOptions::new().max_connections(config.max_connections).acquire_timeout(ACQUIRE_TIMEOUT);
    // To ask before each use would cost a round trip each time; it was asked when it was given back.
    let pool = pool.test_before_acquire(false).before_acquire(|connection, meta| {
        Box::pin(async move {
            if meta.idle_for >= TRUSTED {
                connection.ping().await?;
            }
            Ok(true)
        })
    });
    Ok((pool.connect_lazy_with(config.for_statements()), migration))
}

/// Opens one connection.
pub(super) async fn connect(config: &PostgresConfig) -> Result<PgConnection, OpenError> {
    match tokio::time::timeout(CONNECT_TIMEOUT, config.for_statements().connect()).await {
        Ok(connected) => connected.map_err(|error| config.explain(error)),
        Err(_) => Err(OpenError::Silent { database: config.name() }),
    }
}

enum Trouble {
    Sql(sqlx::Error),
    Foreign,
    Newer(i64),
    Key(KeyError),
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

/// Migrates in one transaction, alone.
async fn prepare(connection: &mut PgConnection, key: &SecretKey) -> Result<Migration, Trouble> {
    let mut transaction = connection.begin().await?;
    // A table may be large, and another server may be at it.
    for limit in ["SET LOCAL statement_timeout = 0", "SET LOCAL lock_timeout = 0"] {
        transaction.execute(limit, []).await?;
    }
    transaction.rows("SELECT pg_advisory_xact_lock($1)::text", [MIGRATION_LOCK.into()]).await?;
    let found = version(&mut transaction).await?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(Trouble::Newer(found));
    }
    for (version, migration) in (1i64..).zip(MIGRATIONS).skip(usize::try_from(found).unwrap_or(0)) {
        sqlx::raw_sql(*migration).execute(&mut *transaction).await?;
        transaction.execute("UPDATE astraforge_schema SET version = $1", [version.into()]).await?;
        tracing::debug!(version, "a step of the database's schema was taken");
    }
    key_check::check(&mut *transaction, key).await.map_err(Trouble::Key)?;
    transaction.commit().await?;
    if found < known {
        tracing::info!(from = found, to = known, "database schema updated");
    }
    Ok(Migration { from: found, to: known })
}

/// Reads the schema's version; in an empty database it is 0.
async fn version(connection: &mut PgConnection) -> Result<i64, Trouble> {
    let tables = "SELECT count(*) AS n, count(*) FILTER (WHERE table_name = 'astraforge_schema') AS ours \
                  FROM information_schema.tables WHERE table_schema = current_schema()";
    let counted = connection.row(tables, []).await?.ok_or(sqlx::Error::RowNotFound)?;
    match (counted.number::<i64>("n")?, counted.number::<i64>("ours")?) {
        (0, _) => {
            connection.execute("CREATE TABLE astraforge_schema (version BIGINT NOT NULL)", []).await?;
            connection.execute("INSERT INTO astraforge_schema (version) VALUES (0)", []).await?;
            Ok(0)
        }
        (_, 0) => Err(Trouble::Foreign),
        _ => read_version(connection).await.map_err(Trouble::Sql),
    }
}

async fn read_version(connection: &mut PgConnection) -> SqlResult<i64> {
    let row = connection.row("SELECT version FROM astraforge_schema", []).await?;
    row.map_or(Ok(0), |row| row.number("version"))
}
