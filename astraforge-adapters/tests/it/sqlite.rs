//! The SQLite store keeps the rules of every store, and those of a file.

#![expect(clippy::unwrap_used, reason = "a failing test is what this code is for")]

use std::path::{Path, PathBuf};

use astraforge_adapters::{secret_box::SecretKey, sqlite::SqliteStore};
use tempfile::TempDir;

mod conformance {
    astraforge_core::store_conformance!(crate::sqlite::fresh());
}
mod sandboxes {
    astraforge_core::sandbox_store_conformance!(crate::sqlite::fresh());
}
mod accounts {
    astraforge_core::account_store_conformance!(crate::sqlite::fresh());
}
mod audit_log {
    astraforge_core::audit_log_conformance!(crate::sqlite::fresh());
}
mod audit;
mod calls {
    astraforge_core::call_store_conformance!(crate::sqlite::fresh());
}
mod durability;
mod opening;
mod secrecy;
mod speed;

/// A store in a folder of its own, which goes with the first value.
async fn fresh() -> (TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    (folder, store)
}

/// Opens the store of a folder; again and again, if need be.
async fn open(folder: &Path) -> SqliteStore {
    SqliteStore::open(database(folder), key(folder)).await.unwrap()
}

fn database(folder: &Path) -> PathBuf {
    folder.join("astraforge.db")
}

fn key(folder: &Path) -> SecretKey {
    SecretKey::load_or_create(folder.join("secret.key")).unwrap()
}

/// Opens a connection beside the store, as another program would.
async fn raw(folder: &Path) -> sqlx::SqliteConnection {
    use sqlx::ConnectOptions as _;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database(folder)).create_if_missing(true);
    options.connect().await.unwrap()
}
