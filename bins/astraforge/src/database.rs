//! Where requests, runs, jobs and sandboxes are kept: in a file of the data folder, or in a PostgreSQL database.

use std::{path::Path, sync::Arc};

use anyhow::{Context, bail};
use astraforge_adapters::{
    postgres::{PostgresConfig, PostgresStore},
    secret_box::SecretKey,
    sql::Migration,
    sqlite::SqliteStore,
};
use astraforge_core::ports::{
    account_store::AccountStore, audit_log::AuditLog, sandbox_store::SandboxStore, store::Store,
};
use clap::Args;

use crate::config::given;

/// Which database is used.
#[derive(Debug, Args)]
pub(crate) struct DatabaseArgs {
    /// Database, such as `postgres://user:password@host/name`; set the variable instead, which other users of the
    /// machine can't see [default: a SQLite file in DATA]
    #[arg(long, global = true, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    database_url: Option<String>,
    /// How many connections to a PostgreSQL server this process opens at most
    #[arg(
        long,
        global = true,
        env = "DATABASE_MAX_CONNECTIONS",
        value_name = "N",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    database_max_connections: u32,
}

/// A database that is open.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    /// A file, which the processes of one machine share.
    Sqlite(Arc<SqliteStore>),
    /// A server.
    Postgres(Arc<PostgresStore>),
}

impl DatabaseArgs {
    /// Opens it; a file is in the data folder at `root`. `key` seals secrets in it.
    pub(crate) async fn open(&self, root: &Path, key: SecretKey) -> anyhow::Result<Database> {
        Ok(match self.postgres()? {
            Some(config) => Database::Postgres(Arc::new(PostgresStore::open(&config, key).await?)),
            None => Database::Sqlite(Arc::new(SqliteStore::open(root.join("astraforge.db"), key).await?)),
        })
    }

    /// Makes sure that the processes of an installation can meet: a file is one machine's.
    pub(crate) fn require_server(&self, program: &str) -> anyhow::Result<()> {
        if self.postgres()?.is_none() {
            bail!(
                "{program} shares a database with the other programs of its installation: set DATABASE_URL to a \
                 PostgreSQL server, or use `astraforge up`, which needs none"
            );
        }
        Ok(())
    }

    /// The PostgreSQL server, if one is named.
    pub(crate) fn postgres(&self) -> anyhow::Result<Option<PostgresConfig>> {
        let Some(url) = given(self.database_url.as_deref()) else { return Ok(None) };
        Ok(Some(
            PostgresConfig::new(url)
                .context("DATABASE_URL cannot be used")?
                .with_max_connections(self.database_max_connections),
        ))
    }
}

impl Database {
    /// Requests and all that belongs to them.
    pub(crate) fn requests(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(store) => store.clone(),
            Self::Postgres(store) => store.clone(),
        }
    }

    /// What opening it did to its schema.
    pub(crate) fn migration(&self) -> Migration {
        match self {
            Self::Sqlite(store) => store.migration(),
            Self::Postgres(store) => store.migration(),
        }
    }

    /// Durable sandboxes.
    pub(crate) fn sandboxes(&self) -> Arc<dyn SandboxStore> {
        match self {
            Self::Sqlite(store) => store.clone(),
            Self::Postgres(store) => store.clone(),
        }
    }

    /// People who log in.
    pub(crate) fn accounts(&self) -> Arc<dyn AccountStore> {
        match self {
            Self::Sqlite(store) => store.clone(),
            Self::Postgres(store) => store.clone(),
        }
    }

    /// The audit.
    pub(crate) fn audit(&self) -> Arc<dyn AuditLog> {
        match self {
            Self::Sqlite(store) => store.clone(),
            Self::Postgres(store) => store.clone(),
        }
    }

    /// Whether other nodes may use it at the same time.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Waits until calls under way are done, and closes it.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Postgres(store) => store.close().await,
        }
    }
}
