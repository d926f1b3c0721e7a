//! Columns to values and back.

use std::{borrow::Cow, str::FromStr};

use astraforge_core::BoxError;
use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};

/// What one statement answers.
pub(crate) type SqlResult<T> = Result<T, sqlx::Error>;

/// A row whose columns are texts, numbers, flags and bytes.
pub trait Cells: Send + Sync {
    /// Reads a text.
    fn text(&self, column: &str) -> SqlResult<Cow<'_, str>>;
    /// Reads a text, or nothing.
    fn maybe_text(&self, column: &str) -> SqlResult<Option<Cow<'_, str>>>;
    /// Reads a number, or nothing.
    fn maybe_integer(&self, column: &str) -> SqlResult<Option<i64>>;
    /// Reads yes or no.
    fn flag(&self, column: &str) -> SqlResult<bool>;
    /// Reads bytes, or nothing.
    fn maybe_bytes(&self, column: &str) -> SqlResult<Option<&[u8]>>;
}

/// Reads columns as the domain's values.
pub(crate) trait Columns: Cells {
    /// Reads a text.
    fn string(&self, column: &str) -> SqlResult<String> {
        self.text(column).map(Cow::into_owned)
    }

    /// Reads a text, or nothing.
    fn maybe_string(&self, column: &str) -> SqlResult<Option<String>> {
        Ok(self.maybe_text(column)?.map(Cow::into_owned))
    }

    /// Reads a text that wraps into `T`.
    fn wrapped<T>(&self, column: &str, wrap: impl FnOnce(String) -> T) -> SqlResult<T> {
        self.string(column).map(wrap)
    }

    /// Reads a text that parses as `T`, such as an id.
    fn parsed<T: FromStr<Err: Into<BoxError>>>(&self, column: &str) -> SqlResult<T> {
        self.text(column)?.parse().map_err(unreadable(column))
    }

    /// Reads a text that parses as `T`, or nothing.
    fn maybe_parsed<T: FromStr<Err: Into<BoxError>>>(&self, column: &str) -> SqlResult<Option<T>> {
        self.maybe_text(column)?.map(|text| text.parse().map_err(unreadable(column))).transpose()
    }

    /// Reads the name of one of an enum's variants.
    fn named<T: DeserializeOwned>(&self, column: &str) -> SqlResult<T> {
        serde_json::from_value(serde_json::Value::String(self.string(column)?)).map_err(unreadable(column))
    }

    /// Reads JSON.
    fn json<T: DeserializeOwned>(&self, column: &str) -> SqlResult<T> {
        serde_json::from_str(&self.text(column)?).map_err(unreadable(column))
    }

    /// Reads JSON, or nothing.
    fn maybe_json<T: DeserializeOwned>(&self, column: &str) -> SqlResult<Option<T>> {
        self.maybe_text(column)?.map(|text| serde_json::from_str(&text).map_err(unreadable(column))).transpose()
    }

    /// Reads bytes.
    fn bytes(&self, column: &str) -> SqlResult<&[u8]> {
        self.maybe_bytes(column)?.ok_or_else(|| unreadable(column)("nothing is there"))
    }

    /// Reads a number that fits into `T`.
    fn number<T: TryFrom<i64, Error: Into<BoxError>>>(&self, column: &str) -> SqlResult<T> {
        self.maybe_number(column)?.ok_or_else(|| unreadable(column)("nothing is there"))
    }

    /// Reads a number that fits into `T`, or nothing.
    fn maybe_number<T: TryFrom<i64, Error: Into<BoxError>>>(&self, column: &str) -> SqlResult<Option<T>> {
        self.maybe_integer(column)?.map(|number| number.try_into().map_err(unreadable(column))).transpose()
    }

    /// Reads a time.
    fn time(&self, column: &str) -> SqlResult<DateTime<Utc>> {
        self.maybe_time(column)?.ok_or_else(|| unreadable(column)("nothing is there"))
    }

    /// Reads a time, or nothing.
    fn maybe_time(&self, column: &str) -> SqlResult<Option<DateTime<Utc>>> {
        let micros = self.maybe_integer(column)?;
        let time = |micros| DateTime::from_timestamp_micros(micros).ok_or("the time is out of range");
        micros.map(|micros| time(micros).map_err(unreadable(column))).transpose()
    }
}

impl<R: Cells> Columns for R {}

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

/// Writes a number; those of databases are signed.
pub(super) fn number(n: u64) -> SqlResult<i64> {
    i64::try_from(n).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// Writes a time in microseconds.
pub(super) fn micros(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros()
}

fn unreadable<E: Into<BoxError>>(column: &str) -> impl FnOnce(E) -> sqlx::Error {
    move |error| sqlx::Error::ColumnDecode { index: format!("{column:?}"), source: error.into() }
}
