//! Keeps the work branch of a quarantine in the artifact store, and brings it back.

use std::{os::unix::fs::OpenOptionsExt as _, path::PathBuf};

use astraforge_core::{ports::git::GitError, request::change_set::Change};
use bytes::Bytes;

use super::{
    Quarantine, argv::Transport, failure::refused, parse, quarantine::Bare, refname::check_branch, run::backend,
};

const KEEP: &str = "keep the work branch";
const RESTORE: &str = "bring back the work branch";
/// Below it stand the commits of changes, by the name of the branch they were made on.
const KEPT: &str = "refs/astraforge/kept/";

impl Quarantine {
    /// Stores what a change's commit has beyond its base, so that this very commit can be published later, wherever
    /// the agent moves its branch meanwhile.
    pub(super) async fn keep_bundle(&self, bare: &Bare, change: &Change) -> Result<(), GitError> {
        let kept = format!("{KEPT}{}", change.branch);
        let mark = bare.call(&self.git, ["update-ref", &kept, &change.head_commit]);
        self.git.ask(mark, KEEP).await?.printed(KEEP)?;
        let args = ["bundle", "create", "--quiet", "--version=2", "-", &kept, "--not", &change.base_commit];
        let limit = usize::try_from(self.config.max_growth.as_bytes()).unwrap_or(usize::MAX);
        let output = self.git.run(bare.call(&self.git, args), Bytes::new(), limit).await;
        let bundle = output.map_err(|error| backend(KEEP, error))?.printed(KEEP)?;
        let stored = self.config.artifacts.put(&bare.bundle_key(), bundle.into()).await;
        stored.map_err(|error| backend(KEEP, error))
    }

    /// Removes the stored work branch.
    pub(super) async fn drop_bundle(&self, bare: &Bare) -> Result<(), GitError> {
        let deleted = self.config.artifacts.delete(&bare.bundle_key()).await;
        deleted.map_err(|error| backend("remove the kept work branch", error))
    }

    /// Brings the stored work branch into a quarantine that has none; without a stored one, nothing happens.
    ///
    /// The bundle builds on a commit of the real repository, which is fetched by its id if it is not here.
    pub(super) async fn restore_bundle(
        &self,
        bare: &Bare,
        repository: &str,
        transport: &Transport,
    ) -> Result<(), GitError> {
        let stored = self.config.artifacts.get(&bare.bundle_key()).await.map_err(|error| backend(RESTORE, error))?;
        let Some(bundle) = stored else { return Ok(()) };
        let header = parse::bundle_header(&bundle).map_err(|error| backend(RESTORE, error))?;
        let branch = header.refs.iter().find_map(|name| name.strip_prefix(KEPT)).unwrap_or_default();
        check_branch(branch).map_err(refused)?;
        for needed in &header.needs {
            if bare.commit(&self.git, needed).await?.is_none() {
                self.fetch(bare, repository, transport, &[needed]).await.map_err(|_| {
                    refused(format!(
                        "the work of an earlier run builds on commit {needed}, which the repository no longer has; \
                         restore that commit there, or start a new request"
                    ))
                })?;
            }
        }
        let file =
            TemporaryFile::holding(bare.temporary("bundle"), &bundle).map_err(|error| backend(RESTORE, error))?;
        let mut call = bare.call(&self.git, ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--"]);
        call.args.push(file.0.clone().into());
        call.args.push(format!("+{KEPT}{branch}:refs/heads/{branch}").into());
        let call = call.with_env("GIT_ALLOW_PROTOCOL", "file");
        self.git.ask(call, RESTORE).await?.printed(RESTORE)?;
        bare.name_work_branch(&self.git, branch).await
    }
}

/// A file that goes away with its value.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn holding(path: PathBuf, bytes: &[u8]) -> std::io::Result<Self> {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path)?;
        let this = Self(path);
        std::io::Write::write_all(&mut file, bytes)?;
        Ok(this)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // A file that stays behind costs space only.
        let _ = std::fs::remove_file(&self.0);
    }
}
