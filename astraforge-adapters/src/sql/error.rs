//! Errors of statements as those of the store.

use std::fmt::Display;

use astraforge_core::{BoxError, ports::store::StoreError};

/// Names the operation that failed, and tells a row that cannot be read from a database that fails.
pub(crate) fn failed(operation: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |error| match error {
        sqlx::Error::ColumnDecode { .. } => StoreError::Unreadable { operation, source: error.into() },
        error => StoreError::Backend { operation, source: explain(error) },
    }
}

/// Says that a name is taken when that is why the statement failed.
pub(crate) fn taken(
    operation: &'static str,
    what: &'static str,
    name: impl Display,
) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |error| match error.as_database_error() {
        Some(database) if database.is_unique_violation() => already_exists(what, name),
        _ => failed(operation)(error),
    }
}

pub(crate) fn already_exists(what: &str, name: impl Display) -> StoreError {
    StoreError::AlreadyExists { what: format!("{what} `{name}`") }
}

/// Says what a person can do about it, in the words of the database that it came from.
fn explain(error: sqlx::Error) -> BoxError {
    #[cfg(feature = "sqlite")]
    let error = match crate::sqlite::trouble(error) {
        Ok(trouble) => return trouble.into(),
        Err(error) => error,
    };
    #[cfg(feature = "postgres")]
    let error = match crate::postgres::trouble(error) {
        Ok(trouble) => return trouble.into(),
        Err(error) => error,
    };
    error.into()
}
