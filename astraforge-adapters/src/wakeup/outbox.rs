//! What is still to be told to other processes: folded and bounded, so that a writer never waits.

use std::{
    collections::HashSet,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Collects what changed until a task takes it. Something that changes twice is told once.
#[derive(Debug)]
pub(crate) struct Outbox<T: Eq + Hash> {
    waiting: Mutex<Changed<T>>,
    filled: Notify,
}

/// What changed since it was last taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Changed<T: Eq + Hash> {
    /// These, or nothing.
    Some(HashSet<T>),
    /// So much that it is not kept one by one.
    Everything,
}

impl<T: Eq + Hash> Default for Changed<T> {
    fn default() -> Self {
        Self::Some(HashSet::new())
    }
}

impl<T: Eq + Hash> Default for Outbox<T> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), filled: Notify::new() }
    }
}

impl<T: Eq + Hash> Outbox<T> {
    /// How much is kept one by one while nobody can be told.
    const MOST: usize = 4096;

    /// Notes a change.
    pub(crate) fn put(&self, changed: T) {
        self.put_back(Changed::Some(HashSet::from([changed])));
    }

    /// Notes what was taken and could not be told.
    pub(crate) fn put_back(&self, changed: Changed<T>) {
        let mut waiting = self.waiting();
        match (&mut *waiting, changed) {
            (Changed::Everything, _) => {}
            (Changed::Some(waiting), Changed::Some(more)) if waiting.len() + more.len() <= Self::MOST => {
                waiting.extend(more);
            }
            (waiting, _) => *waiting = Changed::Everything,
        }
        drop(waiting);
        self.filled.notify_one();
    }

    /// Takes what waits, perhaps nothing.
    pub(crate) fn take(&self) -> Changed<T> {
        std::mem::take(&mut *self.waiting())
    }

    /// Waits until something may have been put in since the last wait. For one waiter; a dropped wait loses nothing.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    fn waiting(&self) -> MutexGuard<'_, Changed<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(numbers: impl IntoIterator<Item = usize>) -> Changed<usize> {
        Changed::Some(numbers.into_iter().collect())
    }

    #[tokio::test]
    async fn what_changes_twice_is_told_once() {
        let outbox = Outbox::default();
        for number in [1, 2, 1] {
            outbox.put(number);
        }
        outbox.filled().await;
        assert_eq!(outbox.take(), some([1, 2]));
        assert_eq!(outbox.take(), Changed::default());
    }

    #[test]
    fn what_could_not_be_told_is_told_with_what_came_since() {
        let outbox = Outbox::default();
        outbox.put(1);
        let taken = outbox.take();
        outbox.put(2);
        outbox.put_back(taken);
        assert_eq!(outbox.take(), some([1, 2]));
    }

    #[test]
    fn more_than_is_kept_becomes_everything() {
        let outbox = Outbox::default();
        (0..Outbox::<usize>::MOST).for_each(|number| outbox.put(number));
        outbox.put_back(outbox.take());
        outbox.put(Outbox::<usize>::MOST);
        outbox.put(0);
        assert_eq!(outbox.take(), Changed::Everything);
        outbox.put(7);
        assert_eq!(outbox.take(), some([7]));
    }
}
