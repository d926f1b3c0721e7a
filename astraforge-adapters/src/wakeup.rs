//! Wake-ups inside one process, and what those across processes share.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use astraforge_core::ports::wakeup::{Topic, Wakeups};
use futures::{Stream, StreamExt, stream, stream::BoxStream};
use tokio::sync::watch;

#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) mod across;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod hint;
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) mod outbox;

#[cfg(any(feature = "postgres", feature = "redis"))]
pub use self::across::BusTrouble;

/// Wakes the readers of this process. Clones share the readers.
///
/// Each topic keeps one slot however many hints come, and is forgotten when its last reader is gone.
///
/// ```
/// use astraforge_adapters::wakeup::InProcessWakeups;
/// use astraforge_core::ports::wakeup::{Topic, Wakeups};
/// use futures::StreamExt;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let wakeups = InProcessWakeups::default();
/// let mut jobs = wakeups.watch(Topic::Jobs);
/// wakeups.wake(Topic::Jobs);
/// assert_eq!(jobs.next().await, Some(()));
/// # });
/// ```
#[derive(Debug, Clone, Default)]
pub struct InProcessWakeups {
    topics: Arc<Mutex<HashMap<Topic, watch::Sender<()>>>>,
}

impl InProcessWakeups {
    /// Wakes every reader of every topic: whoever carries hints may have lost some.
    #[cfg(any(feature = "postgres", feature = "redis"))]
    pub(crate) fn wake_all(&self) {
        for sender in self.topics().values() {
            sender.send_replace(());
        }
    }

    fn topics(&self) -> MutexGuard<'_, HashMap<Topic, watch::Sender<()>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wakeups for InProcessWakeups {
    fn wake(&self, topic: Topic) {
        if let Some(sender) = self.topics().get(&topic) {
            sender.send_replace(());
        }
    }

    fn watch(&self, topic: Topic) -> BoxStream<'static, ()> {
        let receiver = self.topics().entry(topic).or_default().subscribe();
        let hints = stream::unfold(receiver, |mut receiver| async move {
            receiver.changed().await.ok()?;
            Some(((), receiver))
        });
        Watch { hints: hints.boxed(), _place: Place { wakeups: self.clone(), topic } }.boxed()
    }
}

/// The hints of one reader. The receiver goes first when this is dropped, then the reader's place.
struct Watch {
    hints: BoxStream<'static, ()>,
    _place: Place,
}

impl Stream for Watch {
    type Item = ();

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<()>> {
        self.hints.poll_next_unpin(cx)
    }
}

/// A reader's place; the last one to leave closes the topic.
struct Place {
    wakeups: InProcessWakeups,
    topic: Topic,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut topics = self.wakeups.topics();
        if topics.get(&self.topic).is_some_and(|sender| sender.receiver_count() == 0) {
            topics.remove(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use astraforge_core::id::RequestId;

    use super::*;

    astraforge_core::wakeups_conformance!(InProcessWakeups::default());

    #[tokio::test]
    async fn a_reader_on_another_task_is_woken() {
        let wakeups = InProcessWakeups::default();
        let mut jobs = wakeups.watch(Topic::Jobs);
        let reader = tokio::spawn(async move { jobs.next().await });
        tokio::task::yield_now().await;
        wakeups.wake(Topic::Jobs);
        assert_eq!(reader.await.unwrap(), Some(()));
    }

    #[tokio::test]
    async fn a_topic_that_nobody_watches_is_forgotten() {
        let wakeups = InProcessWakeups::default();
        let topic = Topic::Log(RequestId::random());
        wakeups.wake(topic);
        let (one, two) = (wakeups.watch(topic), wakeups.watch(topic));
        drop(one);
        assert_eq!(wakeups.topics().len(), 1);
        drop(two);
        assert_eq!(wakeups.topics().len(), 0);
    }
}
