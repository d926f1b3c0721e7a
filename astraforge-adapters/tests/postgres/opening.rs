//! What is wrong with a database is said before anything is written.

use astraforge_adapters::{
    postgres::{OpenError, PostgresConfig, PostgresStore},
    secret_box::SecretKey,
};
use astraforge_core::{ports::store::Store as _, testing::samples};
use sqlx::Executor as _;

use crate::Database;

async fn refusal(url: &str) -> OpenError {
    let config = match PostgresConfig::new(url) {
        Ok(config) => config,
        Err(error) => return error,
    };
    PostgresStore::open(&config, SecretKey::random().unwrap()).await.unwrap_err()
}

#[tokio::test]
async fn what_was_written_is_there_when_it_is_opened_again() {
    let (database, key) = (Database::new().await, SecretKey::random().unwrap());
    let request = samples::request();
    let store = database.open(&key).await;
    store.commit(samples::submitted(&request)).await.unwrap();
    store.close().await;
    let again = database.open(&key).await;
    assert_eq!(again.requests(&samples::tenant()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn servers_that_start_at_once_make_the_schema_once() {
    let (database, key) = (Database::new().await, SecretKey::random().unwrap());
    let stores = futures::future::join_all((0..8).map(|_| database.open(&key))).await;
    stores[0].commit(samples::submitted(&samples::request())).await.unwrap();
    assert_eq!(stores[7].requests(&samples::tenant()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_address_that_is_none_is_refused() {
    for url in ["", "mysql://localhost/x", "localhost:5432", "postgres://user:p@ss:word@[::/x"] {
        assert!(matches!(refusal(url).await, OpenError::Address), "{url}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_so() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = refusal(&format!("postgres://someone:hush@127.0.0.1:{port}/x")).await;
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
}

#[test]
fn a_configuration_does_not_tell_its_password() {
    let config = PostgresConfig::new("postgres://someone:hush@db.example:5432/x").unwrap();
    assert_eq!(format!("{config:?}"), r#"PostgresConfig { database: "db.example:5432/x", max_connections: 10 }"#);
}

#[tokio::test]
async fn a_database_that_is_not_there_is_told_so() {
    let database = Database::new().await;
    let error = refusal(&database.url().replace("/test_", "/none_")).await;
    assert!(matches!(error, OpenError::NoDatabase { .. }), "{error:?}");
}

#[tokio::test]
async fn encryption_that_is_asked_for_and_not_to_be_had_is_told_so() {
    let database = Database::new().await;
    let error = refusal(&format!("{}?sslmode=require", database.url())).await;
    assert!(matches!(error, OpenError::Tls { .. }), "{error:?}");
}

#[tokio::test]
async fn a_login_that_may_not_make_tables_is_told_so() {
    let database = Database::new().await;
    let (name, password) = (&database.name, "hush");
    database.on_server(format!("CREATE ROLE r_{name} LOGIN PASSWORD '{password}'")).await;
    let url = database.url().replace("postgres://postgres", &format!("postgres://r_{name}:{password}"));
    let error = refusal(&url).await;
    assert!(matches!(error, OpenError::PermissionDenied { .. }), "{error:?}");
}

#[tokio::test]
async fn a_database_of_another_program_is_left_alone() {
    let database = Database::new().await;
    database.raw().await.execute("CREATE TABLE customers (id BIGINT)").await.unwrap();
    assert!(matches!(refusal(&database.url()).await, OpenError::Foreign { .. }));
}

#[tokio::test]
async fn a_newer_schema_is_refused_with_both_versions() {
    let database = Database::new().await;
    database.open(&SecretKey::random().unwrap()).await;
    database.raw().await.execute("UPDATE astraforge_schema SET version = 99").await.unwrap();
    match refusal(&database.url()).await {
        OpenError::NewerSchema { found: 99, known, .. } if known < 99 => {}
        error => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn another_key_is_refused() {
    let database = Database::new().await;
    database.open(&SecretKey::random().unwrap()).await;
    assert!(matches!(refusal(&database.url()).await, OpenError::WrongKey { .. }));
}
