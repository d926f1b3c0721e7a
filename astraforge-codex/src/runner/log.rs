//! The run log as the runner writes it: in batches, soon, and never more than a run may write.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use astraforge_core::{
    event::EventKind,
    journal::Reporter,
    redact::Redactor,
    run::{FailureCause, RunFailure},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// How long an event may wait for others to be written with it.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a store that does not take events is left alone before each new try, in seconds.
const PAUSES: [u64; 6] = [1, 2, 4, 8, 16, 32];
/// How many events are written at once at most.
const BATCH: usize = 256;
/// How much of what comes out of the sandbox one run may write to its log, in bytes.
const LIMIT: usize = 4 * 1024 * 1024;
/// What an event costs beside its text.
const OVERHEAD: usize = 64;
/// The longest text of one event that comes out of the sandbox, in bytes.
const LONGEST: usize = 8 * 1024;

/// Writes to one run's log.
#[derive(Debug)]
pub(super) struct Log {
    entries: mpsc::Sender<Entry>,
    writer: JoinHandle<Result<(), RunFailure>>,
    redactor: Redactor,
    written: AtomicUsize,
}

#[derive(Debug)]
enum Entry {
    Event(EventKind),
    Flush(oneshot::Sender<()>),
}

impl Log {
    pub(super) fn start(reporter: Reporter) -> Self {
        let (entries, inbox) = mpsc::channel(BATCH);
        let redactor = reporter.redactor().clone();
        Self { entries, writer: tokio::spawn(write(reporter, inbox)), redactor, written: AtomicUsize::new(0) }
    }

    pub(super) fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// Writes an event of the runner's own.
    pub(super) async fn emit(&self, event: EventKind) {
        // The writer is gone only after it failed, which `close` reports.
        _ = self.entries.send(Entry::Event(event)).await;
    }

    /// Writes a step of the runner's own.
    pub(super) async fn status(&self, stage: &str, message: impl Into<String>) {
        self.emit(EventKind::status(stage, message)).await;
    }

    /// Writes events that come out of the sandbox, as long as there is room for them.
    pub(super) async fn relay(&self, events: Vec<EventKind>) {
        for mut event in events {
            event.map_text(|text| shorten(text, &self.redactor));
            let size = OVERHEAD + text_len(&mut event);
            let before = self.written.fetch_add(size, Ordering::Relaxed);
            if before < LIMIT {
                self.emit(event).await;
                if before + size >= LIMIT {
                    let message =
                        format!("The log of this run is cut here: the run wrote more than {} MiB.", LIMIT >> 20);
                    self.status("workspace", message).await;
                }
            }
        }
    }

    /// Waits until all that was written so far is in the log.
    pub(super) async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.entries.send(Entry::Flush(done)).await.is_ok() {
            // What is sent in the moment when the writer fails stays in the channel, and nobody answers.
            tokio::select! {
                _ = wait => {}
                () = self.entries.closed() => {}
            }
        }
    }

    /// Writes what is left, and tells whether all of it was kept.
    pub(super) async fn close(self) -> Result<(), RunFailure> {
        drop(self.entries);
        self.writer.await.unwrap_or_else(|_| Err(lost("its writer broke".to_owned())))
    }
}

fn text_len(event: &mut EventKind) -> usize {
    let len = std::cell::Cell::new(0);
    event.map_text(|text| len.set(len.get() + text.len()));
    len.get()
}

/// Takes secrets out before anything is cut, so that none is left in half.
fn shorten(text: &mut String, redactor: &Redactor) {
    if text.len() > LONGEST {
        *text = redactor.redact(text);
    }
    if text.len() > LONGEST {
        let left_out = text.len() - text.floor_char_boundary(LONGEST);
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push_str(&format!(" … [{left_out} bytes left out]"));
    }
}

async fn write(reporter: Reporter, mut inbox: mpsc::Receiver<Entry>) -> Result<(), RunFailure> {
    while let Some(first) = inbox.recv().await {
        let (mut events, mut flushed) = (Vec::new(), Vec::new());
        let mut soon = std::pin::pin!(tokio::time::sleep(PATIENCE));
        let mut next = Some(first);
        while let Some(entry) = next {
            match entry {
                Entry::Event(event) => events.push(event),
                Entry::Flush(done) => flushed.push(done),
            }
            if events.len() >= BATCH || !flushed.is_empty() {
                break;
            }
            next = tokio::select! {
                entry = inbox.recv() => entry,
                () = &mut soon => None,
            };
        }
        if !events.is_empty() {
            keep(&reporter, events).await?;
        }
        for done in flushed {
            _ = done.send(());
        }
    }
    Ok(())
}

/// Writes a batch; a store that fails for a while holds the run up and does not end it.
async fn keep(reporter: &Reporter, events: Vec<EventKind>) -> Result<(), RunFailure> {
    let mut pauses = PAUSES.iter();
    loop {
        match (reporter.emit_all(events.clone()).await, pauses.next()) {
            (Ok(()), _) => return Ok(()),
            (Err(error), None) => return Err(lost(error.to_string())),
            (Err(error), Some(seconds)) => {
                tracing::warn!(%error, "the log of a run could not be written; will try again");
                tokio::time::sleep(Duration::from_secs(*seconds)).await;
            }
        }
    }
}

fn lost(why: String) -> RunFailure {
    RunFailure::new(
        FailureCause::Internal,
        format!("The run's log could not be written: {why}. Check the server's database and start the run again."),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use astraforge_core::{
        journal::Journal,
        ports::store::Store as _,
        testing::{MemoryStore, MemoryWakeups, TestClock, samples},
    };

    use super::*;

    /// A log over a store that refuses the next `times` commits.
    fn log(times: usize) -> (Log, Arc<MemoryStore>, astraforge_core::id::RequestId) {
        let request = samples::request();
        let store = Arc::new(MemoryStore::holding([&request]));
        let (wakeups, clock) = (Arc::new(MemoryWakeups::default()), Arc::new(TestClock::new()));
        let journal = Journal::new(store.clone(), wakeups, clock, Redactor::default());
        store.refuse(times, |_| true);
        (Log::start(journal.reporter(request.id, samples::run(&request).id)), store, request.id)
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_for_a_while_loses_no_event() {
        let (log, store, request) = log(PAUSES.len());
        log.emit(EventKind::log("one")).await;
        log.flush().await;
        log.emit(EventKind::log("two")).await;
        log.close().await.unwrap();
        let events = store.events(request, 0, 10).await.unwrap();
        let kinds: Vec<_> = events.into_iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::log("one"), EventKind::log("two")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_cannot_be_written_fails_the_run() {
        let (log, ..) = log(usize::MAX);
        log.emit(EventKind::log("one")).await;
        assert_eq!(log.close().await.unwrap_err().cause, FailureCause::Internal);
    }
}
