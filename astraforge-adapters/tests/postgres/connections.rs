//! Which of its connections a store uses.

use std::time::Duration;

use astraforge_adapters::{postgres::PostgresStore, secret_box::SecretKey};
use astraforge_core::{
    id::{NodeId, SandboxId, UserId},
    node::Node,
    ports::{
        account_store::AccountStore as _,
        sandbox_store::SandboxStore as _,
        store::{Store as _, StoreError},
    },
    testing::samples,
};
use futures::future::try_join_all;
use sqlx::{Executor as _, PgConnection, Row as _};
use tokio::time::timeout;

use crate::{Database, PATIENCE};

/// How many connections a store has open.
async fn n_open(raw: &mut PgConnection) -> i64 {
    let statement = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND application_name = 'astraforge'";
    raw.fetch_one(statement).await.unwrap().get(0)
}

#[tokio::test]
async fn writes_one_after_the_other_use_one_connection() {
    let database = Database::new().await;
    let store = database.open(&SecretKey::random().unwrap()).await;
    for _ in 0..50 {
        store.commit(samples::submitted(&samples::request())).await.unwrap();
    }
    assert_eq!(n_open(&mut database.raw().await).await, 1);
}

#[tokio::test]
async fn whoever_waits_for_a_connection_has_the_next_one() {
    let database = Database::new().await;
    let config = database.config().with_max_connections(1);
    let store = PostgresStore::open(&config, SecretKey::random().unwrap()).await.unwrap();
    let request = samples::request();
    store.commit(samples::submitted(&request)).await.unwrap();
    let calls = (0..200).map(async |n: usize| match n % 3 {
        0 => store.append(vec![samples::log(request.id, "a line")]).await.map(drop),
        1 => store.events(request.id, 0, 1).await.map(drop),
        _ => store.count_api_keys().await.map(drop),
    });
    timeout(Duration::from_secs(9), try_join_all(calls)).await.expect("none waits in vain").unwrap();
}

#[tokio::test]
async fn a_connection_that_the_server_ended_is_not_used_again() {
    let database = Database::new().await;
    let store = database.open(&SecretKey::random().unwrap()).await;
    store.commit(samples::submitted(&samples::request())).await.unwrap();
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    assert_eq!(database.raw().await.fetch_all(kill).await.unwrap().len(), 1);
    // One that was used a moment ago is taken for one that works.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    store.commit(samples::submitted(&samples::request())).await.unwrap();
    assert_eq!(store.requests(&samples::tenant()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_was_refused_leaves_nothing_on_a_connection() {
    let database = Database::new().await;
    let config = database.config().with_max_connections(1);
    let store = PostgresStore::open(&config, SecretKey::random().unwrap()).await.unwrap();
    let request = samples::request();
    store.commit(samples::submitted(&request)).await.unwrap();
    for _ in 0..5 {
        let refused = store.commit(samples::submitted(&request)).await.unwrap_err();
        assert!(!matches!(refused, StoreError::Backend { .. }), "{refused:?}");
        store.append(vec![samples::log(request.id, "a line")]).await.unwrap();
    }
    assert_eq!(store.last_event(request.id).await.unwrap(), 5);
}

#[tokio::test]
async fn a_store_that_is_closed_keeps_no_connection() {
    let database = Database::new().await;
    let store = database.open(&SecretKey::random().unwrap()).await;
    store.commit(samples::submitted(&samples::request())).await.unwrap();
    timeout(PATIENCE, store.close()).await.expect("none is missing");
    let mut raw = database.raw().await;
    crate::until("the connections are closed", async || n_open(&mut raw).await == 0).await;
}

#[test]
fn a_store_outlives_its_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(async {
        let store = Database::new().await.open(&SecretKey::random().unwrap()).await;
        store.commit(samples::submitted(&samples::request())).await.unwrap();
        store
    });
    drop(runtime);
    drop(store);
}

#[tokio::test]
async fn one_connection_serves_people_and_nodes_after_whatever_was_done_on_it() {
    let database = Database::new().await;
    let config = database.config().with_max_connections(1);
    let store = PostgresStore::open(&config, SecretKey::random().unwrap()).await.unwrap();
    let request = samples::request();
    store.commit(samples::submitted(&request)).await.unwrap();
    let node = Node { id: NodeId::random(), url: None, seen_at: samples::now(), has_stopped: false };
    // None of these waits for a connection that is kept for others.
    for _ in 0..2 {
        store.append(vec![samples::log(request.id, "x")]).await.unwrap();
        store.note_node(&node).await.unwrap();
        store.append(vec![samples::log(request.id, "x")]).await.unwrap();
        assert_eq!(store.nodes().await.unwrap().len(), 1);
        store.append(vec![samples::log(request.id, "x")]).await.unwrap();
        assert_eq!(store.account(&UserId::new("nobody")).await.unwrap(), None);
        store.append(vec![samples::log(request.id, "x")]).await.unwrap();
        store.remove_login("none").await.unwrap();
        store.append(vec![samples::log(request.id, "x")]).await.unwrap();
        assert!(store.kept(&[SandboxId::random()]).await.unwrap().is_empty());
    }
}
