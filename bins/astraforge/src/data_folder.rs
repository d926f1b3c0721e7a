//! The data folder: what a node keeps, who may use it, and how a command finds a node that runs on it.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use astraforge_core::repository::Secret;
use serde::{Deserialize, Serialize};

/// The data folder of a node that runs, locked against a second one.
#[derive(Debug)]
pub(crate) struct DataFolder {
    root: PathBuf,
    _lock: File,
}

/// How to reach the node that runs on a data folder.
#[derive(Serialize, Deserialize)]
pub(crate) struct ServerFile {
    /// Where it listens.
    pub(crate) url: String,
    /// The key of whoever owns the folder.
    pub(crate) api_key: String,
}

impl DataFolder {
    /// The file that lists the clones that may be worked on, one absolute path a line.
    pub(crate) const REGISTERED: &str = "registered-clones";
    const SERVER: &str = "server.json";
    const OWNER_KEY: &str = "owner.key";

    /// Makes the folder if it is missing, for its owner alone, and locks it.
    pub(crate) fn open(root: &Path) -> anyhow::Result<Self> {
        make_private(root)?;
        let lock = private_file(root.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root: root.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => bail!(
                "another AstraForge runs on the data folder {}; use it with --server, or pass another --data FOLDER",
                root.display()
            ),
            Err(fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", root.display()))
            }
        }
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The path of something in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The owner's key, if one was kept.
    pub(crate) fn owner_key(&self) -> anyhow::Result<Option<Secret>> {
        match fs::read_to_string(self.path(Self::OWNER_KEY)) {
            Ok(key) => Ok(Some(Secret::new(key.trim()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("cannot read the owner's key"),
        }
    }

    /// Keeps the owner's key.
    pub(crate) fn keep_owner_key(&self, key: &Secret) -> anyhow::Result<()> {
        write_private(&self.path(Self::OWNER_KEY), key.reveal().as_bytes())
    }

    /// Tells commands of the same person how to reach this node.
    pub(crate) fn announce(&self, server: &ServerFile) -> anyhow::Result<()> {
        write_private(&self.path(Self::SERVER), serde_json::to_string(server)?.as_bytes())
    }

    /// Takes the announcement back.
    pub(crate) fn withdraw(&self) {
        // If it stays, a command finds nobody there and goes on by itself.
        _ = fs::remove_file(self.path(Self::SERVER));
    }
}

/// Returns how to reach the node that runs on a data folder, if one seems to.
pub(crate) fn announced(root: &Path) -> Option<ServerFile> {
    serde_json::from_slice(&fs::read(root.join(DataFolder::SERVER)).ok()?).ok()
}

/// Lets requests work on a clone of the data folder's owner.
pub(crate) fn register_clone(root: &Path, clone: &Path) -> anyhow::Result<()> {
    make_private(root)?;
    let file = root.join(DataFolder::REGISTERED);
    let known = fs::read_to_string(&file).unwrap_or_default();
    let path = clone.to_str().with_context(|| format!("{} is not UTF-8, so it cannot be linked", clone.display()))?;
    if path.contains('\n') {
        bail!("{path:?} has a line break in it, so it cannot be linked");
    }
    if known.lines().any(|line| line == path) {
        return Ok(());
    }
    write_private(&file, format!("{known}{path}\n").as_bytes())
}

/// Makes the folder if it is missing, for its owner alone.
pub(crate) fn make_private(folder: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make the data folder {}; pass another one with --data", folder.display()))
}

fn private_file(path: PathBuf) -> anyhow::Result<File> {
    fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Replaces a file whole, readable by its owner alone.
fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = private_file(temporary.clone())?;
    written.set_len(0)?;
    (&written).write_all(bytes)?;
    fs::rename(&temporary, path).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_has_one_node_at_a_time() {
        let scratch = tempfile::tempdir().unwrap();
        let first = DataFolder::open(scratch.path()).unwrap();
        let second = DataFolder::open(scratch.path()).unwrap_err();
        assert!(second.to_string().contains("another AstraForge"), "{second}");
        drop(first);
        DataFolder::open(scratch.path()).unwrap();
    }

    #[test]
    fn a_node_is_found_by_its_announcement_which_only_its_owner_reads() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(&scratch.path().join("data")).unwrap();
        assert!(announced(&folder.root).is_none());
        let server = ServerFile { url: "http://127.0.0.1:1".into(), api_key: "k".into() };
        folder.announce(&server).unwrap();
        assert_eq!(announced(&folder.root).unwrap().url, server.url);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder.path("server.json")), mode(&folder.root)), (0o600, 0o700));
        folder.withdraw();
        assert!(announced(&folder.root).is_none());
    }

    #[test]
    fn a_clone_is_registered_once() {
        let scratch = tempfile::tempdir().unwrap();
        register_clone(scratch.path(), Path::new("/home/ada/demo")).unwrap();
        register_clone(scratch.path(), Path::new("/home/ada/demo")).unwrap();
        let listed = fs::read_to_string(scratch.path().join(DataFolder::REGISTERED)).unwrap();
        assert_eq!(listed, "/home/ada/demo\n");
    }
}
