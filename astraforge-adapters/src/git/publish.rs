//! Puts an approved commit into the real repository, as one branch and without force, and takes it back.

use astraforge_core::ports::git::{GitError, Remote};

use super::{
    Quarantine,
    argv::{Serve, Transport},
    failure::{of_source, refused},
    mirror::no_repository,
    quarantine::Bare,
    refname::{check_branch, check_commit},
};

const PUBLISH: &str = "publish the branch";
const TAKE_BACK: &str = "take the published branch back";

impl Quarantine {
    pub(super) async fn publish_from(
        &self,
        bare: &Bare,
        remote: &Remote,
        commit: &str,
        branch: &str,
    ) -> Result<(), GitError> {
        check_commit(commit).map_err(refused)?;
        check_branch(branch).map_err(refused)?;
        let address = remote.publish_url.as_deref().unwrap_or(&remote.url);
        let target = Transport::of_published(remote).map_err(|reason| no_repository(address, reason))?;
        bare.ensure(&self.git).await?;
        let source = Transport::of(remote).map_err(|reason| no_repository(&remote.url, reason))?;
        self.bring_commit(bare, &remote.url, &source, commit).await?;
        match self.published(bare, address, &target, branch).await? {
            Some(there) if there == commit => return Ok(()),
            Some(there) if !self.follows(bare, &there, commit).await? => return Err(diverged(branch)),
            _ => {}
        }
        let pushed = self.push(bare, address, &target, PUBLISH, &[], format!("{commit}:refs/heads/{branch}")).await;
        // What counts is what the repository has now, also when the answer got lost or another got there first.
        match self.published(bare, address, &target, branch).await? {
            Some(there) if there == commit => Ok(()),
            Some(there) if !self.follows(bare, &there, commit).await? => Err(diverged(branch)),
            _ => pushed.and(Err(refused(format!("branch `{branch}` is not there after it was pushed")))),
        }
    }

    pub(super) async fn withdraw_from(
        &self,
        bare: &Bare,
        remote: &Remote,
        commit: &str,
        branch: &str,
        before: Option<&str>,
    ) -> Result<bool, GitError> {
        before.into_iter().chain([commit]).try_for_each(check_commit).map_err(refused)?;
        check_branch(branch).map_err(refused)?;
        let address = remote.publish_url.as_deref().unwrap_or(&remote.url);
        let target = Transport::of_published(remote).map_err(|reason| no_repository(address, reason))?;
        bare.ensure(&self.git).await?;
        if before == Some(commit) || self.published(bare, address, &target, branch).await?.as_deref() != Some(commit) {
            return Ok(false);
        }
        if let Some(before) = before {
            let source = Transport::of(remote).map_err(|reason| no_repository(&remote.url, reason))?;
            self.bring_commit(bare, &remote.url, &source, before).await?;
        }
        // Only while it still holds what is to be taken back.
        let lease = format!("--force-with-lease=refs/heads/{branch}:{commit}");
        let reset = format!("{}:refs/heads/{branch}", before.unwrap_or_default());
        let pushed = self.push(bare, address, &target, TAKE_BACK, &[lease], reset).await;
        match self.published(bare, address, &target, branch).await?.as_deref() {
            Some(there) if there == commit => {
                pushed.and(Err(refused(format!("branch `{branch}` holds still what was to be taken back"))))
            }
            there => Ok(there == before),
        }
    }

    async fn published(
        &self,
        bare: &Bare,
        address: &str,
        target: &Transport,
        branch: &str,
    ) -> Result<Option<String>, GitError> {
        let offered = self.offered(bare, address, target).await?;
        Ok(offered.branches.into_iter().find(|(name, _)| name == branch).map(|(_, commit)| commit))
    }

    async fn follows(&self, bare: &Bare, old: &str, new: &str) -> Result<bool, GitError> {
        Ok(bare.commit(&self.git, old).await?.is_some() && bare.is_ancestor(&self.git, old, new).await?)
    }

    /// Pushes. Without options that is without force: git sends the commit that it saw there, and the other side takes
    /// the push only while that still holds. A lease says the same, and allows a rewind besides.
    async fn push(
        &self,
        bare: &Bare,
        address: &str,
        target: &Transport,
        operation: &'static str,
        options: &[String],
        refspec: String,
    ) -> Result<(), GitError> {
        let verb = ["push", "--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no", "--no-signed"];
        let mut call = bare.call(&self.git, verb).reaching(target);
        call.args.extend(target.serving_option(self.git.path(), Serve::Receive));
        call.args.extend(options.iter().map(Into::into));
        call.args.push("--".into());
        call.args.push(target.address());
        call.args.push(refspec.into());
        let output = self.git.ask(call, operation).await?;
        if output.success {
            return Ok(());
        }
        let said = format!("{}\n{}", output.stderr, String::from_utf8_lossy(&output.stdout));
        if said.contains("[rejected]") || said.contains("[remote rejected]") || said.contains("remote:") {
            return Err(refused(said));
        }
        Err(of_source(address, operation, &said))
    }
}

fn diverged(branch: &str) -> GitError {
    GitError::Diverged { branch: branch.to_owned() }
}
