//! SQLite's errors in words that tell what to do.

use sqlx::{error::DatabaseError as _, sqlite::SqliteError};

/// Troubles of the database file that a person can end. Found as the source of a
/// [`StoreError::Backend`](astraforge_core::ports::store::StoreError::Backend).
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
    let error = error.as_database_error()?.try_downcast_ref::<SqliteError>()?;
    let extended: u32 = error.code()?.parse().ok()?;
    Some(extended & 0xff)
}

/// Finds a trouble that a person can end, or gives the error back.
pub(crate) fn trouble(error: sqlx::Error) -> Result<SqliteTrouble, sqlx::Error> {
    match code_of(&error) {
        Some(code::FULL) => Ok(SqliteTrouble::DiskFull(error)),
        Some(code::BUSY) => Ok(SqliteTrouble::Locked(error)),
        Some(code::READONLY) => Ok(SqliteTrouble::ReadOnly(error)),
        Some(code::CORRUPT | code::NOT_A_DATABASE) => Ok(SqliteTrouble::Damaged(error)),
        _ => Err(error),
    }
}
