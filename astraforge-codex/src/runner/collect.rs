//! The last step in a workspace: what the agent left becomes one commit, and is pushed to the quarantine.
//!
//! Nothing that the agent could have prepared is trusted: it may have removed `.git`, committed by itself, rewritten
//! history, or planted hooks and settings. So the commit is made with a git folder of its own, fetched anew from the
//! quarantine, of which the workspace is only the work tree; and it is made with plumbing, which runs no hook.

use astraforge_core::{
    id::RunId,
    ports::executor::Assignment,
    run::{FailureCause, RunFailure},
    session::Command,
};

use super::{
    Author, HOME, WORKSPACE,
    bench::{Bench, Output},
    checkout::{REPOSITORY_URL, git},
};

/// How many of the agent's own repositories are named in the log.
const NAMED: usize = 5;

/// Commits and pushes what the workspace holds; returns the commit, or `None` when nothing changed.
pub(super) async fn collect(
    bench: &Bench,
    assignment: &Assignment,
    author: &Author,
) -> Result<Option<String>, RunFailure> {
    let collector = Collector { bench, assignment, author, git_dir: git_dir(assignment.run) };
    collector.fetch().await?;
    let tree = collector.tree().await?;
    let before = collector.ask(["rev-parse", "--verify", &format!("{}^{{tree}}", assignment.start_commit)]).await?;
    if tree == before {
        bench.log.status("git", "Working tree clean; skipping commit and push").await;
        return Ok(None);
    }
    let commit = collector.commit(&tree).await?;
    collector.show(&commit).await?;
    collector.push(&commit).await?;
    Ok(Some(commit))
}

/// A folder that the agent can't have made before: its name holds a part of chance that was never in the sandbox.
fn git_dir(run: RunId) -> String {
    format!("{HOME}/.collect-{run}-{}", RunId::random())
}

struct Collector<'a> {
    bench: &'a Bench,
    assignment: &'a Assignment,
    author: &'a Author,
    git_dir: String,
}

impl Collector<'_> {
    /// Makes the git folder, with the commit that the work began at.
    async fn fetch(&self) -> Result<(), RunFailure> {
        let init = git(["init", "--quiet", "--bare", "--template=", &self.git_dir]).with_cwd("/");
        self.bench.must(init, FailureCause::Push, "The change could not be collected").await?;
        // The commit alone is enough, and cheap; a server that gives no single commits gives its branches.
        let one =
            self.git(["fetch", "--quiet", "--no-tags", "--depth=1", REPOSITORY_URL, &self.assignment.start_commit]);
        if !self.bench.run(one, Output::Kept).await?.exit.success() {
            let all = self.git(["fetch", "--quiet", "--no-tags", REPOSITORY_URL, "+refs/heads/*:refs/quarantine/*"]);
            self.bench.must(all, FailureCause::Push, "The quarantine could not be read").await?;
        }
        Ok(())
    }

    /// Writes all that the work tree holds as a tree object, and returns its id.
    async fn tree(&self) -> Result<String, RunFailure> {
        self.ask(["read-tree", &self.assignment.start_commit]).await?;
        let nested = self.nested_repositories().await?;
        let mut paths = b".\0".to_vec();
        for path in &nested {
            paths.extend_from_slice(b":(top,exclude,literal)");
            paths.extend_from_slice(path);
            paths.push(0);
        }
        let add =
            self.in_work_tree(["add", "--all", "--pathspec-from-file=-", "--pathspec-file-nul"]).with_stdin(paths);
        self.bench.must(add, FailureCause::Push, "The change could not be collected").await?;
        self.ask(["write-tree"]).await
    }

    /// Finds repositories within the workspace: a commit can't hold their files, and a link to them leads nowhere.
    async fn nested_repositories(&self) -> Result<Vec<Vec<u8>>, RunFailure> {
        let find = Command::new(["find", WORKSPACE, "-xdev", "-mindepth", "2", "-name", ".git", "-prune", "-print0"]);
        let found = self.bench.run(find.with_cwd("/"), Output::Kept).await?;
        let prefix = format!("{WORKSPACE}/");
        let path = |found: &[u8]| Some(found.strip_prefix(prefix.as_bytes())?.strip_suffix(b"/.git")?.to_vec());
        let paths: Vec<Vec<u8>> = found.stdout.split(|byte| *byte == 0).filter_map(path).collect();
        if !paths.is_empty() {
            let names: Vec<_> =
                paths.iter().take(NAMED).map(|path| format!("`{}`", String::from_utf8_lossy(path))).collect();
            let more = paths.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let message =
                format!("Left out folders that are git repositories of their own: {}{more}", names.join(", "));
            self.bench.log.status("git", message).await;
        }
        Ok(paths)
    }

    async fn commit(&self, tree: &str) -> Result<String, RunFailure> {
        let message = format!("AstraForge request {}", self.assignment.request);
        let commit = self.git(["commit-tree", tree, "-p", &self.assignment.start_commit, "-m", &message]);
        let commit = ["AUTHOR", "COMMITTER"].into_iter().fold(commit, |commit, role| {
            commit
                .with_env(format!("GIT_{role}_NAME"), &self.author.name)
                .with_env(format!("GIT_{role}_EMAIL"), &self.author.email)
        });
        let id = self.bench.must(commit, FailureCause::Push, "The change could not be committed").await?.text();
        self.checked(id)
    }

    /// Shows what changed, in short.
    async fn show(&self, commit: &str) -> Result<(), RunFailure> {
        let stat = [
            "diff-tree",
            "--no-commit-id",
            "--no-ext-diff",
            "--no-textconv",
            "-r",
            "-M",
            "--stat=100",
            "--stat-count=100",
        ];
        let stat = self.git(stat.into_iter().chain([self.assignment.start_commit.as_str(), commit]));
        self.bench.run(stat, Output::Shown).await?;
        self.bench.log.status("diff", "Collected workspace diff").await;
        Ok(())
    }

    async fn push(&self, commit: &str) -> Result<(), RunFailure> {
        let branch = &self.assignment.work_branch;
        let refspec = format!("+{commit}:refs/heads/{branch}");
        let push = self.git(["push", "--quiet", "--no-verify", REPOSITORY_URL, &refspec]);
        self.bench.must(push, FailureCause::Push, "The change could not be pushed to the quarantine").await?;
        self.bench.log.status("git", format!("Pushed branch {branch} to origin")).await;
        Ok(())
    }

    /// Runs a git command that answers with an object id.
    async fn ask<const N: usize>(&self, args: [&str; N]) -> Result<String, RunFailure> {
        let answers = args.first().is_some_and(|verb| *verb != "read-tree");
        let id = self.bench.must(self.git(args), FailureCause::Push, "The change could not be collected").await?.text();
        if answers { self.checked(id) } else { Ok(id) }
    }

    fn checked(&self, id: String) -> Result<String, RunFailure> {
        if matches!(id.len(), 40 | 64) && id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(id);
        }
        Err(RunFailure::new(
            FailureCause::Push,
            "Git in the sandbox answered with something that is no object id; check the git that is installed there.",
        ))
    }

    fn git<S: Into<String>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let own = [format!("--git-dir={}", self.git_dir)];
        git(own.into_iter().chain(args.into_iter().map(Into::into))).with_cwd("/")
    }

    /// A git command that sees the workspace, with settings under which its files mean what they say.
    fn in_work_tree<S: Into<String>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let own = [
            format!("--git-dir={}", self.git_dir).as_str(),
            &format!("--work-tree={WORKSPACE}"),
            "-c",
            "core.bare=false",
            "-c",
            "core.attributesFile=/dev/null",
            "-c",
            "core.excludesFile=/dev/null",
            "-c",
            "core.autocrlf=false",
            "-c",
            "core.fileMode=true",
            "-c",
            "core.symlinks=true",
            "-c",
            "advice.addEmbeddedRepo=false",
        ]
        .map(str::to_owned);
        git(own.into_iter().chain(args.into_iter().map(Into::into))).with_cwd(WORKSPACE)
    }
}
