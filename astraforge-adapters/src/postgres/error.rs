//! PostgreSQL's errors in words that tell what to do.

use sqlx::postgres::PgDatabaseError;

/// Troubles of the database that a person can end. Found as the source of a
/// [`StoreError::Backend`](astraforge_core::ports::store::StoreError::Backend).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresTrouble {
    /// The disk of the server is full. Nothing was written.
    #[error("the disk of the database server is full: free some space, then try again")]
    DiskFull(#[source] sqlx::Error),
    /// All connections of this process are at work for longer than a call waits.
    #[error(
        "all connections to the database are at work for too long: raise DATABASE_MAX_CONNECTIONS, or look for slow \
         statements"
    )]
    Busy(#[source] sqlx::Error),
    /// The server takes no more connections.
    #[error(
        "the database server takes no more connections: raise its max_connections, or lower DATABASE_MAX_CONNECTIONS"
    )]
    TooManyConnections(#[source] sqlx::Error),
    /// The server only answers reads: it is a standby, or set so.
    #[error("the database may only be read: name the primary server")]
    ReadOnly(#[source] sqlx::Error),
    /// The login has not the right that a statement needs.
    #[error("the database login lacks a right: let it own the schema")]
    PermissionDenied(#[source] sqlx::Error),
    /// The statement took too long, or waited too long for another's.
    #[error("the database took too long for a statement, and was stopped")]
    TooSlow(#[source] sqlx::Error),
    /// The connection is gone, or the server shuts down.
    #[error("the connection to the database is gone: look whether the server runs")]
    Gone(#[source] sqlx::Error),
}

/// The codes of errors: `https://www.postgresql.org/docs/current/errcodes-appendix.html`.
pub(super) fn code_of(error: &sqlx::Error) -> Option<&str> {
    Some(error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?.code())
}

/// Finds a trouble that a person can end, or gives the error back.
pub(crate) fn trouble(error: sqlx::Error) -> Result<PostgresTrouble, sqlx::Error> {
    match (&error, code_of(&error)) {
        (_, Some("53100")) => Ok(PostgresTrouble::DiskFull(error)),
        (_, Some("53300")) => Ok(PostgresTrouble::TooManyConnections(error)),
        (_, Some("25006")) => Ok(PostgresTrouble::ReadOnly(error)),
        (_, Some("42501")) => Ok(PostgresTrouble::PermissionDenied(error)),
        (_, Some("57014" | "55P03")) => Ok(PostgresTrouble::TooSlow(error)),
        (_, Some("57P01" | "57P02" | "57P03")) | (sqlx::Error::Io(_), _) => Ok(PostgresTrouble::Gone(error)),
        (sqlx::Error::PoolTimedOut, _) => Ok(PostgresTrouble::Busy(error)),
        _ => Err(error),
    }
}
