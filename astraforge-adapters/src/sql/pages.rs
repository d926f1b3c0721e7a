//! Pages of lists: one statement each, which begins in the list's own index where the last page ended.
//!
//! Rows are told apart by `position` among those of the same time. A page ends at the id of a row, so that nobody learns
//! how many rows there are; the statement looks its position up.

use astraforge_core::page::{Listed, Page, Paged};

use super::{
    row::{SqlResult, micros},
    statement::{Statements, Value},
};

/// Lists rows, the newest first. The placeholders are the time and the id that the page begins after, how many rows are
/// read, and what `$wanted` names from `$4` on. Where the row of the id is gone, those of its time may come once more.
macro_rules! newest_first {
    ($table:literal, $wanted:literal) => {
        concat!(
            "SELECT * FROM ",
            $table,
            " WHERE ",
            $wanted,
            " AND (created_at, position) < ($1, coalesce((SELECT position FROM ",
            $table,
            " WHERE id = $2), 9223372036854775807)) ORDER BY created_at DESC, position DESC LIMIT $3"
        )
    };
}

/// The same, the oldest first.
macro_rules! oldest_first {
    ($table:literal, $wanted:literal) => {
        concat!(
            "SELECT * FROM ",
            $table,
            " WHERE ",
            $wanted,
            " AND (created_at, position) > ($1, coalesce((SELECT position FROM ",
            $table,
            " WHERE id = $2), 0)) ORDER BY created_at, position LIMIT $3"
        )
    };
}

/// Lists the records of a sandbox's rows, the last one added first; `$1` is the id that the page begins after, `$2` how many
/// rows are read, `$3` the sandbox. Where the row of the id is gone, the one that followed it tells where it was: ids that
/// were made later sort after others.
macro_rules! last_added_first {
    ($table:literal) => {
        concat!(
            "SELECT record FROM ",
            $table,
            " WHERE sandbox = $3 AND position < coalesce((SELECT position FROM ",
            $table,
            " WHERE id = $1), (SELECT min(position) FROM ",
            $table,
            " WHERE sandbox = $3 AND id > $1 AND $1 <> ''), 9223372036854775807) ORDER BY position DESC LIMIT $2"
        )
    };
}

pub(super) use {last_added_first, newest_first, oldest_first};

/// Where a page begins that begins after no row.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Newest,
    Oldest,
}

impl End {
    /// The values for `$1`, `$2` and `$3`.
    pub(super) fn placeholders(self, page: Page) -> [Value; 3] {
        let first = match self {
            Self::Newest => i64::MAX,
            Self::Oldest => i64::MIN,
        };
        let at = page.after.map_or(first, |mark| micros(mark.at));
        [at.into(), id(page).into(), n_rows(page).into()]
    }
}

/// The id that a page begins after; the empty text, which is none, for the first page.
pub(super) fn id(page: Page) -> String {
    page.after.map_or_else(String::new, |mark| mark.id.to_string())
}

/// How many rows are read: one more than wanted shows whether there is a next page.
pub(super) fn n_rows(page: Page) -> i64 {
    i64::from(page.limit) + 1
}

/// Reads the page of a statement of [`newest_first`] or [`oldest_first`].
pub(super) async fn read<S: Statements, T: Listed>(
    connection: &mut S,
    statement: &'static str,
    end: End,
    page: Page,
    filters: impl IntoIterator<Item = Value>,
    from_row: impl Fn(&S::Row) -> SqlResult<T>,
) -> SqlResult<Paged<T>> {
    let values: Vec<Value> = end.placeholders(page).into_iter().chain(filters).collect();
    let rows = connection.rows(statement, values).await?;
    Ok(Paged::cut(rows.iter().map(from_row).collect::<SqlResult<_>>()?, page.limit))
}
