//! Tells what a work branch changes: the whole diff, and each file by itself.

use std::time::Duration;

use astraforge_core::{
    ports::git::{Base, GitError},
    request::change_set::{Change, FileChange},
};
use bytes::Bytes;

use super::{
    Quarantine,
    failure::refused,
    parse::{self, FileDifference},
    quarantine::Bare,
    refname::{check_branch, check_commit},
    run::{RunError, backend},
};

const COMPARE: &str = "compare the work branch with its base";
/// The largest list of files, in bytes of git's own form; some hundred thousand files.
const MAX_LIST: usize = 64 << 20;

/// How long one comparison may take.
const MAX_TIME: Duration = Duration::from_secs(300);
/// The mode of a submodule.
const SUBMODULE: &str = "160000";

/// The same for both readings of a difference. Nothing that the tree says of itself takes part: no external program,
/// no text conversion, and no submodule that its `.gitmodules` asks to ignore.
const DIFF_OPTIONS: [&str; 9] = [
    "diff-tree",
    "-r",
    "--find-renames=50%",
    "--full-index",
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--no-relative",
    "--ignore-submodules=none",
];

impl Quarantine {
    pub(super) async fn change_in(
        &self,
        bare: &Bare,
        base: &Base,
        work_branch: &str,
    ) -> Result<Option<Change>, GitError> {
        check_branch(work_branch).map_err(refused)?;
        check_commit(&base.commit).map_err(refused)?;
        if !bare.exists() {
            return Err(refused("this request has no quarantine; mirror its repository first"));
        }
        let head = bare.commit(&self.git, &format!("refs/heads/{work_branch}")).await?;
        let Some(head_commit) = head else { return Ok(None) };
        let base_commit = self.merge_base(bare, &base.commit, &head_commit).await?;
        let head_tree = self.tree(bare, &head_commit).await?;
        if self.tree(bare, &base_commit).await? == head_tree {
            return Ok(None);
        }
        self.check_extent(bare, &head_tree).await?;
        // The diff first: it is the stricter limit, so that what is too much ends soon.
        let diff = self.diff(bare, &base_commit, &head_commit).await?;
        let files = self.files(bare, &base_commit, &head_commit).await?;
        Ok(Some(Change {
            target_branch: base.branch.clone(),
            branch: work_branch.to_owned(),
            base_commit,
            head_commit,
            head_tree,
            diff,
            files,
        }))
    }

    async fn merge_base(&self, bare: &Bare, base: &str, head: &str) -> Result<String, GitError> {
        let output =
            self.git.ask(bare.call(&self.git, ["merge-base", "--end-of-options", base, head]), COMPARE).await?;
        if !output.success && output.stderr.is_empty() {
            return Err(refused(
                "the work branch shares no history with the base branch, so no merge could take it; the agent must \
                 build on the commit it was given",
            ));
        }
        output.line(COMPARE)
    }

    async fn tree(&self, bare: &Bare, commit: &str) -> Result<String, GitError> {
        let name = format!("{commit}^{{tree}}");
        let call = bare.call(&self.git, ["rev-parse", "--verify", "--end-of-options", &name]);
        self.git.ask(call, COMPARE).await?.line(COMPARE)
    }

    /// Refuses a tree whose list of files has no end: ten small objects can stand for ten thousand million files, and
    /// comparing them would hold them all in memory. Listing them does not.
    async fn check_extent(&self, bare: &Bare, tree: &str) -> Result<(), GitError> {
        let args = ["ls-tree", "-r", "--name-only", "-z", tree, "--"];
        self.bounded(bare, args, MAX_LIST, "list of files").await.map(drop)
    }

    async fn files(&self, bare: &Bare, base: &str, head: &str) -> Result<Vec<FileChange>, GitError> {
        let args = DIFF_OPTIONS.into_iter().chain(["--raw", "--numstat", "-z", base, head, "--"]);
        let listed = self.bounded(bare, args, MAX_LIST, "list of changed files").await?;
        let files = parse::raw_and_numstat(&listed).map_err(|error| backend(COMPARE, error))?;
        let sizes = self.sizes(bare, &files).await?;
        Ok(files.into_iter().zip(sizes).map(|(file, size)| file_change(file, size)).collect())
    }

    async fn sizes(&self, bare: &Bare, files: &[FileDifference]) -> Result<Vec<u64>, GitError> {
        let ids: String = files.iter().flat_map(|file| [file.blob.as_str(), "\n"]).collect();
        let call = bare.call(&self.git, ["cat-file", "--batch-check=%(objectsize)"]);
        let output = self.git.run(call, ids.into(), MAX_LIST).await.map_err(|error| backend(COMPARE, error))?;
        let sizes = parse::sizes(&output.printed(COMPARE)?);
        if sizes.len() == files.len() { Ok(sizes) } else { Err(refused("the sizes of some files are not known")) }
    }

    async fn diff(&self, bare: &Bare, base: &str, head: &str) -> Result<String, GitError> {
        let max = usize::try_from(self.config.max_diff.as_bytes()).unwrap_or(usize::MAX);
        let args = DIFF_OPTIONS.into_iter().chain(["--patch", base, head, "--"]);
        Ok(shown_text(self.bounded(bare, args, max, "diff").await?))
    }

    async fn bounded(
        &self,
        bare: &Bare,
        args: impl IntoIterator<Item = &str>,
        max: usize,
        what: &str,
    ) -> Result<Vec<u8>, GitError> {
        match self.git.within(MAX_TIME).run(bare.call(&self.git, args), Bytes::new(), max).await {
            Ok(output) => output.printed(COMPARE),
            Err(RunError::TimedOut { after }) => Err(refused(format!(
                "the {what} could not be made within {} seconds; ask for a smaller change",
                after.as_secs()
            ))),
            Err(RunError::TooMuch { max }) => Err(refused(format!(
                "the {what} is larger than {max} bytes, too much for a person to approve; ask for a smaller change, \
                 and keep generated files and dependencies out of it"
            ))),
            Err(error) => Err(backend(COMPARE, error)),
        }
    }
}

fn file_change(file: FileDifference, size: u64) -> FileChange {
    let (added, removed) = file.lines.unzip();
    // A submodule is a commit of another repository, even where a commit of that name happens to be here too.
    let size = if file.mode == SUBMODULE { 0 } else { size };
    FileChange { path: file.path, old_path: file.old_path, kind: file.kind, added, removed, mode: file.mode, size }
}

/// Makes text of a diff. Bytes that are no UTF-8 are shown in octal, such as `\351`, so that none is lost to the eye.
fn shown_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let mut text = String::new();
        for chunk in error.as_bytes().utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().map(|byte| format!("\\{byte:03o}")));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_shown_in_octal() {
        assert_eq!(shown_text("+gr\u{fc}n\n".into()), "+gr\u{fc}n\n");
        assert_eq!(shown_text(b"+caf\xe9\n".to_vec()), "+caf\\351\n");
    }
}
