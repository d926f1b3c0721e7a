//! The last step in a workspace: what the agent left becomes one commit, and is pushed to the quarantine.
//!
//! Nothing that the agent could have prepared is trusted: it may have removed `.git`, committed by itself, rewritten
//! history, or planted hooks and settings. So the commit is made with a git folder of its own, fetched anew from the
//! quarantine, of which the workspace is only the work tree; and it is made with plumbing, which runs no hook.

use std::collections::HashSet;

use astraforge_core::{
    id::RunId,
    ports::executor::Assignment,
    run::{FailureCause, RunFailure},
    session::Command,
};

use super::{
    Author, HOME, WORKSPACE,
    bench::{Bench, Output},
    checkout::{REPOSITORY_URL, git, git_with},
};

/// How many of those paths are named in the log that are left out.
const NAMED: usize = 5;
/// The largest file that is collected, as `find` writes it: 1 GiB. A larger one could not be pushed, and a sparse one
/// would take hours to read.
const TOO_LARGE: &str = "+1048576k";

/// What the workspace held beyond its commit before the agent began: what the setup command left there.
#[derive(Debug, Default)]
pub(super) struct Leftovers(HashSet<Entry>);

/// What one path became: its mode, its object and its name, as git writes them.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Entry {
    mode_and_id: Vec<u8>,
    path: Vec<u8>,
}

/// Notes what the setup command left, so that it does not end in the agent's change.
pub(super) async fn leftovers(
    bench: &Bench,
    assignment: &Assignment,
    author: &Author,
) -> Result<Leftovers, RunFailure> {
    let collector = Collector { bench, assignment, author, git_dir: git_dir() };
    collector.fetch().await?;
    let tree = collector.tree().await?;
    let changes = collector.changes(&tree).await?;
    let remove = Command::new(["rm", "-rf", "--", &collector.git_dir]).with_cwd("/");
    bench.run(remove, Output::Kept).await?;
    Ok(Leftovers(changes.into_iter().map(|change| change.new).collect()))
}

/// Commits and pushes what the agent made of the workspace; returns the commit, or `None` when it changed nothing.
pub(super) async fn collect(
    bench: &Bench,
    assignment: &Assignment,
    author: &Author,
    leftovers: &Leftovers,
) -> Result<Option<String>, RunFailure> {
    let collector = Collector { bench, assignment, author, git_dir: git_dir() };
    collector.fetch().await?;
    let tree = collector.tree().await?;
    let tree = collector.without(leftovers, tree).await?;
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

/// A folder that the agent can't have made before: its name is of chance, and was never in the sandbox.
fn git_dir() -> String {
    format!("{HOME}/.collect-{}", RunId::random().as_uuid().simple())
}

/// One path that differs.
struct Change {
    old_mode_and_id: Vec<u8>,
    new: Entry,
}

impl Change {
    /// The line by which `git update-index --index-info` puts the path back to what it was.
    fn undoing(&self) -> Vec<u8> {
        let absent = self.old_mode_and_id.starts_with(b"000000");
        let mode_and_id = if absent { &self.old_mode_and_id[5..] } else { &self.old_mode_and_id[..] };
        [mode_and_id, b"\t", &self.new.path, b"\0"].concat()
    }
}

/// Reads what `git diff-tree -z --raw` prints: `:oldmode newmode oldid newid status`, then the path. What was cut off
/// at the end is left out: its path then counts as the agent's.
fn changes(raw: &[u8]) -> Vec<Change> {
    let end = raw.iter().rposition(|byte| *byte == 0).unwrap_or(0);
    let mut parts = raw[..end].split(|byte| *byte == 0);
    let mut found = Vec::new();
    while let (Some(head), Some(path)) = (parts.next(), parts.next()) {
        let fields: Vec<&[u8]> = head.strip_prefix(b":").unwrap_or(head).split(|byte| *byte == b' ').collect();
        if let [old_mode, new_mode, old_id, new_id, _] = fields[..] {
            let joined = |mode: &[u8], id: &[u8]| [mode, b" ", id].concat();
            let new = Entry { mode_and_id: joined(new_mode, new_id), path: path.to_vec() };
            found.push(Change { old_mode_and_id: joined(old_mode, old_id), new });
        }
    }
    found
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
        let mut paths = b".\0".to_vec();
        for path in self.left_out().await? {
            paths.extend_from_slice(b":(top,exclude,literal)");
            paths.extend_from_slice(&path);
            paths.push(0);
        }
        let add =
            self.in_work_tree(["add", "--all", "--pathspec-from-file=-", "--pathspec-file-nul"]).with_stdin(paths);
        self.bench.must(add, FailureCause::Push, "The change could not be collected").await?;
        self.ask(["write-tree"]).await
    }

    /// Takes out of a tree what was in the workspace before the agent began, and is there unchanged.
    async fn without(&self, leftovers: &Leftovers, tree: String) -> Result<String, RunFailure> {
        if leftovers.0.is_empty() {
            return Ok(tree);
        }
        let changes = self.changes(&tree).await?;
        let undone: Vec<u8> =
            changes.iter().filter(|change| leftovers.0.contains(&change.new)).flat_map(Change::undoing).collect();
        if undone.is_empty() {
            return Ok(tree);
        }
        let undo = self.git(["update-index", "-z", "--index-info"]).with_stdin(undone);
        self.bench.must(undo, FailureCause::Push, "The change could not be collected").await?;
        self.ask(["write-tree"]).await
    }

    /// Lists how a tree differs from the commit that the work began at.
    async fn changes(&self, tree: &str) -> Result<Vec<Change>, RunFailure> {
        let diff = self.git([
            "diff-tree",
            "-r",
            "-z",
            "--raw",
            "--no-renames",
            "--no-abbrev",
            &self.assignment.start_commit,
            tree,
        ]);
        let raw = self.bench.must(diff, FailureCause::Push, "The change could not be collected").await?;
        Ok(changes(&raw.stdout))
    }

    /// Finds what is not collected, and says so: repositories within the workspace, because a commit can't hold their
    /// files and a link to them leads nowhere; and files without measure. Folders that the agent closed are opened on
    /// the way: git would pass them over without a word.
    async fn left_out(&self) -> Result<Vec<Vec<u8>>, RunFailure> {
        let own = format!("{WORKSPACE}/.git");
        let open = ["(", "-type", "d", "!", "-perm", "-500", "!", "-exec", "chmod", "u+rx", "{}", ";", ")", "-o"];
        let which = ["(", "-name", ".git", "-prune", "-o", "-type", "f", "-size", TOO_LARGE, ")", "-print0"];
        let find = ["find", WORKSPACE, "-xdev", "-path", &own, "-prune", "-o"].into_iter().chain(open).chain(which);
        let found = self.bench.run(Command::new(find).with_cwd("/"), Output::Kept).await?;
        let prefix = format!("{WORKSPACE}/");
        let paths = found.stdout.split(|byte| *byte == 0).filter_map(|path| path.strip_prefix(prefix.as_bytes()));
        let (repositories, large): (Vec<_>, Vec<_>) = paths.partition(|path| path.ends_with(b"/.git"));
        let repositories: Vec<_> = repositories.into_iter().filter_map(|path| path.strip_suffix(b"/.git")).collect();
        self.tell("folders that are git repositories of their own", &repositories).await;
        self.tell("files of more than 1 GiB", &large).await;
        Ok(repositories.into_iter().chain(large).map(<[u8]>::to_vec).collect())
    }

    async fn tell(&self, what: &str, left_out: &[&[u8]]) {
        if left_out.is_empty() {
            return;
        }
        let names = left_out.iter().take(NAMED).map(|path| format!("`{}`", String::from_utf8_lossy(path)));
        let names = names.collect::<Vec<_>>().join(", ");
        let more = left_out.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        self.bench.log.status("git", format!("Left out {what}: {names}{more}")).await;
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
        git(args).with_cwd("/").with_env("GIT_DIR", &self.git_dir)
    }

    /// A git command that sees the workspace, with settings under which its files mean what they say.
    fn in_work_tree<S: Into<String>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let settings = [
            ("core.bare", "false"),
            ("core.attributesFile", "/dev/null"),
            ("core.excludesFile", "/dev/null"),
            ("core.autocrlf", "false"),
            ("core.fileMode", "true"),
            ("core.symlinks", "true"),
            ("advice.addEmbeddedRepo", "false"),
        ];
        git_with(&settings, args).with_env("GIT_DIR", &self.git_dir).with_env("GIT_WORK_TREE", WORKSPACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_read_and_undone() {
        let raw = b":000000 100644 0000 aaaa A\0new file\0:100644 000000 bbbb 0000 D\0gone\0:100644 100755 cccc dddd M\0cut o";
        let undoing: Vec<u8> = changes(raw).iter().flat_map(Change::undoing).collect();
        assert_eq!(String::from_utf8(undoing).unwrap(), "0 0000\tnew file\x00100644 bbbb\tgone\0");
        assert!(changes(b"").is_empty());
    }
}
