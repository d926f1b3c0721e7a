//! Columns to values and back.

use std::str::FromStr;

use astraforge_core::BoxError;
use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Row as _, sqlite::SqliteRow};

/// What one statement answers.
pub(super) type SqlResult<T> = Result<T, sqlx::Error>;

/// Reads columns as the domain's values.
pub(super) trait Columns {
    /// Reads a text that wraps into `T`.
    fn wrapped<T>(&self, column: &str, wrap: impl FnOnce(String) -> T) -> SqlResult<T>;
    /// Reads a text that parses as `T`, such as an id.
    fn parsed<T: FromStr<Err: Into<BoxError>>>(&self, column: &str) -> SqlResult<T>;
    /// Reads a text that parses as `T`, or nothing.
    fn maybe_parsed<T: FromStr<Err: Into<BoxError>>>(&self, column: &str) -> SqlResult<Option<T>>;
    /// Reads the name of one of an enum's variants.
    fn named<T: DeserializeOwned>(&self, column: &str) -> SqlResult<T>;
    /// Reads JSON.
    fn json<T: DeserializeOwned>(&self, column: &str) -> SqlResult<T>;
    /// Reads JSON, or nothing.
    fn maybe_json<T: DeserializeOwned>(&self, column: &str) -> SqlResult<Option<T>>;
    /// Reads a number that is not negative.
    fn number<T: TryFrom<i64, Error: Into<BoxError>>>(&self, column: &str) -> SqlResult<T>;
    /// Reads a time.
    fn time(&self, column: &str) -> SqlResult<DateTime<Utc>>;
    /// Reads a time, or nothing.
    fn maybe_time(&self, column: &str) -> SqlResult<Option<DateTime<Utc>>>;
}

impl Columns for SqliteRow {
    fn wrapped<T>(&self, column: &str, wrap: impl FnOnce(String) -> T) -> SqlResult<T> {
        self.try_get(column).map(wrap)
    }

    fn parsed<T: FromStr<Err: Into<BoxError>>>(&self, column: &str) -> SqlResult<T> {
        self.try_get::<&str, _>(column)?.parse().map_err(unreadable(column))
    }

    fn maybe_parsed<T: FromStr<Err: Into<BoxError>>>(&self, column: &str) -> SqlResult<Option<T>> {
        let text: Option<&str> = self.try_get(column)?;
        text.map(|text| text.parse().map_err(unreadable(column))).transpose()
    }

    fn named<T: DeserializeOwned>(&self, column: &str) -> SqlResult<T> {
        let name = serde_json::Value::String(self.try_get(column)?);
        serde_json::from_value(name).map_err(unreadable(column))
    }

    fn json<T: DeserializeOwned>(&self, column: &str) -> SqlResult<T> {
        serde_json::from_str(self.try_get(column)?).map_err(unreadable(column))
    }

    fn maybe_json<T: DeserializeOwned>(&self, column: &str) -> SqlResult<Option<T>> {
        let text: Option<&str> = self.try_get(column)?;
        text.map(|text| serde_json::from_str(text).map_err(unreadable(column))).transpose()
    }

    fn number<T: TryFrom<i64, Error: Into<BoxError>>>(&self, column: &str) -> SqlResult<T> {
        self.try_get::<i64, _>(column)?.try_into().map_err(unreadable(column))
    }

    fn time(&self, column: &str) -> SqlResult<DateTime<Utc>> {
        to_time(column, self.try_get(column)?)
    }

    fn maybe_time(&self, column: &str) -> SqlResult<Option<DateTime<Utc>>> {
        let micros: Option<i64> = self.try_get(column)?;
        micros.map(|micros| to_time(column, micros)).transpose()
    }
}

/// Writes JSON.
pub(super) fn json<T: Serialize>(value: &T) -> SqlResult<String> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// Writes JSON, or nothing.
pub(super) fn maybe_json<T: Serialize>(value: Option<&T>) -> SqlResult<Option<String>> {
    value.map(json).transpose()
}

/// Writes the name of an enum's variant, as serde has it.
pub(super) fn name<T: Serialize>(value: T) -> SqlResult<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => Ok(name),
        Ok(other) => Err(sqlx::Error::Encode(format!("`{other}` is not a name").into())),
        Err(error) => Err(sqlx::Error::Encode(error.into())),
    }
}

/// Writes a number; SQLite's are signed.
pub(super) fn number(n: u64) -> SqlResult<i64> {
    i64::try_from(n).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// Writes a time in microseconds.
pub(super) fn micros(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros()
}

fn to_time(column: &str, micros: i64) -> SqlResult<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros).ok_or_else(|| unreadable(column)("the time is out of range"))
}

fn unreadable<E: Into<BoxError>>(column: &str) -> impl FnOnce(E) -> sqlx::Error {
    move |error| sqlx::Error::ColumnDecode { index: format!("{column:?}"), source: error.into() }
}
