//! Pages: of rows in memory, which are kept in the order in which they were added, and how tests read them.

use chrono::{DateTime, Utc};

use crate::page::{Listed, Mark, Page, Paged};

/// Which rows come first in a list. Of rows of the same time the one added later counts as newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Newest,
    Oldest,
    LastAdded,
}

/// Where a row stands: its time, unless the order is another one, and its number.
type Place = (Option<DateTime<Utc>>, usize);

/// Finds a page of the rows that are wanted.
pub(super) fn page<T: Listed + Clone>(rows: &[T], order: Order, page: Page, wanted: impl Fn(&T) -> bool) -> Paged<T> {
    let place = |(index, row): (usize, &T)| (order.time(row.mark().at), index + 1);
    let mut found: Vec<(Place, &T)> = rows.iter().enumerate().map(|it| (place(it), it.1)).collect();
    found.retain(|(_, row)| wanted(row));
    found.sort_by_key(|(place, _)| *place);
    if order != Order::Oldest {
        found.reverse();
    }
    if let Some(mark) = page.after {
        let after = after(rows, order, mark);
        found.retain(|(place, _)| if order == Order::Oldest { *place > after } else { *place < after });
    }
    let rows = found.into_iter().map(|(_, row)| row.clone()).take((page.limit as usize).saturating_add(1));
    Paged::cut(rows.collect(), page.limit)
}

/// Where the row of a mark stands, or stood before it was removed.
fn after<T: Listed>(rows: &[T], order: Order, mark: Mark) -> Place {
    let number = |wanted: &dyn Fn(Mark) -> bool| rows.iter().position(|row| wanted(row.mark())).map(|index| index + 1);
    let removed = || match order {
        Order::Newest => usize::MAX,
        Order::Oldest => 0,
        Order::LastAdded => number(&|it| it.id > mark.id).unwrap_or(usize::MAX),
    };
    (order.time(mark.at), number(&|it| it.id == mark.id).unwrap_or_else(removed))
}

impl Order {
    fn time(self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        (self != Self::LastAdded).then_some(time)
    }
}

/// Reads a list in pages of two, and checks that all but the last are full.
macro_rules! in_pages {
    ($page:ident => $read:expr) => {{
        let (mut all, mut $page) = (Vec::new(), $crate::page::Page::first(2));
        loop {
            let read = $read.await.unwrap();
            assert!(read.next.is_none() || read.items.len() == 2);
            all.extend(read.items);
            let Some(next) = read.next else { break all };
            $page.after = Some(next);
        }
    }};
}

pub(in crate::testing) use in_pages;
