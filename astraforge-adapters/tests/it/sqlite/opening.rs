//! What is wrong with a file is said, and the file is left as it was.

use std::{fs, os::unix::fs::MetadataExt as _};

use astraforge_adapters::{
    secret_box::SecretKey,
    sqlite::{OpenError, SqliteStore},
};
use astraforge_core::{job::Limits, ports::store::Store, testing::samples};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, sqlite::SqliteConnectOptions};

use super::{database, fresh, key, open, raw};

async fn open_error(folder: &std::path::Path) -> OpenError {
    match SqliteStore::open(database(folder), key(folder)).await {
        Ok(store) => panic!("{store:?} was opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing/astraforge.db");
    let error = SqliteStore::open(&path, key(folder.path())).await.unwrap_err();
    assert!(matches!(error, OpenError::FolderMissing { .. }), "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn a_folder_is_no_database() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(database(folder.path())).unwrap();
    let error = open_error(folder.path()).await;
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error:?}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let text = "this is a letter to my aunt, and no database\n".repeat(100);
    fs::write(database(folder.path()), &text).unwrap();
    let error = open_error(folder.path()).await;
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error:?}");
    assert_eq!(fs::read_to_string(database(folder.path())).unwrap(), text);
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_no_panic() {
    let (folder, store) = fresh().await;
    store.commit(samples::submitted(&samples::request())).await.unwrap();
    store.close().await;
    let mut bytes = fs::read(database(folder.path())).unwrap();
    bytes[100..].fill(0x5a);
    fs::write(database(folder.path()), bytes).unwrap();
    let error = open_error(folder.path()).await;
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error:?}");
}

#[tokio::test]
async fn a_newer_schema_is_refused_with_both_versions() {
    let (folder, store) = fresh().await;
    store.close().await;
    let mut other = raw(folder.path()).await;
    other.execute("PRAGMA user_version = 99").await.unwrap();
    other.close().await.unwrap();
    let error = open_error(folder.path()).await;
    assert!(matches!(error, OpenError::NewerSchema { found: 99, known: 14, .. }), "{error:?}");
}

#[tokio::test]
async fn a_database_of_another_program_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut other = raw(folder.path()).await;
    other.execute("CREATE TABLE recipes (title TEXT)").await.unwrap();
    other.close().await.unwrap();
    let error = open_error(folder.path()).await;
    assert!(matches!(error, OpenError::Foreign { .. }), "{error:?}");
    let mut other = raw(folder.path()).await;
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut other).await.unwrap();
    assert_eq!(tables, 1);
}

#[tokio::test]
async fn another_key_is_refused_at_once() {
    let (folder, store) = fresh().await;
    store.close().await;
    let error = SqliteStore::open(database(folder.path()), SecretKey::random().unwrap()).await.unwrap_err();
    assert!(matches!(error, OpenError::WrongKey { .. }), "{error:?}");
    open(folder.path()).await;
}

#[tokio::test]
async fn a_file_without_permission_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let key = key(folder.path());
    // For root, who may everything: a file on a read-only file system.
    let path = if fs::metadata("/proc/self").unwrap().uid() == 0 {
        std::path::PathBuf::from("/proc/sys/kernel/ostype")
    } else {
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
        database(folder.path())
    };
    let error = SqliteStore::open(path, key).await.unwrap_err();
    assert!(matches!(error, OpenError::PermissionDenied { .. }), "{error:?}");
}

#[tokio::test]
async fn odd_file_names_are_taken_literally() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["file:a.db?mode=memory", "100% #1 ü.db", ":memory:"] {
        let store = SqliteStore::open(folder.path().join(name), key(folder.path())).await.unwrap();
        store.commit(samples::submitted(&samples::request())).await.unwrap();
        store.close().await;
        assert!(fs::metadata(folder.path().join(name)).unwrap().len() > 0, "{name}");
    }
}

#[tokio::test]
async fn jobs_of_an_older_schema_are_kept_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("astraforge.db");
    let mut older = SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
    for migration in [
        include_str!("../../../migrations/sqlite/0001_initial.sql"),
        include_str!("../../../migrations/sqlite/0002_sandboxes.sql"),
        include_str!("../../../migrations/sqlite/0003_leases.sql"),
        "PRAGMA user_version = 3; PRAGMA application_id = 1098073711",
    ] {
        older.execute(migration).await.unwrap();
    }
    let request = samples::request();
    let run = samples::run(&request);
    let ids = [samples::execute(&run).id, samples::execute(&run).id];
    let request_row = format!(
        "INSERT INTO requests (id, tenant, requester, source, sender, title, prompt, repository, state, version, \
         created_at, updated_at) VALUES ('{}', 'acme', 'ada', 'x', '', 'x', 'x', '{}', 'RECEIVED', 1, 1, 1)",
        request.id, request.repository
    );
    older.execute(sqlx::AssertSqlSafe(request_row)).await.unwrap();
    for (id, state) in [(ids[0], "running"), (ids[1], "waiting")] {
        let kind = format!(r#"{{"kind":"execute","run":"{}"}}"#, run.id);
        let job = format!(
            "INSERT INTO jobs (id, tenant, request, kind, attempts, state, created_at) \
             VALUES ('{id}', 'acme', '{}', '{kind}', 2, '{state}', 5)",
            request.id
        );
        older.execute(sqlx::AssertSqlSafe(job)).await.unwrap();
    }
    older.close().await.unwrap();

    let store = SqliteStore::open(&path, SecretKey::random().unwrap()).await.unwrap();
    let now = samples::at(0);
    assert_eq!(store.claim_job(now, now, Limits::NONE).await.unwrap(), None, "the running one holds it up");
    let taken = store.take_over_job(now, samples::at(60)).await.unwrap().unwrap();
    assert_eq!((taken.id, taken.attempts, taken.failures), (ids[0], 3, 0));
    assert_eq!(store.waiting_jobs(request.id).await.unwrap()[0].id, ids[1]);
}
