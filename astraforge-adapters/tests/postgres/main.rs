//! The PostgreSQL store keeps the rules of every store, and those of a server that many share.
//!
//! `cargo xtask test --only services` starts a server for these.

#![expect(clippy::unwrap_used, reason = "a failing test is what this code is for")]

#[path = "../it/archiving.rs"]
mod archiving;
mod audit;
#[path = "../it/audit_story.rs"]
mod audit_story;
mod connections;
mod opening;
mod plans;
mod schema;
mod sharing;
mod wakeups;

use std::time::{Duration, Instant};

use astraforge_adapters::{
    postgres::{PostgresConfig, PostgresStore},
    secret_box::SecretKey,
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

/// Names a database of the server, as one who may make others.
const VARIABLE: &str = "ASTRAFORGE_TEST_POSTGRES";

/// How long something may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(20);

mod conformance {
    astraforge_core::store_conformance!(crate::fresh());
}
mod sandboxes {
    astraforge_core::sandbox_store_conformance!(crate::fresh());
}
mod accounts {
    astraforge_core::account_store_conformance!(crate::fresh());
}
mod audit_log {
    astraforge_core::audit_log_conformance!(crate::fresh());
}
mod calls {
    astraforge_core::call_store_conformance!(crate::fresh());
}

/// A store in a database of its own.
async fn fresh() -> ((), PostgresStore) {
    ((), Database::new().await.open(&SecretKey::random().unwrap()).await)
}

/// Waits until something is so that happens by itself, and says what did not come.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "in vain for {} s: {what}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A database of its own on the server.
struct Database {
    server: String,
    name: String,
}

impl Database {
    async fn new() -> Self {
        let server = std::env::var(VARIABLE).unwrap_or_else(|_| panic!("{VARIABLE} has to name a PostgreSQL server"));
        let database = Self { server, name: format!("test_{}", Uuid::new_v4().simple()) };
        database.on_server(format!("CREATE DATABASE {}", database.name)).await;
        database
    }

    async fn on_server(&self, statement: String) {
        let mut connection = PgConnection::connect(&self.server).await.unwrap();
        connection.execute(AssertSqlSafe(statement)).await.unwrap();
        connection.close().await.unwrap();
    }

    fn url(&self) -> String {
        let (address, _) = self.server.rsplit_once('/').unwrap();
        format!("{address}/{}", self.name)
    }

    fn config(&self) -> PostgresConfig {
        PostgresConfig::new(&self.url()).unwrap().with_max_connections(8)
    }

    async fn open(&self, key: &SecretKey) -> PostgresStore {
        PostgresStore::open(&self.config(), key.clone()).await.unwrap()
    }

    /// A connection beside the store, as another program would have it.
    async fn raw(&self) -> PgConnection {
        PgConnection::connect(&self.url()).await.unwrap()
    }
}
