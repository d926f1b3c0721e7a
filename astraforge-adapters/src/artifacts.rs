//! Keeps artifacts as files of one folder.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use astraforge_core::{
    BoxError,
    ports::artifacts::{ArtifactError, ArtifactStore, ArtifactStream, Place, check_key, check_prefix},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio_util::io::ReaderStream;
use uuid::Uuid;

/// Keeps each artifact as a file `<dir>/<key>` that only this user can read.
///
/// A file is written beside its place, flushed to the disk and moved, so a crash leaves the old or the new bytes.
///
/// ```
/// use astraforge_adapters::artifacts::FolderArtifacts;
/// use astraforge_core::ports::artifacts::ArtifactStore as _;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let dir = tempfile::tempdir().unwrap();
/// let artifacts = FolderArtifacts::new(dir.path());
/// artifacts.put("rollouts/1.jsonl", "{}".into()).await.unwrap();
/// assert_eq!(artifacts.get("rollouts/1.jsonl").await.unwrap().as_deref(), Some(&b"{}"[..]));
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct FolderArtifacts {
    dir: PathBuf,
}

impl FolderArtifacts {
    /// A store in `dir`, which is made when something is first stored.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Removes what programs that were killed left half written; what is being written by others stays.
    ///
    /// # Errors
    /// When a folder cannot be read, or a file cannot be removed.
    pub async fn sweep(&self) -> io::Result<()> {
        let dir = self.dir.clone();
        tokio::task::spawn_blocking(move || sweep(&dir)).await.map_err(io::Error::other)?
    }

    async fn on_file<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &str,
        act: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, ArtifactError> {
        let failed = |source: BoxError| ArtifactError { operation, key: key.to_owned(), source };
        check_key(key).map_err(failed)?;
        let path = self.dir.join(key);
        let done = tokio::task::spawn_blocking(move || act(&path)).await.map_err(|error| failed(error.into()))?;
        done.map_err(|error| failed(error.into()))
    }
}

#[async_trait]
impl ArtifactStore for FolderArtifacts {
    /// # Cancel safety
    /// A dropped future may still store the bytes, whole.
    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ArtifactError> {
        self.on_file("store", key, move |path| write_whole(path, &bytes)).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, ArtifactError> {
        let read = |path: &Path| found(fs::read(path));
        Ok(self.on_file("read", key, read).await?.map(Bytes::from))
    }

    /// # Cancel safety
    /// Dropping the future stores nothing.
    async fn put_stream(&self, key: &str, mut bytes: ArtifactStream) -> Result<u64, ArtifactError> {
        let draft = self.on_file("store", key, Draft::create).await?;
        let draft = Arc::new(Mutex::new(draft));
        let failed = |source| ArtifactError { operation: "store", key: key.to_owned(), source };
        let mut n_bytes = 0;
        while let Some(piece) = bytes.next().await {
            let piece = piece.map_err(failed)?;
            n_bytes += piece.len() as u64;
            let draft = draft.clone();
            self.on_file("store", key, move |_| held(&draft).file.write_all(&piece)).await?;
        }
        self.on_file("store", key, move |path| held(&draft).publish(path)).await?;
        Ok(n_bytes)
    }

    async fn get_stream(&self, key: &str) -> Result<Option<ArtifactStream>, ArtifactError> {
        let file = self.on_file("read", key, |path| found(fs::File::open(path))).await?;
        let Some(file) = file.map(tokio::fs::File::from_std) else { return Ok(None) };
        let pieces = ReaderStream::with_capacity(file, 256 * 1024).map_err(BoxError::from);
        Ok(Some(pieces.boxed()))
    }

    async fn delete(&self, key: &str) -> Result<(), ArtifactError> {
        let remove = |path: &Path| found(fs::remove_file(path));
        self.on_file("remove", key, remove).await.map(drop)
    }

    fn place(&self, key: &str) -> Place {
        Place::File(self.dir.join(key))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, ArtifactError> {
        let failed = |source: BoxError| ArtifactError { operation: "list", key: prefix.to_owned(), source };
        check_prefix(prefix).map_err(failed)?;
        let (dir, begin) = (self.dir.clone(), prefix.to_owned());
        let listed = tokio::task::spawn_blocking(move || list(&dir, &begin)).await;
        listed.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))
    }
}

/// Nothing there is an answer, not a failure.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// How the name of a file begins that is not whole yet.
const UNFINISHED: &str = ".tmp-";

fn sweep(folder: &Path) -> io::Result<()> {
    for entry in found(fs::read_dir(folder))?.into_iter().flatten() {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sweep(&entry.path())?;
        } else if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
            sweep_draft(&entry.path())?;
        }
    }
    Ok(())
}

fn sweep_draft(path: &Path) -> io::Result<()> {
    // It may be whole and in its place by now.
    let Some(draft) = found(fs::File::open(path))? else { return Ok(()) };
    match draft.try_lock() {
        Ok(()) => found(fs::remove_file(path)).map(drop),
        Err(fs::TryLockError::WouldBlock) => Ok(()),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// The keys of `dir` that begin with `prefix`, in order.
fn list(dir: &Path, prefix: &str) -> io::Result<Vec<String>> {
    let mut keys = Vec::new();
    // Only the folder that all of them are in is read.
    let mut folders = vec![prefix.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in listed(fs::read_dir(dir.join(&folder)))?.into_iter().flatten() {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let key = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
            // Drafts are no keys, nor is what somebody else put there.
            if !key.starts_with(prefix) || check_key(&key).is_err() {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_file() {
                keys.push(key);
            } else if kind.is_dir() {
                folders.push(key);
            }
        }
    }
    keys.sort_unstable();
    Ok(keys)
}

/// Nothing there is an answer, and so is a file where a folder is asked for.
fn listed(entries: io::Result<fs::ReadDir>) -> io::Result<Option<fs::ReadDir>> {
    match entries {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
        entries => found(entries),
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = Draft::create(path)?;
    draft.file.write_all(bytes)?;
    draft.publish(path)
}

/// Nothing panics while it holds a draft.
fn held(draft: &Mutex<Draft>) -> MutexGuard<'_, Draft> {
    draft.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is not in place yet; dropped before that, it is removed. It is locked as long as somebody writes it.
struct Draft {
    file: fs::File,
    fresh: PathBuf,
}

impl Draft {
    fn create(path: &Path) -> io::Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        loop {
            // No key begins with a dot, so this is no artifact's name.
            let fresh = folder.join(format!("{UNFINISHED}{}", Uuid::new_v4()));
            let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
            file.lock()?;
            // Until it was locked it looked left over.
            if file.metadata()?.nlink() > 0 {
                return Ok(Self { file, fresh });
            }
        }
    }

    fn publish(&mut self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.fresh, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It is not there any more when it was published.
        let _ = fs::remove_file(&self.fresh);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    astraforge_core::artifacts_conformance!(async {
        let dir = tempfile::tempdir().unwrap();
        let store = FolderArtifacts::new(dir.path().join("made-when-needed"));
        (dir, store)
    });

    #[tokio::test]
    async fn what_is_half_written_is_removed_unless_somebody_writes_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = FolderArtifacts::new(dir.path());
        store.put("q/whole", "1".into()).await.unwrap();
        let left = dir.path().join("q/.tmp-left");
        fs::write(&left, "1").unwrap();
        let mut written = Draft::create(&dir.path().join("q/written")).unwrap();
        store.sweep().await.unwrap();
        assert!(!left.exists());
        written.publish(&dir.path().join("q/written")).unwrap();
        assert_eq!(store.get("q/whole").await.unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(fs::read_dir(dir.path().join("q")).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn only_its_owner_reads_an_artifact_and_no_temporary_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = FolderArtifacts::new(dir.path().join("a"));
        store.put("q/1.bundle", "old".into()).await.unwrap();
        store.put("q/1.bundle", "new".into()).await.unwrap();
        let folder = dir.path().join("a/q");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert_eq!(fs::metadata(folder.join("1.bundle")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[tokio::test]
    async fn what_a_killed_server_left_half_written_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let store = FolderArtifacts::new(dir.path().join("a"));
        store.sweep().await.unwrap();
        store.put("q/r/1.bundle", "kept".into()).await.unwrap();
        for left in ["q/.tmp-1", "q/r/.tmp-2"] {
            fs::write(dir.path().join("a").join(left), "half").unwrap();
        }
        store.sweep().await.unwrap();
        assert_eq!(store.get("q/r/1.bundle").await.unwrap().as_deref(), Some(&b"kept"[..]));
        assert!(!dir.path().join("a/q/.tmp-1").exists() && !dir.path().join("a/q/r/.tmp-2").exists());
    }

    #[tokio::test]
    async fn only_artifacts_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let store = FolderArtifacts::new(dir.path());
        store.put("q/1", "kept".into()).await.unwrap();
        fs::write(dir.path().join("q/.tmp-1"), "half").unwrap();
        fs::write(dir.path().join("q/a person's note"), "text").unwrap();
        fs::create_dir(dir.path().join("q/empty")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("etc")).unwrap();
        assert_eq!(store.list("").await.unwrap(), ["q/1"]);
    }

    #[tokio::test]
    async fn a_key_that_no_file_should_have_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = FolderArtifacts::new(dir.path().join("a"));
        for key in [".tmp-x", "a\0b", "a\nb", "~", &"a".repeat(513)] {
            assert!(store.put(key, Bytes::new()).await.is_err(), "{key:?}");
        }
        assert!(!dir.path().join("a").exists());
    }
}
