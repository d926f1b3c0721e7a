//! The migrations for PostgreSQL and for SQLite describe the same schema.

use std::collections::BTreeSet;

use astraforge_adapters::{secret_box::SecretKey, sqlite::SqliteStore};
use sqlx::{ConnectOptions as _, Row as _, sqlite::SqliteConnectOptions};

use crate::Database;

/// A column: its table, name, kind, and whether it may be empty.
type Column = (String, String, &'static str, bool);

#[tokio::test]
async fn both_databases_have_the_same_tables_and_columns() {
    assert_eq!(of_postgres().await, of_sqlite().await);
}

#[tokio::test]
async fn both_databases_have_the_same_indexes() {
    let names = "SELECT indexname AS name FROM pg_indexes WHERE schemaname = current_schema() \
                 AND indexname NOT LIKE '%_pkey' AND indexname NOT LIKE '%_key'";
    let database = made().await;
    let of_postgres: BTreeSet<String> = sqlx::query(names)
        .fetch_all(&mut database.raw().await)
        .await
        .unwrap()
        .iter()
        .map(|row| row.get("name"))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let mut sqlite = sqlite(folder.path()).await;
    let names = "SELECT name FROM sqlite_schema WHERE type = 'index' AND name NOT LIKE 'sqlite_%'";
    let of_sqlite: BTreeSet<String> =
        sqlx::query(names).fetch_all(&mut sqlite).await.unwrap().iter().map(|row| row.get("name")).collect();
    assert_eq!(of_postgres, of_sqlite);
    assert!(!of_sqlite.is_empty());
}

async fn made() -> Database {
    let database = Database::new().await;
    database.open(&SecretKey::random().unwrap()).await.close().await;
    database
}

async fn sqlite(folder: &std::path::Path) -> sqlx::SqliteConnection {
    let path = folder.join("db");
    SqliteStore::open(&path, SecretKey::random().unwrap()).await.unwrap().close().await;
    SqliteConnectOptions::new().filename(path).connect().await.unwrap()
}

async fn of_postgres() -> BTreeSet<Column> {
    let columns = "SELECT table_name::text, column_name::text, data_type::text, is_nullable::text \
                   FROM information_schema.columns WHERE table_schema = current_schema() \
                   AND table_name <> 'astraforge_schema'";
    let database = made().await;
    let rows = sqlx::query(columns).fetch_all(&mut database.raw().await).await.unwrap();
    let column = |row: &sqlx::postgres::PgRow| {
        let kind = match row.get::<&str, _>("data_type") {
            "text" => "text",
            "bigint" | "boolean" => "number",
            "bytea" => "bytes",
            other => panic!("no column should be of type {other}"),
        };
        (row.get("table_name"), row.get("column_name"), kind, row.get::<&str, _>("is_nullable") == "YES")
    };
    rows.iter().map(column).collect()
}

async fn of_sqlite() -> BTreeSet<Column> {
    let columns = "SELECT tables.name AS table_name, columns.name AS column_name, columns.type AS kind, \
                   columns.\"notnull\" OR columns.pk > 0 AS is_filled FROM sqlite_schema AS tables \
                   JOIN pragma_table_info(tables.name) AS columns \
                   WHERE tables.type = 'table' AND tables.name NOT LIKE 'sqlite_%'";
    let folder = tempfile::tempdir().unwrap();
    let rows = sqlx::query(columns).fetch_all(&mut sqlite(folder.path()).await).await.unwrap();
    let column = |row: &sqlx::sqlite::SqliteRow| {
        let kind = match row.get::<&str, _>("kind") {
            "TEXT" => "text",
            "INTEGER" => "number",
            "BLOB" => "bytes",
            other => panic!("no column should be of type {other}"),
        };
        (row.get("table_name"), row.get("column_name"), kind, !row.get::<bool, _>("is_filled"))
    };
    rows.iter().map(column).collect()
}
