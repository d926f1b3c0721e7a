//! SQLite's errors in words that tell what to do.

use std::fmt::Display;

use astraforge_core::{BoxError, ports::store::StoreError};

/// Troubles of the database file that a person can end. Found as the source of a [`StoreError::Backend`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteTrouble {
    /// The disk, or the quota on it, is full. Nothing was written.
    #[error("the disk is full: free some space, then try again")]
    DiskFull(#[source] sqlx::Error),
    /// Another process held the database for longer than writers wait.
    #[error("the database is locked by another process: end what holds it, then try again")]
    Locked(#[source] sqlx::Error),
    /// The file may not be written.
    #[error("the database may not be written: check the owner and the mode of its file and folder")]
    ReadOnly(#[source] sqlx::Error),
    /// The file is damaged.
    #[error("the database file is damaged: restore it from a backup")]
    Damaged(#[source] sqlx::Error),
}

/// SQLite's result codes, without their extension: `https://sqlite.org/rescode.html`.
pub(super) mod code {
    pub(in crate::sqlite) const BUSY: u32 = 5;
    pub(in crate::sqlite) const READONLY: u32 = 8;
    pub(in crate::sqlite) const CORRUPT: u32 = 11;
    pub(in crate::sqlite) const FULL: u32 = 13;
    pub(in crate::sqlite) const NOT_A_DATABASE: u32 = 26;
}

/// The result code of an error that came from SQLite itself.
pub(super) fn code_of(error: &sqlx::Error) -> Option<u32> {
    let extended: u32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

/// Names the operation that failed.
pub(super) fn failed(operation: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |error| StoreError::Backend { operation, source: explain(error) }
}

/// Says that a name is taken when that is why the statement failed.
pub(super) fn taken(
    operation: &'static str,
    what: &'static str,
    name: impl Display,
) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |error| match error.as_database_error() {
        Some(database) if database.is_unique_violation() => already_exists(what, name),
        _ => failed(operation)(error),
    }
}

pub(super) fn already_exists(what: &str, name: impl Display) -> StoreError {
    StoreError::AlreadyExists { what: format!("{what} `{name}`") }
}

fn explain(error: sqlx::Error) -> BoxError {
    match code_of(&error) {
        Some(code::FULL) => SqliteTrouble::DiskFull(error).into(),
        Some(code::BUSY) => SqliteTrouble::Locked(error).into(),
        Some(code::READONLY) => SqliteTrouble::ReadOnly(error).into(),
        Some(code::CORRUPT | code::NOT_A_DATABASE) => SqliteTrouble::Damaged(error).into(),
        _ => error.into(),
    }
}
