//! Wake-ups without a runtime.

use std::sync::{Mutex, PoisonError};

use futures::{
    StreamExt,
    channel::mpsc::{Sender, channel},
    stream::BoxStream,
};

use crate::ports::wakeup::{Topic, Wakeups};

/// Wakes watchers in this process. A watcher that did not look yet keeps one item, however often it was woken.
///
/// ```
/// use astraforge_core::{
///     ports::wakeup::{Topic, Wakeups},
///     testing::MemoryWakeups,
/// };
/// use futures::{FutureExt, StreamExt};
///
/// let wakeups = MemoryWakeups::default();
/// let mut jobs = wakeups.watch(Topic::Jobs);
/// wakeups.wake(Topic::Jobs);
/// wakeups.wake(Topic::Jobs);
/// assert_eq!(jobs.next().now_or_never(), Some(Some(())));
/// assert_eq!(jobs.next().now_or_never(), None);
/// ```
#[derive(Debug, Default)]
pub struct MemoryWakeups {
    watchers: Mutex<Vec<(Topic, Sender<()>)>>,
}

impl Wakeups for MemoryWakeups {
    fn wake(&self, topic: Topic) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain_mut(|(watched, sender)| {
            if *watched == topic {
                // A full channel holds the one item that says "look again".
                let _ = sender.try_send(());
            }
            !sender.is_closed()
        });
    }

    fn watch(&self, topic: Topic) -> BoxStream<'static, ()> {
        let (sender, receiver) = channel(0);
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|(_, sender)| !sender.is_closed());
        watchers.push((topic, sender));
        receiver.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::wakeups_conformance!(MemoryWakeups::default());

    #[test]
    fn dropped_watchers_are_forgotten() {
        let wakeups = MemoryWakeups::default();
        for _ in 0..10 {
            drop(wakeups.watch(Topic::Jobs));
        }
        wakeups.wake(Topic::Jobs);
        assert!(wakeups.watchers.lock().unwrap().is_empty());
    }
}
