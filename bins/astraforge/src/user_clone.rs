//! The clone of whoever types the command: where it is, what of it an agent won't see, and how it takes a branch.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, bail};

/// A clone, by its top folder; it may be bare.
#[derive(Debug)]
pub(crate) struct UserClone(PathBuf);

impl UserClone {
    /// Finds the clone that a folder is in.
    pub(crate) fn find(folder: &Path) -> anyhow::Result<Self> {
        let absolute = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
        let is_repository = |folder: &&Path| {
            folder.join(".git").exists() || (folder.join("HEAD").is_file() && folder.join("objects").is_dir())
        };
        let top = absolute
            .ancestors()
            .find(is_repository)
            .with_context(|| format!("{} is not in a git repository; `git init` and commit first", folder.display()))?;
        Ok(Self(top.to_owned()))
    }

    /// Its top folder.
    pub(crate) fn top(&self) -> &Path {
        &self.0
    }

    /// Its path as the server knows it.
    pub(crate) fn into_name(self) -> anyhow::Result<String> {
        self.0.into_os_string().into_string().map_err(|path| anyhow::anyhow!("{} is not UTF-8", path.display()))
    }

    /// The branch that is checked out.
    pub(crate) fn branch(&self) -> anyhow::Result<String> {
        let output = self.git(&["symbolic-ref", "--quiet", "HEAD"])?;
        let Some(branch) = output.as_deref().and_then(|head| head.trim().strip_prefix("refs/heads/")) else {
            bail!("no branch is checked out in {}; say which one the change is for: --branch NAME", self.0.display());
        };
        Ok(branch.to_owned())
    }

    /// Tells what is not committed, if something is.
    pub(crate) fn uncommitted(&self) -> Option<String> {
        // What can't be told is no reason not to run.
        let status = self.git(&["status", "--porcelain", "--ignore-submodules=all"]).ok().flatten()?;
        match status.lines().count() {
            0 => None,
            1 => Some("one file is not committed; the agent sees only what is".to_owned()),
            n => Some(format!("{n} files are not committed; the agent sees only what is")),
        }
    }

    /// Lets `branch` hold `commit`, fetched from `address`. What the branch holds beyond it stays; what is checked out
    /// is never moved.
    pub(crate) fn take(&self, address: &str, branch: &str, commit: &str) -> anyhow::Result<()> {
        let name = format!("refs/heads/{branch}");
        self.done(&["fetch", "--no-tags", "--", address, &name])?;
        if self.done(&["rev-parse", "--verify", "FETCH_HEAD"])?.trim() != commit {
            bail!("the published branch does not hold the approved commit {commit}; nothing was changed");
        }
        if self.git(&["rev-parse", "--verify", "--quiet", &name])?.is_none() {
            return self.done(&["branch", "--no-track", branch, commit]).map(drop);
        }
        if self.holds(&name, commit)? {
            return Ok(());
        }
        if !self.holds(commit, &name)? {
            bail!("{branch} of the clone has commits of its own; bring both together with: git merge {commit}");
        }
        if self.branch().is_ok_and(|current| current == branch) {
            bail!("{branch} is checked out; move it on with: git merge --ff-only {commit}");
        }
        self.done(&["branch", "--force", "--no-track", branch, commit]).map(drop)
    }

    /// Tells whether `commit` is part of the history of `tip`.
    fn holds(&self, tip: &str, commit: &str) -> anyhow::Result<bool> {
        Ok(self.git(&["merge-base", "--is-ancestor", commit, tip])?.is_some())
    }

    /// What git prints; what it complains of, when it fails.
    fn done(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = self.run(words)?;
        if !output.status.success() {
            bail!("git {} failed: {}", words[0], String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What git prints; none when it fails. It takes no lock, and runs no program that the clone's own configuration
    /// names: nobody has looked at a clone of somebody else's yet.
    fn git(&self, words: &[&str]) -> anyhow::Result<Option<String>> {
        let filters = self.output(&["config", "--name-only", "--get-regexp", r"^filter\..*\.(clean|process)$"])?;
        let mut settings = vec!["core.fsmonitor=false".to_owned()];
        settings.extend(filters.iter().flat_map(|names| names.lines()).map(|name| format!("{name}=")));
        let settings = settings.iter().flat_map(|setting| ["-c", setting]);
        self.output(&settings.chain(words.iter().copied()).collect::<Vec<_>>())
    }

    fn output(&self, words: &[&str]) -> anyhow::Result<Option<String>> {
        let output = self.run(words)?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    fn run(&self, words: &[&str]) -> anyhow::Result<Output> {
        let mut git = Command::new("git");
        git.arg("--no-optional-locks").arg("-C").arg(&self.0).args(words);
        git.output().context("cannot run git; install it, for instance with: apt-get install git")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn git(folder: &Path, words: &[&str]) {
        let who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"];
        let output = Command::new("git").arg("-C").arg(folder).args(who).args(words).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A clone with one commit on `trunk`.
    fn clone() -> (tempfile::TempDir, UserClone) {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("src/deep")).unwrap();
        fs::write(scratch.path().join("src/a"), "a\n").unwrap();
        git(scratch.path(), &["init", "--quiet", "--initial-branch=trunk"]);
        git(scratch.path(), &["add", "--all"]);
        git(scratch.path(), &["commit", "--quiet", "--message", "first"]);
        let clone = UserClone::find(&scratch.path().join("src/deep")).unwrap();
        (scratch, clone)
    }

    #[test]
    fn a_clone_is_found_from_within_with_its_branch() {
        let (scratch, clone) = clone();
        assert_eq!(clone.top(), scratch.path().canonicalize().unwrap());
        assert_eq!(clone.branch().unwrap(), "trunk");
        git(clone.top(), &["checkout", "--quiet", "--detach"]);
        assert!(clone.branch().unwrap_err().to_string().contains("--branch NAME"));
    }

    #[test]
    fn what_is_not_committed_is_told() {
        let (_scratch, clone) = clone();
        assert_eq!(clone.uncommitted(), None);
        fs::write(clone.top().join("new"), "").unwrap();
        assert!(clone.uncommitted().unwrap().starts_with("one file"));
        fs::write(clone.top().join("src/a"), "b\n").unwrap();
        assert!(clone.uncommitted().unwrap().starts_with("2 files"));
    }

    #[test]
    fn looking_at_a_clone_runs_nothing_of_it() {
        let (_scratch, clone) = clone();
        let trap = clone.top().join("trap");
        let touch = format!("touch {}; cat", trap.display());
        for name in ["core.fsmonitor", "filter.x.clean", "filter.x.process"] {
            git(clone.top(), &["config", name, &touch]);
        }
        fs::write(clone.top().join(".git/info/attributes"), "* filter=x\n").unwrap();
        fs::write(clone.top().join("src/a"), "c\n").unwrap();
        clone.uncommitted();
        clone.branch().unwrap();
        assert!(!trap.exists(), "a program of the clone's configuration was run");
    }
}
