//! Moves the logs of requests that have long been at rest from the database into archives. Nothing is lost by it, and no
//! reader notices.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    error::ForgeError,
    event::RunEvent,
    id::RequestId,
    ports::{
        artifacts::{ArtifactError, ArtifactStore},
        clock::Clock,
        store::{RestingLog, Store, StoreError},
    },
    run_log::LogArchive,
    session::ByteSize,
    sweep::{Rows, Swept},
};

/// What stays in the database. A log at work, or of a request that is not at rest, always does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// For how long after a request's last change; for ever unless set.
    pub age: Option<Duration>,
    /// How much of all logs together, those at work too; all unless set. The logs of the requests that have been at rest
    /// for longest go first.
    pub size: Option<ByteSize>,
}

/// Archives run logs, and sweeps archives that no row tells of.
///
/// # Cancel safety
/// A round may be dropped, or its process killed, at any point: each event is a row, or in an archive that a row tells of.
#[derive(Debug, Clone)]
pub struct Retention {
    store: Arc<dyn Store>,
    artifacts: Arc<dyn ArtifactStore>,
    clock: Arc<dyn Clock>,
    kept: Kept,
}

/// What a round did.
#[derive(Debug, Default)]
pub struct Archived {
    /// How many logs it archived to their end.
    pub n_logs: usize,
    /// How many events are archived by it.
    pub n_events: u64,
    /// The logs that stayed though they are due, and why; the next round tries them again.
    pub failed: Vec<(RequestId, ForgeError)>,
}

impl Retention {
    /// How many logs are looked at at once.
    pub const PAGE: u32 = 100;
    /// How many events an archive holds at most, and about how many bytes before they are compressed: what a reader unpacks
    /// for one of them.
    const MOST_EVENTS: u32 = 1000;
    const MOST_BYTES: usize = 1024 * 1024;

    /// A retention over the rows of `store`, whose archives are among `artifacts`.
    pub fn new(store: Arc<dyn Store>, artifacts: Arc<dyn ArtifactStore>, clock: Arc<dyn Clock>, kept: Kept) -> Self {
        Self { store, artifacts, clock, kept }
    }

    /// Whether everything stays, so that there is never anything to archive.
    #[must_use]
    pub fn keeps_all(&self) -> bool {
        self.kept == Kept::default()
    }

    /// Archives the logs that are due.
    ///
    /// # Errors
    /// Those of the stores. What concerns one log alone is in [`Archived::failed`] and holds up no other.
    pub async fn archive(&self) -> Result<Archived, ForgeError> {
        let mut archived = Archived::default();
        let mut tried: HashSet<RequestId> = HashSet::new();
        loop {
            let size = if self.kept.size.is_some() { self.store.logs_size().await? } else { 0 };
            let mut resting = self.store.resting_logs(Self::PAGE).await?;
            resting.retain(|log| !tried.contains(&log.request));
            let due = self.kept.due(resting, size, self.clock.now());
            if due.is_empty() {
                return Ok(archived);
            }
            for request in due {
                tried.insert(request);
                match self.archive_log(request, &mut archived.n_events).await {
                    Ok(true) => archived.n_logs += 1,
                    // Somebody works on it again.
                    Ok(false) => {}
                    Err(error) if is_of_one(&error) => archived.failed.push((request, error)),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Removes archives that were stored a day ago or earlier and that no row tells of.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn sweep(&self) -> Result<Swept, ForgeError> {
        let mut swept = Swept::default();
        let rows = Archives(&*self.store);
        swept.sweep(&*self.artifacts, LogArchive::PREFIX, &rows, self.clock.now()).await?;
        Ok(swept)
    }

    /// Archives a log, part by part, and tells whether all of it is; not if its request is no longer at rest.
    async fn archive_log(&self, request: RequestId, n_events: &mut u64) -> Result<bool, ForgeError> {
        loop {
            let events = self.store.events(request, 0, Self::MOST_EVENTS).await?;
            let packed = LogArchive::pack(&events, Self::MOST_BYTES, self.clock.now());
            let cannot = |source| StoreError::Unreadable { operation: "pack a run log", source };
            let Some((archive, bytes)) = packed.map_err(cannot)? else { return Ok(true) };
            self.artifacts.put(&archive.key, bytes).await?;
            if let Err(error) = self.verify(&archive, &events).await {
                self.artifacts.delete(&archive.key).await?;
                return Err(error);
            }
            // If this fails nobody knows whether the row is there; if it isn't, the sweep removes the archive.
            if !self.store.archive(&archive).await? {
                self.artifacts.delete(&archive.key).await?;
                return Ok(false);
            }
            *n_events += archive.last - archive.first + 1;
        }
    }

    /// Reads an archive back. The rows go only if it is what they were.
    async fn verify(&self, archive: &LogArchive, events: &[RunEvent]) -> Result<(), ForgeError> {
        let wrong = |source| ArtifactError { operation: "read back", key: archive.key.clone(), source };
        let stored = self.artifacts.get(&archive.key).await?;
        let stored = stored.ok_or_else(|| wrong("it is gone at once".into()))?;
        let found = archive.open(&stored).map_err(|error| wrong(error.into()))?;
        if !events.starts_with(&found) {
            // Another log may fare better.
            let source = "its events are not those that were packed".into();
            return Err(StoreError::Unreadable { operation: "read an archive back", source }.into());
        }
        Ok(())
    }
}

impl Kept {
    /// The logs that are to go, of those `resting` in the order in which they go; all logs together have `size` bytes.
    fn due(&self, resting: Vec<RestingLog>, size: u64, now: DateTime<Utc>) -> Vec<RequestId> {
        let mut left = size;
        let is_due = |log: &RestingLog| {
            let is_old = self.age.is_some_and(|age| (now - log.since).to_std().is_ok_and(|rested| rested > age));
            let is_too_much = self.size.is_some_and(|most| left > most.as_bytes());
            left = left.saturating_sub(log.size);
            is_old || is_too_much
        };
        // Those that come later are younger, and there is less of all the others.
        resting.into_iter().take_while(is_due).map(|log| log.request).collect()
    }
}

/// Whether an error concerns one log, and not the next one too.
fn is_of_one(error: &ForgeError) -> bool {
    matches!(error, ForgeError::Store(StoreError::Unreadable { .. }))
}

/// The rows of archives.
struct Archives<'a>(&'a dyn Store);

#[async_trait]
impl Rows for Archives<'_> {
    type Owner = RequestId;

    fn made_at(&self, name: &str) -> Option<DateTime<Utc>> {
        LogArchive::made_at(name)
    }

    async fn told(&self, request: RequestId) -> Result<Option<BTreeSet<String>>, StoreError> {
        if self.0.log_states(&[request]).await?.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.0.archives(request).await?.into_iter().map(|archive| archive.key).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::samples::at;

    /// Logs of these ages in seconds and sizes; all together have `size` bytes. Tells how many of them are to go.
    #[track_caller]
    fn check(kept: Kept, logs: &[(i64, u64)], size: u64, expected: usize) {
        let log = |(age, size): &(i64, u64)| RestingLog { request: RequestId::random(), since: at(-age), size: *size };
        let logs: Vec<RestingLog> = logs.iter().map(log).collect();
        let due = kept.due(logs.clone(), size, at(0));
        assert_eq!(due, logs[..expected].iter().map(|log| log.request).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_too_old_or_too_much_goes_and_the_oldest_first() {
        let old = Kept { age: Some(Duration::from_secs(60)), size: None };
        check(old, &[(90, 1), (61, 1), (60, 1), (1, 1)], 4, 2);
        check(old, &[(60, 1)], 1, 0);
        check(old, &[(-5, 1)], 1, 0);
        let large = Kept { age: None, size: Some(ByteSize::bytes(100)) };
        check(large, &[(9, 50), (8, 50), (7, 50)], 150, 1);
        check(large, &[(9, 50), (8, 50), (7, 50)], 151, 2);
        check(large, &[(9, 50), (8, 50)], 100, 0);
        check(large, &[(9, 50), (8, 50)], 1000, 2);
        let both = Kept { size: large.size, ..old };
        check(both, &[(90, 1), (9, 200), (8, 1)], 202, 2);
        check(Kept::default(), &[(1_000_000, 1 << 40)], 1 << 40, 0);
    }
}
