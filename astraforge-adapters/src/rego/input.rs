//! What the rules see of a change.

use std::collections::BTreeMap;

use astraforge_core::{
    diff::{Diff, FileDiff},
    request::change_set::{Change, ChangeKind},
};
use serde::Serialize;

const LINK: &str = "120000";

/// A change, without its texts.
#[derive(Debug, Serialize)]
pub(super) struct Input<'a> {
    target_branch: &'a str,
    branch: &'a str,
    files: Vec<InputFile>,
}

#[derive(Debug, Serialize)]
struct InputFile {
    path: String,
    old_path: Option<String>,
    kind: ChangeKind,
    added: Option<u64>,
    removed: Option<u64>,
    mode: String,
    old_mode: Option<String>,
    size: u64,
    link_target: Option<String>,
    link_leaves_tree: bool,
}

impl<'a> Input<'a> {
    /// Takes the file list, with what only the diff tells; and files that only the diff names, so that none is missed.
    pub(super) fn of(change: &'a Change) -> Self {
        let diff = Diff::parse(&change.diff);
        // A file that turns into a link has two sections, one for each kind.
        let mut sections = BTreeMap::<&str, Vec<&FileDiff<'_>>>::new();
        for file in &diff.files {
            sections.entry(file.path()).or_default().push(file);
        }
        let listed = change.files.iter().map(|file| {
            let sections = sections.remove(file.path.as_str()).unwrap_or_default();
            let input = InputFile {
                path: file.path.clone(),
                old_path: file.old_path.clone(),
                kind: file.kind,
                added: file.added,
                removed: file.removed,
                mode: file.mode.clone(),
                old_mode: None,
                size: file.size,
                link_target: None,
                link_leaves_tree: false,
            };
            input.with_sections(&sections)
        });
        let mut files: Vec<_> = listed.collect();
        files.extend(sections.into_values().map(|sections| InputFile::of(&sections)));
        Self { target_branch: &change.target_branch, branch: &change.branch, files }
    }

    /// An input on which rules can be tried out.
    pub(super) fn sample() -> Self {
        let file = InputFile {
            path: "src/sample.txt".into(),
            old_path: None,
            kind: ChangeKind::Modified,
            added: Some(1),
            removed: Some(1),
            mode: "100644".into(),
            old_mode: Some("100644".into()),
            size: 1,
            link_target: None,
            link_leaves_tree: false,
        };
        Self { target_branch: "main", branch: "sample", files: vec![file] }
    }
}

impl InputFile {
    /// A file as the diff alone shows it.
    fn of(sections: &[&FileDiff<'_>]) -> Self {
        let last = sections.last();
        let input = Self {
            path: last.map(|file| file.path().to_owned()).unwrap_or_default(),
            old_path: last.and_then(|file| file.old_path.clone()),
            kind: last.map_or(ChangeKind::Modified, |file| file.kind),
            added: last.filter(|file| !file.is_binary).map(|file| file.added_lines().count() as u64),
            removed: last.filter(|file| !file.is_binary).map(|file| file.removed_lines().count() as u64),
            mode: last.and_then(|file| file.new_mode).unwrap_or("100644").to_owned(),
            old_mode: None,
            size: 0,
            link_target: None,
            link_leaves_tree: false,
        };
        input.with_sections(sections)
    }

    fn with_sections(mut self, sections: &[&FileDiff<'_>]) -> Self {
        self.old_mode = sections.iter().find_map(|file| file.old_mode).map(str::to_owned);
        if self.mode == LINK {
            self.link_target =
                sections.iter().rev().find(|file| file.new_mode == Some(LINK)).and_then(|file| target(file));
            self.link_leaves_tree = match &self.link_target {
                Some(target) => leaves_tree(&self.path, target),
                // A link that only moved shows no target, but may now point elsewhere.
                None => true,
            };
        }
        self
    }
}

/// The contents of a link are its target.
fn target(file: &FileDiff<'_>) -> Option<String> {
    let lines: Vec<_> = file.added_lines().map(|line| line.text).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Tells whether a link at `path` with this target may lead out of the repository, or into its `.git`.
///
/// A `..` behind a name counts as leaving: the name may be a link itself.
fn leaves_tree(path: &str, target: &str) -> bool {
    if target.is_empty() || target.starts_with('/') || target.contains('\\') || target.contains(':') {
        return true;
    }
    let mut depth = path.split('/').count() - 1;
    let mut went_down = false;
    for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            if went_down || depth == 0 {
                return true;
            }
            depth -= 1;
        } else if part.eq_ignore_ascii_case(".git") {
            return true;
        } else {
            went_down = true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, target: &str, expected: bool) {
        assert_eq!(leaves_tree(path, target), expected, "{path} -> {target}");
    }

    #[test]
    fn links_that_may_leave_the_tree_are_known() {
        check("a", "b", false);
        check("d/a", "../b", false);
        check("d/e/a", "../../b/c", false);
        check("d/a", "./b/./c", false);
        check("a", "../b", true);
        check("d/a", "../../b", true);
        check("d/a", "b/../../c", true);
        check("d/e/a", "b/../c", true);
        check("a", "/etc/passwd", true);
        check("a", ".git/hooks", true);
        check("a", "C:\\x", true);
        check("a", "", true);
    }
}
