//! Pages: long lists, read a part at a time.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    access::ApiKey,
    merge_request::MergeRequest,
    repository::RepositoryLink,
    request::Request,
    run::Run,
    sandbox::{Artifact, Sandbox, Snapshot},
};

/// Which part of a list is wanted.
///
/// Pages that follow each other hold every row once that was there all the time, whatever is added or removed meanwhile.
///
/// ```
/// use astraforge_core::{
///     page::Page,
///     ports::store::Store,
///     testing::{MemoryStore, samples},
/// };
///
/// # futures::executor::block_on(async {
/// let requests = [(); 3].map(|()| samples::request());
/// let store = MemoryStore::holding(&requests);
/// let first = store.requests_page(&samples::tenant(), None, Page::first(2)).await?;
/// let second = store.requests_page(&samples::tenant(), None, Page { after: first.next, limit: 2 }).await?;
/// assert_eq!((first.items.len(), second.items.len(), second.next), (2, 1, None));
/// # Ok::<(), astraforge_core::ports::store::StoreError>(()) }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// The row that it begins after; the first one of the list, if `None`.
    pub after: Option<Mark>,
    /// At most so many rows.
    pub limit: u32,
}

impl Page {
    /// The whole list.
    pub const ALL: Self = Self::first(u32::MAX);

    /// The first rows of a list.
    #[must_use]
    pub const fn first(limit: u32) -> Self {
        Self { after: None, limit }
    }
}

/// A row, by what its list is ordered by: its time, and its id among rows of the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// When it was made, to the microsecond.
    pub at: DateTime<Utc>,
    /// Its id.
    pub id: Uuid,
}

/// A part of a list, and where the next one begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paged<T> {
    /// The rows.
    pub items: Vec<T>,
    /// The row that the next page begins after; `None` when there is none.
    pub next: Option<Mark>,
}

impl<T: Listed> Paged<T> {
    /// Cuts rows to a page. There is a next one when more came than it takes, so one more row is to be read.
    #[must_use]
    pub fn cut(mut rows: Vec<T>, limit: u32) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let is_cut = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| is_cut).map(T::mark);
        Self { items: rows, next }
    }
}

/// What is listed by the time at which it was made.
pub trait Listed {
    /// Where it stands in its list.
    fn mark(&self) -> Mark;
}

macro_rules! listed {
    ($($row:ty),* $(,)?) => { $(
        impl Listed for $row {
            fn mark(&self) -> Mark {
                // Stores keep microseconds.
                let at = DateTime::from_timestamp_micros(self.created_at.timestamp_micros());
                Mark { at: at.unwrap_or(self.created_at), id: self.id.as_uuid() }
            }
        }
    )* };
}

listed!(Request, Run, MergeRequest, RepositoryLink, ApiKey, Sandbox, Snapshot, Artifact);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::samples;

    #[test]
    fn a_page_has_a_next_one_only_when_more_came_than_it_takes() {
        let rows = [(); 3].map(|()| samples::request());
        let cut = |limit| Paged::cut(rows.to_vec(), limit);
        assert_eq!((cut(4).items.len(), cut(4).next), (3, None));
        assert_eq!((cut(3).items.len(), cut(3).next), (3, None));
        assert_eq!((cut(2).items.len(), cut(2).next), (2, Some(rows[1].mark())));
    }
}
