//! The port that wakes readers: a hint to look at the rows again, never the truth itself.

use std::fmt;

use futures::stream::BoxStream;

use crate::id::RequestId;

/// What may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// The run log of a request.
    Log(RequestId),
    /// The job queue.
    Jobs,
}

/// Wakes those who wait for rows to change. A lost hint costs a second, never an event: readers look again by themselves.
pub trait Wakeups: fmt::Debug + Send + Sync + 'static {
    /// Wakes everyone who watches `topic`.
    fn wake(&self, topic: Topic);
    /// Watches a topic from now on; an item says "look again". Missed items are folded into one.
    fn watch(&self, topic: Topic) -> BoxStream<'static, ()>;
}
