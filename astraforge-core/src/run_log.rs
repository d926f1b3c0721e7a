//! Run logs, wherever their events lie: the newest are rows of the store, older ones may be in archives.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    BoxError,
    event::RunEvent,
    id::{RequestId, RunId},
    ports::{
        artifacts::ArtifactStore,
        store::{Store, StoreError},
    },
};

mod archive;

pub use self::archive::LogArchive;

/// Reads run logs. Whoever reads events reads them here: to a reader it is one log, with numbers from one and no gap.
///
/// ```
/// use std::sync::Arc;
/// use astraforge_core::{ports::store::Store, run_log::RunLogs, testing::{MemoryArtifacts, MemoryStore, samples}};
///
/// # futures::executor::block_on(async {
/// let request = samples::request();
/// let store = Arc::new(MemoryStore::holding([&request]));
/// store.append(vec![samples::log(request.id, "cloned")]).await?;
/// let logs = RunLogs::from(store).with_archives(Arc::new(MemoryArtifacts::default()));
/// assert_eq!(logs.events(request.id, 0, 10).await?.len(), 1);
/// # Ok::<(), astraforge_core::ports::store::StoreError>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct RunLogs {
    store: Arc<dyn Store>,
    archives: Option<Arc<dyn ArtifactStore>>,
    /// The archives that were read last: a reader takes a few events at a time.
    recent: Arc<Mutex<VecDeque<Unpacked>>>,
}

/// An archive that was read.
struct Unpacked {
    key: String,
    events: Arc<[RunEvent]>,
}

impl RunLogs {
    /// How many archives are kept in memory after they were read.
    const REMEMBERED: usize = 8;

    /// Sets where archives are. Without that, what is in one cannot be read, and is an error.
    #[must_use]
    pub fn with_archives(mut self, archives: Arc<dyn ArtifactStore>) -> Self {
        self.archives = Some(archives);
        self
    }

    /// The store of the rows.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Reads at most `limit` events after sequence number `after`, in order. Fewer come when an archive ends or the log
    /// does; none when the log does.
    ///
    /// # Errors
    /// Those of the store; [`StoreError::Unreadable`] when an archive is missing or damaged.
    pub async fn events(&self, request: RequestId, after: u64, limit: u32) -> Result<Vec<RunEvent>, StoreError> {
        let rows = self.store.events(request, after, limit).await?;
        let follows = |event: &RunEvent| event.seq == after.saturating_add(1);
        if limit == 0 || rows.first().is_some_and(follows) {
            return Ok(rows);
        }
        // Rows are asked first: what is archived in between is found here.
        let archives = self.store.archives(request).await?;
        let Some(archive) = archives.iter().find(|archive| archive.last > after) else {
            return if rows.is_empty() { Ok(rows) } else { Err(lost(request, after)) };
        };
        if archive.first > after + 1 {
            return Err(lost(request, after));
        }
        let archived = self.read(archive).await?;
        Ok(archived.iter().filter(|event| event.seq > after).take(limit as usize).cloned().collect())
    }

    /// Reads all events of one run of a request, in order.
    ///
    /// # Errors
    /// As for [`events`](Self::events).
    pub async fn events_of_run(&self, request: RequestId, run: RunId) -> Result<Vec<RunEvent>, StoreError> {
        let rows = self.store.events_of_run(run).await?;
        // Rows are asked first: what is archived in between is found in both, and told once.
        let archives = self.store.archives(request).await?;
        if archives.is_empty() {
            return Ok(rows);
        }
        let mut events: BTreeMap<u64, RunEvent> = rows.into_iter().map(|event| (event.seq, event)).collect();
        for archive in &archives {
            let archived = self.read(archive).await?;
            let of_run = archived.iter().filter(|event| event.run_id == Some(run));
            events.extend(of_run.map(|event| (event.seq, event.clone())));
        }
        Ok(events.into_values().collect())
    }

    /// Reads all events of all runs of a request, each run's in order.
    ///
    /// # Errors
    /// As for [`events`](Self::events).
    pub async fn events_by_run(&self, request: RequestId) -> Result<HashMap<RunId, Vec<RunEvent>>, StoreError> {
        const PAGE: u32 = 1000;
        let (mut by_run, mut last) = (HashMap::<RunId, Vec<RunEvent>>::new(), 0);
        loop {
            let events = self.events(request, last, PAGE).await?;
            let Some(newest) = events.last() else { return Ok(by_run) };
            last = newest.seq;
            for event in events {
                if let Some(run) = event.run_id {
                    by_run.entry(run).or_default().push(event);
                }
            }
        }
    }

    async fn read(&self, archive: &LogArchive) -> Result<Arc<[RunEvent]>, StoreError> {
        if let Some(events) = self.remembered(&archive.key) {
            return Ok(events);
        }
        let no_store = || unreadable("this program was given no store of archives".into());
        let store = self.archives.as_ref().ok_or_else(no_store)?;
        let bytes = store.get(&archive.key).await;
        let bytes = bytes.map_err(|error| StoreError::Backend { operation: READ, source: error.into() })?;
        let missing = || {
            unreadable(
                format!(
                    "archive `{}` is missing from the files of requests; put it back from where they were kept before, \
                     or from a backup",
                    archive.key
                )
                .into(),
            )
        };
        let events = archive.open(&bytes.ok_or_else(missing)?).map_err(|error| unreadable(error.into()))?;
        let events: Arc<[RunEvent]> = events.into();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.truncate(Self::REMEMBERED - 1);
        recent.push_front(Unpacked { key: archive.key.clone(), events: events.clone() });
        Ok(events)
    }

    fn remembered(&self, key: &str) -> Option<Arc<[RunEvent]>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().find(|unpacked| unpacked.key == key).map(|unpacked| unpacked.events.clone())
    }
}

const READ: &str = "read archived events";

fn unreadable(source: BoxError) -> StoreError {
    StoreError::Unreadable { operation: READ, source }
}

fn lost(request: RequestId, after: u64) -> StoreError {
    let what = format!("of the log of request `{request}`, what comes after event {after} is neither row nor archive");
    StoreError::Unreadable { operation: "read events", source: what.into() }
}

impl From<Arc<dyn Store>> for RunLogs {
    fn from(store: Arc<dyn Store>) -> Self {
        Self { store, archives: None, recent: Arc::default() }
    }
}

impl<S: Store> From<Arc<S>> for RunLogs {
    fn from(store: Arc<S>) -> Self {
        let store: Arc<dyn Store> = store;
        store.into()
    }
}

impl fmt::Debug for RunLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunLogs").field("store", &self.store).field("archives", &self.archives).finish_non_exhaustive()
    }
}
