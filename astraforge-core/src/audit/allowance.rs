//! How much is written of what anybody can cause: so that nobody fills the disk, and nothing goes by unseen.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

/// Allows a few entries of each source, and some of all sources, in each minute; counts those that are left out.
///
/// ```
/// use astraforge_core::audit::allowance::Allowance;
/// use chrono::{DateTime, TimeDelta};
///
/// let (mut allowance, now) = (Allowance::default(), DateTime::UNIX_EPOCH);
/// let written = (0..100).filter(|_| allowance.take("mira", now).is_some()).count();
/// assert_eq!(written, 5);
/// assert_eq!(allowance.take("mira", now + TimeDelta::minutes(1)), Some(95));
/// ```
#[derive(Debug, Default)]
pub struct Allowance {
    minute: DateTime<Utc>,
    taken: BTreeMap<String, u32>,
    in_all: u32,
    left_out: u64,
}

impl Allowance {
    /// How many of one source are written in a minute.
    pub const OF_A_SOURCE: u32 = 5;
    /// How many of all sources are written in a minute.
    pub const IN_ALL: u32 = 60;

    /// Tells whether one more may be written at `now`, and how many were left out since the last one that was.
    pub fn take(&mut self, source: &str, now: DateTime<Utc>) -> Option<u64> {
        // A clock that is put back begins a new minute too.
        if now < self.minute || now - self.minute >= TimeDelta::minutes(1) {
            (self.minute, self.in_all) = (now, 0);
            self.taken.clear();
        }
        let of_source = self.taken.get(source).copied().unwrap_or(0);
        if of_source >= Self::OF_A_SOURCE || self.in_all >= Self::IN_ALL {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        // As many sources are remembered as entries are written.
        self.taken.insert(source.to_owned(), of_source + 1);
        self.in_all += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_sources_are_bounded_together_and_remembered_no_longer() {
        let (mut allowance, now) = (Allowance::default(), DateTime::UNIX_EPOCH);
        let written = (0..10_000).filter(|n| allowance.take(&n.to_string(), now).is_some()).count();
        assert_eq!((written, allowance.taken.len()), (60, 60));
        let later = now + TimeDelta::seconds(59);
        assert_eq!(allowance.take("late", later), None);
        assert_eq!(allowance.take("late", later + TimeDelta::seconds(1)), Some(9941));
        assert_eq!(allowance.take("late", later + TimeDelta::seconds(1)), Some(0), "they are told once");
    }

    #[test]
    fn one_source_leaves_room_for_others() {
        let (mut allowance, now) = (Allowance::default(), DateTime::UNIX_EPOCH);
        assert_eq!((0..99).filter(|_| allowance.take("loud", now).is_some()).count(), 5);
        assert_eq!(allowance.take("quiet", now), Some(94));
    }

    #[test]
    fn a_clock_that_is_put_back_stops_nothing() {
        let (mut allowance, now) = (Allowance::default(), DateTime::UNIX_EPOCH + TimeDelta::days(9));
        while allowance.take("x", now).is_some() {}
        assert!(allowance.take("x", DateTime::UNIX_EPOCH).is_some());
    }
}
