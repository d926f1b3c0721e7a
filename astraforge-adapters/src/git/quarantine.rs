//! One quarantine: the bare repository of one request, and the calls that may be made on it.

use std::{
    fmt,
    fs::DirEntry,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use astraforge_core::{id::RequestId, ports::git::GitError};
use uuid::Uuid;

use super::{
    QuarantineConfig,
    argv::{Call, UPLOAD_SETTINGS, receive_settings},
    failure::refused,
    parse,
    refname::check_branch,
    run::{Git, backend},
};

/// Names the work branch of a quarantine, for the server that restarts.
const WORK_REF: &str = "refs/astraforge/work";
/// Holds the size that the quarantine had when it was last mirrored, in bytes.
const MIRRORED_SIZE: &str = "astraforge-mirrored-size";
/// Sets aside what `.gitattributes` of a tree say of diffs, so that an agent cannot hide a change as "binary".
const ATTRIBUTES: &str = "* !diff !text !eol !ident !filter !working-tree-encoding !whitespace !conflict-marker-size\n";

/// The bare repository of one request.
#[derive(Debug, Clone)]
pub(crate) struct Bare {
    request: RequestId,
    folder: PathBuf,
    path: PathBuf,
    max_push: u64,
    max_growth: u64,
}

impl Bare {
    pub(crate) fn new(config: &QuarantineConfig, request: RequestId) -> Self {
        Self {
            request,
            folder: config.dir.clone(),
            path: config.dir.join(format!("{request}.git")),
            max_push: config.max_push.as_bytes(),
            max_growth: config.max_growth.as_bytes(),
        }
    }

    /// A fresh path beside it, for a file or folder that is on its way.
    pub(crate) fn temporary(&self, what: &str) -> PathBuf {
        self.folder.join(format!("tmp-{what}-{}", Uuid::new_v4()))
    }

    /// The key of a commit's bundle in the artifact store.
    pub(crate) fn bundle_key(&self, commit: &str) -> String {
        format!("quarantine/{}/{commit}.bundle", self.request)
    }

    /// Whether it is there. A folder is only ever moved here complete.
    pub(crate) fn exists(&self) -> bool {
        self.path.join("HEAD").is_file()
    }

    /// A call on it.
    pub(crate) fn call<S: Into<std::ffi::OsString>>(&self, git: &Git, args: impl IntoIterator<Item = S>) -> Call {
        Call::on(git.path(), &self.path, args)
    }

    /// Makes it unless it is there; tells whether it was made.
    pub(crate) async fn ensure(&self, git: &Git) -> Result<bool, GitError> {
        const MAKE: &str = "make a quarantine repository";
        if self.exists() {
            return Ok(false);
        }
        private_folder(&self.folder).map_err(|error| backend(MAKE, error))?;
        let fresh = self.temporary("repository");
        git.ask(Call::init(git.path(), &fresh), MAKE).await?.printed(MAKE)?;
        let moved = std::fs::create_dir_all(fresh.join("info"))
            .and_then(|()| std::fs::write(fresh.join("info/attributes"), ATTRIBUTES))
            .and_then(|()| std::fs::rename(&fresh, &self.path));
        match moved {
            Ok(()) => Ok(true),
            Err(error) => {
                // Another call may have made it at the same moment.
                let _ = std::fs::remove_dir_all(&fresh);
                if self.exists() { Ok(false) } else { Err(backend(MAKE, error)) }
            }
        }
    }

    /// Removes it.
    pub(crate) async fn remove(&self) -> Result<(), GitError> {
        let (path, doomed) = (self.path.clone(), self.temporary("discarded"));
        let removed = tokio::task::spawn_blocking(move || match std::fs::rename(&path, &doomed) {
            // Away from its name first, so that a crash leaves no half of it under that name.
            Ok(()) => std::fs::remove_dir_all(&doomed),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        });
        let removed = removed.await.map_err(|error| backend("remove a quarantine repository", error))?;
        removed.map_err(|error| backend("remove a quarantine repository", error))
    }

    /// The commit that a ref or id names, if it is there.
    pub(crate) async fn commit(&self, git: &Git, name: &str) -> Result<Option<String>, GitError> {
        let name = format!("{name}^{{commit}}");
        let call = self.call(git, ["rev-parse", "--quiet", "--verify", "--end-of-options", &name]);
        let output = git.ask(call, "look up a commit").await?;
        Ok(output.success.then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    }

    /// Whether one commit is part of another's history.
    pub(crate) async fn is_ancestor(&self, git: &Git, old: &str, new: &str) -> Result<bool, GitError> {
        let call = self.call(git, ["merge-base", "--is-ancestor", "--end-of-options", old, new]);
        Ok(git.ask(call, "compare two commits").await?.success)
    }

    /// Its refs below a prefix, by name and commit.
    pub(crate) async fn refs(&self, git: &Git, prefix: &str) -> Result<Vec<(String, String)>, GitError> {
        const LIST: &str = "list the refs of a quarantine";
        let call = self.call(git, ["for-each-ref", "--format=%(objectname) %(refname)", "--", prefix]);
        let output = git.ask(call, LIST).await?.printed(LIST)?;
        parse::for_each_ref(&output).map_err(|error| backend(LIST, error))
    }

    /// Remembers which branch holds the work.
    pub(crate) async fn name_work_branch(&self, git: &Git, work_branch: &str) -> Result<(), GitError> {
        const NAME: &str = "name the work branch";
        let call = self.call(git, ["symbolic-ref", WORK_REF, &format!("refs/heads/{work_branch}")]);
        git.ask(call, NAME).await?.printed(NAME).map(drop)
    }

    /// The branch that holds the work, where one is named.
    pub(crate) async fn work_branch(&self, git: &Git) -> Result<Option<String>, GitError> {
        let output = git.ask(self.call(git, ["symbolic-ref", "--quiet", WORK_REF]), "look up the work branch").await?;
        let name = String::from_utf8_lossy(&output.stdout);
        Ok(name.trim().strip_prefix("refs/heads/").map(str::to_owned))
    }

    /// The head of the work branch, where one is named and there.
    pub(crate) async fn work_head(&self, git: &Git) -> Result<Option<String>, GitError> {
        self.commit(git, WORK_REF).await
    }

    /// Puts the work branch at a commit that is here.
    pub(crate) async fn set_work(&self, git: &Git, work_branch: &str, commit: &str) -> Result<(), GitError> {
        const SET: &str = "put the work branch where it stood";
        check_branch(work_branch).map_err(refused)?;
        let call = self.call(git, ["update-ref", &format!("refs/heads/{work_branch}"), commit]);
        git.ask(call, SET).await?.printed(SET)?;
        self.name_work_branch(git, work_branch).await
    }

    /// Removes the work branch, if there is one.
    pub(crate) async fn drop_work(&self, git: &Git) -> Result<(), GitError> {
        const DROP: &str = "remove the work branch of a run that failed";
        let Some(branch) = self.work_branch(git).await? else { return Ok(()) };
        let call = self.call(git, ["update-ref", "-d", &format!("refs/heads/{branch}")]);
        git.ask(call, DROP).await?.printed(DROP).map(drop)
    }

    /// Remembers how large it is now, so that pushes are measured from here.
    pub(crate) async fn remember_size(&self) -> Result<(), GitError> {
        let size = self.size().await;
        std::fs::write(self.path.join(MIRRORED_SIZE), size.to_string())
            .map_err(|error| backend("remember the size of a quarantine", error))
    }

    /// The call that serves a clone or fetch.
    pub(crate) async fn upload_call(&self, git: &Git) -> Result<Call, String> {
        if !self.exists() {
            return Err("there is nothing to clone yet".into());
        }
        let seconds = format!("--timeout={}", git.timeout.as_secs().min(600));
        let mut call = self.call(git, ["upload-pack", "--strict", &seconds, "--"]);
        call.args.push(self.path.clone().into());
        Ok(call.with_settings(UPLOAD_SETTINGS))
    }

    /// The call that takes a push to the work branch.
    pub(crate) async fn receive_call(&self, git: &Git, work_branch: &str) -> Result<Call, String> {
        check_branch(work_branch)?;
        if !self.exists() {
            return Err("there is nothing to push to yet".into());
        }
        let max_bytes = self.room().await;
        if max_bytes == 0 {
            return Err("this request has pushed all that it may; nothing more is taken".into());
        }
        self.open_work_branch(git, work_branch).await.map_err(|error| error.to_string())?;
        let settings = receive_settings(work_branch, max_bytes);
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut call = self.call(git, ["receive-pack", "--"]);
        call.args.push(self.path.clone().into());
        Ok(call.with_settings(&settings))
    }

    /// Makes sure that the work branch is there, at the base if nowhere else. While it is, git takes no branch below
    /// its name either, so the one name that is not hidden from pushes is the only one that they can reach.
    async fn open_work_branch(&self, git: &Git, work_branch: &str) -> Result<(), GitError> {
        const OPEN: &str = "open the work branch for pushes";
        let bases = self.refs(git, "refs/base").await?;
        let Some((base_ref, base)) = bases.first() else { return Err(refused("the quarantine has no base yet")) };
        if base_ref.strip_prefix("refs/base/") == Some(work_branch) {
            return Err(refused("the work branch has the name of the base branch; choose another"));
        }
        self.name_work_branch(git, work_branch).await?;
        if self.work_head(git).await?.is_none() {
            let zero = "0".repeat(40);
            let call = self.call(git, ["update-ref", &format!("refs/heads/{work_branch}"), base, &zero]);
            let made = git.ask(call, OPEN).await?;
            // Another connection may have made it at the same moment.
            if !made.success && self.work_head(git).await?.is_none() {
                return made.printed(OPEN).map(drop);
            }
        }
        Ok(())
    }

    /// How many bytes the next push may bring.
    async fn room(&self) -> u64 {
        let mirrored = std::fs::read_to_string(self.path.join(MIRRORED_SIZE));
        let mirrored = mirrored.ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
        let grown = self.size().await.saturating_sub(mirrored);
        self.max_growth.saturating_sub(grown).min(self.max_push)
    }

    async fn size(&self) -> u64 {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || folder_size(&path)).await.unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Bare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.request.fmt(f)
    }
}

/// Makes a folder that only this user can read.
pub(crate) fn private_folder(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes temporary files and folders that nothing has touched for `age`, of ours and of git's own.
pub(crate) fn sweep(dir: &Path, age: Duration) -> std::io::Result<()> {
    for entry in listed(dir)? {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with("tmp-") {
            remove_if_old(&entry, age)?;
        } else if path.extension().is_some_and(|extension| extension == "git") {
            // Pushes that were cut off, and packs that were never finished.
            for folder in ["objects", "objects/pack"] {
                let left = listed(&path.join(folder))?.into_iter();
                left.filter(|entry| entry.file_name().to_string_lossy().starts_with("tmp_"))
                    .try_for_each(|entry| remove_if_old(&entry, age))?;
            }
        }
    }
    Ok(())
}

/// The entries of a folder; none where there is no such folder.
fn listed(folder: &Path) -> std::io::Result<Vec<DirEntry>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn remove_if_old(entry: &DirEntry, age: Duration) -> std::io::Result<()> {
    let metadata = entry.metadata()?;
    let old = metadata.modified()?.elapsed().is_ok_and(|elapsed| elapsed >= age);
    match (old, metadata.is_dir()) {
        (false, _) => Ok(()),
        (true, true) => std::fs::remove_dir_all(entry.path()),
        (true, false) => std::fs::remove_file(entry.path()),
    }
}

/// Adds up what a folder takes on disk; what vanishes while it is read counts nothing.
fn folder_size(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_size(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}
