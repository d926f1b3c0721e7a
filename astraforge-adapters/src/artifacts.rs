//! Keeps artifacts as files of one folder.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use astraforge_core::ports::artifacts::{ArtifactError, ArtifactStore};
use async_trait::async_trait;
use bytes::Bytes;
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

    async fn on_file<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &str,
        act: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, ArtifactError> {
        let failed = |source| ArtifactError { operation, key: key.to_owned(), source };
        let path = self.dir.join(relative(key).map_err(|reason| failed(reason.into()))?);
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

    async fn delete(&self, key: &str) -> Result<(), ArtifactError> {
        let remove = |path: &Path| found(fs::remove_file(path));
        self.on_file("remove", key, remove).await.map(drop)
    }
}

/// Checks a key and returns it as a path below the store's folder.
fn relative(key: &str) -> Result<&Path, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let sound = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(plain);
    if key.len() <= 512 && key.split('/').all(sound) {
        Ok(Path::new(key))
    } else {
        Err("a key is made of letters, digits, `-`, `_` and `.`, in parts that are separated by `/` and do not begin \
             with `.`"
            .into())
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

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // No key begins with a dot, so this is no artifact's name.
    let fresh = folder.join(format!(".tmp-{}", Uuid::new_v4()));
    let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        fs::File::open(folder)?.sync_all()
    });
    if written.is_err() {
        // It is not there when the rename was what succeeded.
        let _ = fs::remove_file(&fresh);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn what_is_stored_is_read_replaced_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = FolderArtifacts::new(dir.path().join("a"));
        assert_eq!(store.get("q/1.bundle").await.unwrap(), None);
        store.delete("q/1.bundle").await.expect("a key that holds nothing is Ok");
        store.put("q/1.bundle", "old".into()).await.unwrap();
        store.put("q/1.bundle", "new".into()).await.unwrap();
        assert_eq!(store.get("q/1.bundle").await.unwrap().as_deref(), Some(&b"new"[..]));
        let folder = dir.path().join("a/q");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no temporary file stays");
        assert_eq!(fs::metadata(folder.join("1.bundle")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        store.delete("q/1.bundle").await.unwrap();
        assert_eq!(store.get("q/1.bundle").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_reader_sees_old_or_new_bytes_and_never_a_part() {
        let dir = tempfile::tempdir().unwrap();
        let store = FolderArtifacts::new(dir.path());
        let of = |fill: u8| Bytes::from(vec![fill; 1 << 20]);
        store.put("k", of(0)).await.unwrap();
        let writes = async {
            for fill in 1..10 {
                store.put("k", of(fill)).await.unwrap();
            }
        };
        let reads = async {
            for _ in 0..30 {
                let bytes = store.get("k").await.unwrap().unwrap();
                assert!(bytes.len() == 1 << 20 && bytes.iter().all(|byte| *byte == bytes[0]));
            }
        };
        tokio::join!(writes, reads);
    }

    #[tokio::test]
    async fn a_key_cannot_leave_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let store = FolderArtifacts::new(dir.path().join("a"));
        for key in
            ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".tmp-x", "a\0b", "a\nb", "~", &"a".repeat(513)]
        {
            assert!(store.put(key, Bytes::new()).await.is_err(), "{key:?}");
            assert!(store.get(key).await.is_err(), "{key:?}");
            assert!(store.delete(key).await.is_err(), "{key:?}");
        }
        assert!(!dir.path().join("a").exists());
    }
}
