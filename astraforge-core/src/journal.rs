//! The journal: the one place where anything about a request is written, and where secrets are taken out of it.

use std::{sync::Arc, time::Duration};

use futures::{
    StreamExt,
    stream::{BoxStream, FusedStream},
};

use crate::{
    audit::{Audit, NewEntry},
    event::{EventKind, NewEvent, RunEvent},
    id::{RequestId, RunId},
    job::Claim,
    ports::{
        clock::Clock,
        store::{Changes, Store, StoreError},
        wakeup::{Topic, Wakeups},
    },
    redact::Redactor,
    run_log::RunLogs,
};

/// Writes changes and events: redacted, then stored, then readers are woken.
#[derive(Debug, Clone)]
pub struct Journal {
    logs: RunLogs,
    wakeups: Arc<dyn Wakeups>,
    clock: Arc<dyn Clock>,
    redactor: Redactor,
    claim: Option<Claim>,
    audit: Option<Audit>,
}

impl Journal {
    /// The longest text of one event, in bytes; the rest is cut, and the cut is marked.
    pub const LONGEST_TEXT: usize = 16 * 1024;

    /// How long a reader whose wake-up was lost waits before it looks by itself.
    const LOOK_AGAIN: Duration = Duration::from_millis(900);

    /// A journal over a store, or over run logs of which some are in archives.
    pub fn new(logs: impl Into<RunLogs>, wakeups: Arc<dyn Wakeups>, clock: Arc<dyn Clock>, redactor: Redactor) -> Self {
        Self { logs: logs.into(), wakeups, clock, redactor, claim: None, audit: None }
    }

    /// The same, with an audit that is told of approvals and verdicts.
    #[must_use]
    pub fn with_audit(mut self, audit: Audit) -> Self {
        self.audit = Some(audit);
        self
    }

    /// A journal for whoever holds a job: once the claim is lost, it writes nothing more.
    #[must_use]
    pub fn under(&self, claim: Claim) -> Self {
        Self { claim: Some(claim), ..self.clone() }
    }

    /// The store, for reading all but the events of logs.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        self.logs.store()
    }

    /// The run logs, for reading.
    #[must_use]
    pub fn logs(&self) -> &RunLogs {
        &self.logs
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// The redactor, to teach it secrets.
    #[must_use]
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// The audit, if there is one.
    #[must_use]
    pub fn audit(&self) -> Option<&Audit> {
        self.audit.as_ref()
    }

    /// Writes an entry of the audit, if there is one.
    pub async fn note(&self, entry: NewEntry) {
        if let Some(audit) = &self.audit {
            audit.note(entry).await;
        }
    }

    /// Writes changes in one transaction.
    ///
    /// # Errors
    /// Those of [`Store::commit`].
    pub async fn commit(&self, mut changes: Changes) -> Result<(), StoreError> {
        for event in &mut changes.events {
            self.clean(&mut event.kind);
        }
        for run in &mut changes.runs {
            let attempts = run.attempts.iter_mut().filter_map(|attempt| attempt.failure.as_mut());
            let failures = run.failure.iter_mut().chain(attempts).map(|failure| &mut failure.message);
            let tests = run.tests.iter_mut().map(|tests| &mut tests.output_tail);
            for text in run.final_message.iter_mut().chain(failures).chain(tests) {
                *text = self.redactor.redact(text);
            }
        }
        for message in &mut changes.messages {
            message.text = self.redactor.redact(&message.text);
        }
        let changed = changes.request.iter().map(|change| change.request.id);
        let touched: Vec<RequestId> = changes.events.iter().map(|event| event.request).chain(changed).collect();
        changes.claim = changes.claim.or(self.claim);
        for failed in &mut changes.failed_jobs {
            failed.error = self.redactor.redact(&failed.error);
        }
        for error in changes.ended_jobs.iter_mut().filter_map(|ended| ended.error.as_mut()) {
            *error = self.redactor.redact(error);
        }
        let jobs_changed = changes.changes_queue();
        self.store().commit(changes).await?;
        self.wake_logs(touched);
        if jobs_changed {
            self.wakeups.wake(Topic::Jobs);
        }
        Ok(())
    }

    /// Writes events.
    ///
    /// # Errors
    /// Those of [`Store::append`].
    pub async fn append(&self, mut events: Vec<NewEvent>) -> Result<(), StoreError> {
        for event in &mut events {
            self.clean(&mut event.kind);
        }
        let touched = events.iter().map(|event| event.request).collect();
        match self.claim {
            None => self.store().append(events).await?,
            claim => self.store().commit(Changes { claim, events, ..Changes::default() }).await?,
        };
        self.wake_logs(touched);
        Ok(())
    }

    /// An event of now.
    #[must_use]
    pub fn event(&self, request: RequestId, run: Option<RunId>, kind: EventKind) -> NewEvent {
        NewEvent { request, run, kind, at: self.clock.now() }
    }

    /// A reporter for one run.
    #[must_use]
    pub fn reporter(&self, request: RequestId, run: RunId) -> Reporter {
        Reporter { journal: self.clone(), request, run }
    }

    /// Watches the job queue.
    #[must_use]
    pub fn watch_jobs(&self) -> BoxStream<'static, ()> {
        self.wakeups.watch(Topic::Jobs)
    }

    /// Wakes those who watch the job queue, for instance after a cancellation was noted.
    pub fn wake_jobs(&self) {
        self.wakeups.wake(Topic::Jobs);
    }

    /// Watches the log of a request: a hint says that it may have grown, or be over.
    #[must_use]
    pub fn watch_log(&self, request: RequestId) -> BoxStream<'static, ()> {
        self.wakeups.watch(Topic::Log(request))
    }

    /// Wakes those who watch the log of a request, for instance after a job ended that had nothing to tell.
    pub fn wake_log(&self, request: RequestId) {
        self.wakeups.wake(Topic::Log(request));
    }

    /// Follows a request's log from after sequence number `after`, for ever: what is stored first, then what comes.
    ///
    /// A reader that is slow gets its events from rows and archives; nothing is kept for it in memory.
    pub fn follow(
        &self,
        request: RequestId,
        after: u64,
    ) -> impl FusedStream<Item = Result<RunEvent, StoreError>> + Send + use<> {
        const BATCH: u32 = 256;
        let journal = self.clone();
        // The watch begins before the first read, so no event falls between the two.
        let watch = self.watch_log(request);
        futures::stream::unfold((journal, watch, after), move |(journal, mut watch, after)| async move {
            loop {
                match journal.logs.events(request, after, BATCH).await {
                    Err(error) => return Some((vec![Err(error)], (journal, watch, after))),
                    Ok(events) => {
                        if let Some(last) = events.last().map(|event| event.seq) {
                            return Some((events.into_iter().map(Ok).collect(), (journal, watch, last)));
                        }
                    }
                }
                let look_again = journal.clock.sleep(Self::LOOK_AGAIN);
                futures::future::select(watch.next(), look_again).await;
            }
        })
        .flat_map(futures::stream::iter)
        .fuse()
    }

    fn wake_logs(&self, mut requests: Vec<RequestId>) {
        requests.sort();
        requests.dedup();
        for request in requests {
            self.wake_log(request);
        }
    }

    fn clean(&self, kind: &mut EventKind) {
        kind.map_text(|text| {
            *text = self.redactor.redact(text);
            truncate(text, Self::LONGEST_TEXT);
        });
    }
}

/// Cuts `text` to about `max` bytes and says so.
fn truncate(text: &mut String, max: usize) {
    if text.len() > max {
        let left_out = text.len() - text.floor_char_boundary(max);
        text.truncate(text.floor_char_boundary(max));
        text.push_str(&format!(" … [{left_out} bytes left out]"));
    }
}

/// Writes the events of one run. Clones write to the same log.
#[derive(Debug, Clone)]
pub struct Reporter {
    journal: Journal,
    request: RequestId,
    run: RunId,
}

impl Reporter {
    /// Writes one event.
    ///
    /// # Errors
    /// Those of [`Store::append`].
    pub async fn emit(&self, kind: EventKind) -> Result<(), StoreError> {
        self.emit_all(vec![kind]).await
    }

    /// Writes several events at once, which costs one transaction.
    ///
    /// # Errors
    /// Those of [`Store::append`].
    pub async fn emit_all(&self, kinds: Vec<EventKind>) -> Result<(), StoreError> {
        let events = kinds.into_iter().map(|kind| self.journal.event(self.request, Some(self.run), kind)).collect();
        self.journal.append(events).await
    }

    /// The redactor, to teach it the run's own secrets.
    #[must_use]
    pub fn redactor(&self) -> &Redactor {
        self.journal.redactor()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters_and_say_so() {
        let mut text = "ä".repeat(10);
        truncate(&mut text, 5);
        assert_eq!(text, "ää … [16 bytes left out]");
    }
}
