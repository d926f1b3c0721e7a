//! Hints between the processes of one database.

use std::{sync::LazyLock, time::Duration};

use astraforge_adapters::postgres::{PostgresConfig, PostgresWakeups};
use astraforge_core::{
    ports::wakeup::{Topic, Wakeups as _},
    testing::wakeups_conformance::TwoProcesses,
};
use futures::StreamExt as _;
use sqlx::Executor as _;
use tokio::{runtime::Runtime, time::timeout};

use crate::{Database, PATIENCE, until};

/// The rules are asked without a runtime; what works in the background has this one.
static BACKGROUND: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

async fn up(config: &PostgresConfig) -> PostgresWakeups {
    let wakeups = PostgresWakeups::start(config);
    is_up(&wakeups).await;
    wakeups
}

async fn is_up(wakeups: &PostgresWakeups) {
    until("hints are carried", async || wakeups.check().is_ok()).await;
}

mod in_one_process {
    astraforge_core::wakeups_conformance!(
        super::BACKGROUND.block_on(async { super::up(&super::Database::new().await.config()).await })
    );
}

mod between_two {
    astraforge_core::wakeups_conformance!(super::BACKGROUND.block_on(async {
        let config = super::Database::new().await.config();
        super::TwoProcesses { teller: super::up(&config).await, reader: super::up(&config).await }
    }));
}

#[tokio::test]
async fn processes_of_another_database_are_left_alone() {
    let (one, other) = (up(&Database::new().await.config()).await, up(&Database::new().await.config()).await);
    let (mut mine, mut theirs) = (one.watch(Topic::Jobs), other.watch(Topic::Jobs));
    one.wake(Topic::Jobs);
    assert_eq!(timeout(PATIENCE, mine.next()).await, Ok(Some(())));
    assert!(timeout(Duration::from_millis(300), theirs.next()).await.is_err());
}

#[tokio::test]
async fn hints_come_again_after_the_server_ended_all_connections() {
    let database = Database::new().await;
    let (one, other) = (up(&database.config()).await, up(&database.config()).await);
    let mut jobs = other.watch(Topic::Jobs);
    for _ in 0..3 {
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                    WHERE datname = current_database() AND pid <> pg_backend_pid()";
        let killed = database.raw().await.fetch_all(kill).await.unwrap().len();
        assert!(killed >= 2, "{killed} connections were ended");
        // Whatever was told meanwhile, a reader looks once the connection is back.
        assert_eq!(timeout(PATIENCE, jobs.next()).await, Ok(Some(())));
        is_up(&one).await;
        is_up(&other).await;
        while timeout(Duration::from_millis(50), jobs.next()).await.is_ok() {}
        one.wake(Topic::Jobs);
        assert_eq!(timeout(PATIENCE, jobs.next()).await, Ok(Some(())));
    }
}

#[tokio::test]
async fn a_process_holds_two_connections_and_gives_them_back() {
    let database = Database::new().await;
    let mut raw = database.raw().await;
    let wakeups = up(&database.config()).await;
    let others = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    assert_eq!(raw.fetch_all(others).await.unwrap().len(), 2);
    drop(wakeups);
    // The server learns of closed connections a moment later.
    until("the connections are closed", async || raw.fetch_all(others).await.unwrap().is_empty()).await;
}

#[tokio::test]
async fn waking_waits_for_no_server_and_the_check_says_that_there_is_none() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = PostgresConfig::new(&format!("postgres://someone:hush@127.0.0.1:{port}/x")).unwrap();
    let wakeups = PostgresWakeups::start(&config);
    let mut jobs = wakeups.watch(Topic::Jobs);
    for _ in 0..10_000 {
        wakeups.wake(Topic::Jobs);
    }
    assert_eq!(timeout(PATIENCE, jobs.next()).await, Ok(Some(())), "readers of this process are woken anyway");
    let trouble = || wakeups.check().unwrap_err().to_string();
    until("it was tried to connect", async || !trouble().contains("not connected yet")).await;
    let trouble = trouble();
    assert!(trouble.contains(&format!("PostgreSQL at 127.0.0.1:{port}/x carries no hints")), "{trouble}");
    assert!(!trouble.contains("hush"), "{trouble}");
}

#[tokio::test]
async fn rubbish_on_the_channel_harms_nobody() {
    let database = Database::new().await;
    let (one, other) = (up(&database.config()).await, up(&database.config()).await);
    let mut jobs = other.watch(Topic::Jobs);
    for rubbish in ["", "jobs", "{}", "00000000-0000-0000-0000-000000000000 log:x plan:y"] {
        let statement = format!("NOTIFY astraforge_hints, '{rubbish}'");
        database.raw().await.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
    }
    one.wake(Topic::Jobs);
    assert_eq!(timeout(PATIENCE, jobs.next()).await, Ok(Some(())));
}
