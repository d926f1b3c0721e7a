//! Hints and streams together: what a process has that uses Redis.

use astraforge_core::{
    ports::wakeup::{Topic, Wakeups},
    run_log::RunLogs,
};
use futures::stream::BoxStream;

use super::{RedisConfig, RedisWakeups, streams::RunLogStreams};
use crate::wakeup::BusTrouble;

/// Wakes the readers of other processes, and publishes the run logs of a store as streams that other programs read.
///
/// A stream holds each event once and in order, however many processes publish it, and whatever happens to Redis: rows
/// are the truth, an event's id in the stream is its sequence number, and a stream that was lost is written again from
/// rows. A writer never waits for Redis, which may also come later.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use astraforge_adapters::{clock::SystemClock, redis::{RedisBus, RedisConfig}, secret_box::SecretKey, sqlite::SqliteStore};
/// use astraforge_core::{journal::Journal, redact::Redactor};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Arc::new(SqliteStore::open("astraforge.db", SecretKey::load_or_create("secret.key")?).await?);
/// let bus = RedisBus::start(&RedisConfig::new("redis://redis.example:6379/0")?, store.clone());
/// let journal = Journal::new(store, Arc::new(bus), Arc::new(SystemClock), Redactor::default());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct RedisBus {
    wakeups: RedisWakeups,
    streams: RunLogStreams,
}

impl RedisBus {
    /// Begins to listen, to tell and to publish, in the background, as long as this value lives.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(config: &RedisConfig, logs: impl Into<RunLogs>) -> Self {
        Self { wakeups: RedisWakeups::start(config), streams: RunLogStreams::start(config, logs.into()) }
    }

    /// Tells whether hints are carried and logs published, as of the last few seconds. Asks nobody, so it may be called
    /// often.
    ///
    /// # Errors
    /// [`BusTrouble`] says what is not done, and why.
    pub fn check(&self) -> Result<(), BusTrouble> {
        match (self.wakeups.check(), self.streams.check()) {
            (Err(BusTrouble::Hints { bus, reason: hints }), Err(BusTrouble::RunLogs { reason: run_logs, .. })) => {
                Err(BusTrouble::Both { bus, hints, run_logs })
            }
            (hints, run_logs) => hints.and(run_logs),
        }
    }

    /// Publishes what was written until now, if that takes no longer than 2 s, and publishes nothing more.
    ///
    /// # Cancel safety
    /// What is not published when this is dropped, or not called, is published by the next process that starts.
    pub async fn close(&self) {
        self.streams.close().await;
    }
}

impl Wakeups for RedisBus {
    fn wake(&self, topic: Topic) {
        self.wakeups.wake(topic);
        if let Topic::Log(request) = topic {
            self.streams.changed(request);
        }
    }

    fn watch(&self, topic: Topic) -> BoxStream<'static, ()> {
        self.wakeups.watch(topic)
    }
}
