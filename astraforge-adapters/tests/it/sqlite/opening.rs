//! What is wrong with a file is said, and the file is left as it was.

use std::{fs, os::unix::fs::MetadataExt as _};

use astraforge_adapters::{
    secret_box::SecretKey,
    sqlite::{OpenError, SqliteStore},
};
use astraforge_core::{ports::store::Store, testing::samples};
use sqlx::{Connection as _, Executor as _};

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
    assert!(matches!(error, OpenError::NewerSchema { found: 99, known: 3, .. }), "{error:?}");
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
