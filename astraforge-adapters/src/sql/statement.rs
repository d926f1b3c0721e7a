//! Statements and the values in them, the same for every database.

use std::future::Future;

use super::row::{Cells, SqlResult};

/// A value for a placeholder. The types of columns are few: texts, numbers, flags and bytes.
#[derive(Debug, Clone)]
pub enum Value {
    /// A text.
    Text(Option<String>),
    /// A number or a time.
    Number(Option<i64>),
    /// Yes or no.
    Flag(bool),
    /// Bytes, such as what is sealed.
    Bytes(Option<Vec<u8>>),
}

/// A connection that runs statements. Placeholders are `$1`, `$2` and so on, which every database here understands.
///
/// # Cancel safety
/// A statement whose future is dropped happened wholly or not at all.
pub trait Statements: Send {
    /// A row of an answer.
    type Row: Cells;

    /// Runs a statement and counts the rows that it wrote.
    fn execute(
        &mut self,
        statement: &'static str,
        values: impl IntoIterator<Item = Value>,
    ) -> impl Future<Output = SqlResult<u64>> + Send;

    /// Runs a statement and returns its rows. It is read to its end: only then a database commits it.
    fn rows(
        &mut self,
        statement: &'static str,
        values: impl IntoIterator<Item = Value>,
    ) -> impl Future<Output = SqlResult<Vec<Self::Row>>> + Send;

    /// Runs a statement that answers with one row or none.
    fn row(
        &mut self,
        statement: &'static str,
        values: impl IntoIterator<Item = Value>,
    ) -> impl Future<Output = SqlResult<Option<Self::Row>>> + Send {
        let rows = self.rows(statement, values);
        async { Ok(rows.await?.into_iter().next()) }
    }
}

/// Runs statements on a database's connections, and reads its rows. `write` and `read` change texts on their way, where a
/// database does not take each.
macro_rules! speaks {
    ($database:ty, $connection:ty, $row:ty, write: $write:expr, read: $read:expr) => {
        impl $crate::sql::statement::Statements for $connection {
            type Row = $row;

            fn execute(
                &mut self,
                statement: &'static str,
                values: impl IntoIterator<Item = $crate::sql::statement::Value>,
            ) -> impl Future<Output = $crate::sql::row::SqlResult<u64>> + Send {
                #[cfg(test)]
                $crate::sql::statement::seen::note(statement);
                let query = values.into_iter().fold(sqlx::query::<$database>(statement), bind);
                async { Ok(query.execute(self).await?.rows_affected()) }
            }

            fn rows(
                &mut self,
                statement: &'static str,
                values: impl IntoIterator<Item = $crate::sql::statement::Value>,
            ) -> impl Future<Output = $crate::sql::row::SqlResult<Vec<$row>>> + Send {
                #[cfg(test)]
                $crate::sql::statement::seen::note(statement);
                let query = values.into_iter().fold(sqlx::query::<$database>(statement), bind);
                query.fetch_all(self)
            }
        }

        type Query = sqlx::query::Query<'static, $database, <$database as sqlx::Database>::Arguments>;

        fn bind(query: Query, value: $crate::sql::statement::Value) -> Query {
            use $crate::sql::statement::Value;
            match value {
                Value::Text(text) => query.bind(text.map($write)),
                Value::Number(number) => query.bind(number),
                Value::Flag(flag) => query.bind(flag),
                Value::Bytes(bytes) => query.bind(bytes),
            }
        }

        impl $crate::sql::row::Cells for $row {
            fn text(&self, column: &str) -> $crate::sql::row::SqlResult<std::borrow::Cow<'_, str>> {
                sqlx::Row::try_get(self, column).map($read)
            }

            fn maybe_text(&self, column: &str) -> $crate::sql::row::SqlResult<Option<std::borrow::Cow<'_, str>>> {
                sqlx::Row::try_get(self, column).map(|text: Option<&str>| text.map($read))
            }

            fn maybe_integer(&self, column: &str) -> $crate::sql::row::SqlResult<Option<i64>> {
                sqlx::Row::try_get(self, column)
            }

            fn flag(&self, column: &str) -> $crate::sql::row::SqlResult<bool> {
                sqlx::Row::try_get(self, column)
            }

            fn maybe_bytes(&self, column: &str) -> $crate::sql::row::SqlResult<Option<&[u8]>> {
                sqlx::Row::try_get(self, column)
            }
        }
    };
}

pub(crate) use speaks;

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(Some(text.clone()))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Some(text))
    }
}

impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Self {
        Self::Text(text)
    }
}

impl From<&Option<String>> for Value {
    fn from(text: &Option<String>) -> Self {
        Self::Text(text.clone())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(Some(number))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(Some(number.into()))
    }
}

impl From<Option<i64>> for Value {
    fn from(number: Option<i64>) -> Self {
        Self::Number(number)
    }
}

impl From<Option<i32>> for Value {
    fn from(number: Option<i32>) -> Self {
        Self::Number(number.map(i64::from))
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(Some(bytes))
    }
}

impl From<Option<Vec<u8>>> for Value {
    fn from(bytes: Option<Vec<u8>>) -> Self {
        Self::Bytes(bytes)
    }
}

/// Values for the placeholders of a statement, in their order.
macro_rules! values {
    ($($value:expr),* $(,)?) => { [$($crate::sql::statement::Value::from($value)),*] };
}

pub(super) use values;

/// The statements that ran on this thread, for tests of how a database carries them out.
#[cfg(test)]
pub(crate) mod seen {
    use std::{cell::RefCell, collections::BTreeSet};

    thread_local! {
        static SEEN: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
    }

    pub(crate) fn note(statement: &'static str) {
        SEEN.with_borrow_mut(|seen| seen.insert(statement));
    }

    pub(crate) fn all() -> BTreeSet<&'static str> {
        SEEN.with_borrow(Clone::clone)
    }
}
