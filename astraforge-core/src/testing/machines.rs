//! Machines in memory, which do what a test says: their files are a map, and an archive is that map as JSON.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};

use crate::{
    archive::{ArchiveSummary, CompareRequest, Comparison, PackRequest, TreeChange, TreeChangeKind, UnpackRequest},
    egress::{Egress, EgressEvent},
    files::{
        DownloadRequest, Entry, EntryKind, FileErrorKind, FileEvent, FileReply, FileRequest, FileVerb, UploadRequest,
        WatchRequest,
    },
    id::SandboxId,
    ports::{
        machines::{ByteStream, Machine, Machines, Made, Usage, WorkspaceOrigin},
        sessions::{Execution, Session, SessionError},
    },
    process::{Process, ProcessName, ProcessTag},
    session::{Command, SandboxSpec, Signal},
};

/// The files of one machine.
type Files = BTreeMap<String, String>;

/// Makes machines whose files are in memory.
#[derive(Debug, Default)]
pub struct PlayedMachines {
    live: Mutex<BTreeMap<SandboxId, Arc<PlayedMachine>>>,
    kept: Mutex<BTreeMap<SandboxId, Files>>,
    n_made: AtomicUsize,
    /// Whether making fails.
    pub refuses: AtomicBool,
    /// Whether packing breaks off in the middle.
    pub breaks: Arc<AtomicBool>,
    /// Whether archives are refused.
    pub rejects: Arc<AtomicBool>,
}

impl PlayedMachines {
    /// How many machines were made so far.
    #[must_use]
    pub fn n_made(&self) -> usize {
        self.n_made.load(Ordering::SeqCst)
    }

    /// The machines that live.
    #[must_use]
    pub fn live(&self) -> Vec<SandboxId> {
        lock(&self.live).keys().copied().collect()
    }

    /// Ends a machine as if it died by itself; with `keep`, the next one of its id has its files.
    pub fn kill(&self, id: SandboxId, keep: bool) {
        let Some(machine) = lock(&self.live).remove(&id) else { return };
        machine.is_lost.store(true, Ordering::SeqCst);
        if keep {
            lock(&self.kept).insert(id, machine.files());
        }
    }

    /// Which addresses a live machine may reach.
    #[must_use]
    pub fn egress(&self, id: SandboxId) -> Option<Egress> {
        Some(lock(&lock(&self.live).get(&id)?.egress).clone())
    }

    /// Reads a file of a live machine.
    #[must_use]
    pub fn read(&self, id: SandboxId, path: &str) -> Option<String> {
        lock(&self.live).get(&id)?.files().get(path).cloned()
    }

    /// Writes a file of a live machine.
    pub fn write(&self, id: SandboxId, path: &str, text: &str) {
        let machine = lock(&self.live).get(&id).cloned().unwrap();
        lock(&machine.files).insert(path.to_owned(), text.to_owned());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets others have their turn, as real work would.
async fn pause() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

#[async_trait]
impl Machines for PlayedMachines {
    fn mode(&self) -> &'static str {
        "played"
    }

    async fn make(&self, id: SandboxId, spec: SandboxSpec) -> Result<Made, SessionError> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(SessionError::Unsupported { what: "a machine".into(), reason: "the test says so".into() });
        }
        pause().await;
        let kept = lock(&self.kept).remove(&id);
        let workspace = if kept.is_some() { WorkspaceOrigin::Kept } else { WorkspaceOrigin::Fresh };
        let machine = Arc::new(PlayedMachine {
            id,
            egress: Mutex::new(spec.egress),
            files: Mutex::new(kept.unwrap_or_default()),
            is_lost: AtomicBool::new(false),
            breaks: Arc::clone(&self.breaks),
            rejects: Arc::clone(&self.rejects),
        });
        let mut live = lock(&self.live);
        if live.contains_key(&id) {
            return Err(SessionError::AlreadyExists { id });
        }
        live.insert(id, Arc::clone(&machine));
        self.n_made.fetch_add(1, Ordering::SeqCst);
        Ok(Made { machine, workspace })
    }

    async fn find(&self, id: SandboxId, egress: Egress) -> Result<Arc<dyn Machine>, SessionError> {
        pause().await;
        let machine = lock(&self.live).get(&id).cloned().ok_or(SessionError::Lost)?;
        *lock(&machine.egress) = egress;
        Ok(machine)
    }

    fn known(&self, id: SandboxId) -> Option<Arc<dyn Machine>> {
        let machine = lock(&self.live).get(&id).cloned()?;
        Some(machine)
    }

    fn known_egress(&self, id: SandboxId) -> Option<Egress> {
        self.egress(id)
    }

    async fn remove(&self, id: SandboxId) -> Result<(), SessionError> {
        pause().await;
        self.kill(id, false);
        lock(&self.kept).remove(&id);
        Ok(())
    }

    async fn ids(&self) -> Result<Vec<SandboxId>, SessionError> {
        Ok(self.live())
    }

    async fn left(&self) -> Result<Vec<SandboxId>, SessionError> {
        let live = self.live();
        Ok(lock(&self.kept).keys().filter(|id| !live.contains(id)).copied().collect())
    }
}

#[derive(Debug)]
struct PlayedMachine {
    id: SandboxId,
    egress: Mutex<Egress>,
    files: Mutex<Files>,
    is_lost: AtomicBool,
    breaks: Arc<AtomicBool>,
    rejects: Arc<AtomicBool>,
}

impl PlayedMachine {
    fn files(&self) -> Files {
        lock(&self.files).clone()
    }

    fn live_files(&self) -> Result<MutexGuard<'_, Files>, SessionError> {
        if self.is_lost.load(Ordering::SeqCst) { Err(SessionError::Lost) } else { Ok(lock(&self.files)) }
    }
}

fn unplayed(what: &str) -> SessionError {
    SessionError::Unsupported { what: what.to_owned(), reason: "a played machine does not do it".to_owned() }
}

async fn parse(archive: ByteStream) -> Result<Files, SessionError> {
    let bytes = archive.try_collect::<Vec<Bytes>>().await?.concat();
    serde_json::from_slice(&bytes)
        .map_err(|error| SessionError::Backend { operation: "read the archive", source: error.into() })
}

#[async_trait]
impl Session for PlayedMachine {
    fn id(&self) -> SandboxId {
        self.id
    }

    async fn exec(&self, _: Command) -> Result<Execution, SessionError> {
        Err(unplayed("a command"))
    }

    async fn read_file(&self, path: &str, _: u64) -> Result<Bytes, SessionError> {
        let found = self.live_files()?.get(path).cloned();
        found.map(Bytes::from).ok_or_else(|| SessionError::FileNotFound { path: path.to_owned() })
    }

    async fn write_file(&self, path: &str, contents: Bytes, _: u32) -> Result<(), SessionError> {
        self.live_files()?.insert(path.to_owned(), String::from_utf8_lossy(&contents).into_owned());
        Ok(())
    }
}

#[async_trait]
impl Machine for PlayedMachine {
    async fn spawn(&self, _: Command, _: Option<ProcessTag>) -> Result<Process, SessionError> {
        Err(unplayed("a process"))
    }

    async fn processes(&self) -> Result<Vec<Process>, SessionError> {
        Ok(Vec::new())
    }

    async fn attach(&self, name: ProcessName, _: u64) -> Result<Execution, SessionError> {
        Err(SessionError::NoSuchProcess { name })
    }

    async fn signal(&self, name: ProcessName, _: Signal) -> Result<(), SessionError> {
        Err(SessionError::NoSuchProcess { name })
    }

    async fn file(&self, request: FileRequest) -> Result<FileReply, SessionError> {
        let entry = |(path, text): (String, String)| Entry {
            path,
            kind: EntryKind::File,
            size: text.len() as u64,
            mode: 0o644,
            modified_at: chrono::DateTime::UNIX_EPOCH,
            target: None,
        };
        let files = self.live_files()?.clone();
        match request.verb {
            FileVerb::List { .. } => {
                Ok(FileReply::Entries { entries: files.into_iter().map(entry).collect(), truncated: false })
            }
            FileVerb::Stat { path } => match files.get_key_value(&path) {
                Some((path, text)) => Ok(FileReply::Entry(entry((path.clone(), text.clone())))),
                None => Err(SessionError::FileNotFound { path }),
            },
            _ => Err(unplayed("this file verb")),
        }
    }

    async fn watch(
        &self,
        _: WatchRequest,
    ) -> Result<BoxStream<'static, Result<FileEvent, SessionError>>, SessionError> {
        Err(unplayed("a watch"))
    }

    async fn download(&self, request: DownloadRequest) -> Result<ByteStream, SessionError> {
        let bytes = self.read_file(&request.path, u64::MAX).await?;
        Ok(stream::iter([Ok(bytes)]).boxed())
    }

    async fn upload(&self, request: UploadRequest, contents: ByteStream) -> Result<u64, SessionError> {
        let bytes: Vec<Bytes> = contents.try_collect().await?;
        let bytes = Bytes::from(bytes.concat());
        let size = bytes.len() as u64;
        self.write_file(&request.path, bytes, request.mode).await?;
        Ok(size)
    }

    async fn pack(&self, _: PackRequest) -> Result<ByteStream, SessionError> {
        let bytes = Bytes::from(serde_json::to_vec(&*self.live_files()?).unwrap());
        let half = bytes.slice(..bytes.len() / 2);
        if self.breaks.load(Ordering::SeqCst) {
            let broken = SessionError::File {
                operation: "pack",
                path: "/workspace".to_owned(),
                kind: FileErrorKind::Other,
                reason: "the test says so".to_owned(),
            };
            return Ok(stream::iter([Ok(half), Err(broken)]).boxed());
        }
        Ok(stream::iter([Ok(half), Ok(bytes.slice(bytes.len() / 2..))]).boxed())
    }

    async fn unpack(&self, _: UnpackRequest, archive: ByteStream) -> Result<ArchiveSummary, SessionError> {
        let files = parse(archive).await?;
        pause().await;
        if self.rejects.load(Ordering::SeqCst) {
            return Err(unplayed("this archive"));
        }
        *self.live_files()? = files;
        Ok(ArchiveSummary::default())
    }

    async fn compare(&self, _: CompareRequest, archive: ByteStream) -> Result<Comparison, SessionError> {
        let then = parse(archive).await?;
        let now = self.live_files()?.clone();
        let paths: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
        let change = |path: &String| {
            let change = match (then.get(path), now.get(path)) {
                (None, _) => TreeChangeKind::Added,
                (_, None) => TreeChangeKind::Removed,
                (old, new) if old != new => TreeChangeKind::Modified,
                _ => return None,
            };
            let size = |files: &Files| files.get(path).map(|text| text.len() as u64);
            Some(TreeChange { path: path.clone(), change, old_size: size(&then), new_size: size(&now) })
        };
        Ok(Comparison { changes: paths.into_iter().filter_map(change).collect(), truncated: false })
    }

    async fn usage(&self) -> Result<Usage, SessionError> {
        Ok(Usage::default())
    }

    async fn egress_log(&self) -> Result<Vec<EgressEvent>, SessionError> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::machines_conformance!(async { ((), PlayedMachines::default(), "/workspace") });
}
