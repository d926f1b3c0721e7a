//! Keeps changes in the artifact store, one bundle a commit, and brings them back into a quarantine.

use std::{os::unix::fs::OpenOptionsExt as _, path::PathBuf};

use astraforge_core::{ports::git::GitError, request::change_set::Change};
use bytes::Bytes;

use super::{
    Quarantine, argv::Transport, failure::refused, parse, quarantine::Bare, refname::check_commit, run::backend,
};

const KEEP: &str = "keep the change";
const RESTORE: &str = "bring back the change of an earlier run";
/// Below it stand the commits of changes, each under its own id.
const KEPT: &str = "refs/astraforge/kept/";

impl Quarantine {
    /// Stores what a change's commit has beyond its base, so that this very commit can be gone on from and published
    /// later and elsewhere, wherever the agent moves its branch meanwhile.
    pub(super) async fn keep_bundle(&self, bare: &Bare, change: &Change) -> Result<(), GitError> {
        let kept = format!("{KEPT}{}", change.head_commit);
        let mark = bare.call(&self.git, ["update-ref", &kept, &change.head_commit]);
        self.git.ask(mark, KEEP).await?.printed(KEEP)?;
        let args = ["bundle", "create", "--quiet", "--version=2", "-", &kept, "--not", &change.base_commit];
        let limit = usize::try_from(self.config.max_growth.as_bytes()).unwrap_or(usize::MAX);
        let output = self.git.run(bare.call(&self.git, args), Bytes::new(), limit).await;
        let bundle = output.map_err(|error| backend(KEEP, error))?.printed(KEEP)?;
        let stored = self.config.artifacts.put(&bare.bundle_key(&change.head_commit), bundle.into()).await;
        stored.map_err(|error| backend(KEEP, error))
    }

    /// Makes sure that the quarantine has a change's commit, from its bundle if it must.
    ///
    /// The bundle builds on a commit of the real repository, which is fetched by its id if it is not here.
    pub(super) async fn bring_commit(
        &self,
        bare: &Bare,
        repository: &str,
        transport: &Transport,
        commit: &str,
    ) -> Result<(), GitError> {
        check_commit(commit).map_err(refused)?;
        if bare.commit(&self.git, commit).await?.is_some() {
            return Ok(());
        }
        let lost = || refused(format!("commit {commit} of an earlier run is lost; execute the request again"));
        let stored = self.config.artifacts.get(&bare.bundle_key(commit)).await;
        let bundle = stored.map_err(|error| backend(RESTORE, error))?.ok_or_else(lost)?;
        for needed in &parse::bundle_header(&bundle).map_err(|error| backend(RESTORE, error))?.needs {
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
        call.args.push(format!("+{KEPT}{commit}:{KEPT}{commit}").into());
        let call = call.with_env("GIT_ALLOW_PROTOCOL", "file");
        self.git.ask(call, RESTORE).await?.printed(RESTORE)?;
        match bare.commit(&self.git, commit).await? {
            Some(_) => Ok(()),
            None => Err(lost()),
        }
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
