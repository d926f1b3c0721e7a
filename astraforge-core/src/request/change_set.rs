//! A change set: what a run wants to change, and the digest that an approval binds to.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    id::{ChangeSetId, RequestId, RunId},
    policy::Verdict,
};

/// The whole change of a run against the merge base, with the verdict of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeSet {
    /// Its id.
    pub id: ChangeSetId,
    /// The request it belongs to.
    pub request: RequestId,
    /// The run that made it.
    pub run: RunId,
    /// What changes.
    pub change: Change,
    /// What the policy says of it.
    pub verdict: Verdict,
    /// What an approval binds to.
    pub digest: Digest,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl ChangeSet {
    /// Puts a change and its verdict together, and computes their digest.
    #[must_use]
    pub fn new(request: RequestId, run: RunId, change: Change, verdict: Verdict, created_at: DateTime<Utc>) -> Self {
        let digest = Digest::of(&change, &verdict);
        Self { id: ChangeSetId::random(), request, run, change, verdict, digest, created_at }
    }
}

/// A difference between two commits, as git tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The branch it is meant for.
    pub target_branch: String,
    /// The branch that holds it.
    pub branch: String,
    /// The commit it is measured from, in full.
    pub base_commit: String,
    /// The last commit of it, in full.
    pub head_commit: String,
    /// The tree of that commit, in full.
    pub head_tree: String,
    /// The unified diff, with new, deleted, renamed and binary files.
    pub diff: String,
    /// The files, one entry each.
    pub files: Vec<FileChange>,
}

/// What happens to one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// Its path after the change (before it, for a deleted file).
    pub path: String,
    /// Its path before the change, where that differs.
    pub old_path: Option<String>,
    /// What happens.
    pub kind: ChangeKind,
    /// Lines added; `None` for a binary file.
    pub added: Option<u64>,
    /// Lines removed; `None` for a binary file.
    pub removed: Option<u64>,
    /// Its mode after the change, in octal, such as `100644`, `100755`, `120000` (link), `160000` (submodule).
    pub mode: String,
    /// Its size in bytes after the change.
    pub size: u64,
}

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its contents change.
    Modified,
    /// It goes away.
    Deleted,
    /// It moves, perhaps with changed contents.
    Renamed,
    /// It turns into another kind of file, or only its mode changes.
    TypeChanged,
}

/// The fingerprint of a change set: diff, base, head, tree, policy version and verdict.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// Computes the digest. Each part is preceded by its length, so that no two change sets read alike.
    #[must_use]
    pub fn of(change: &Change, verdict: &Verdict) -> Self {
        let verdict_text = verdict.canonical_text();
        let parts = [
            "astraforge.change.v1",
            &change.target_branch,
            &change.branch,
            &change.base_commit,
            &change.head_commit,
            &change.head_tree,
            &change.diff,
            &verdict.policy_version,
            &verdict_text,
        ];
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        Self(format!("sha256:{:x}", hasher.finalize()))
    }

    /// Returns the text form, `sha256:` and 64 hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest: expected `sha256:` and 64 hexadecimal digits")]
pub struct ParseDigestError(String);

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        match text.strip_prefix("sha256:") {
            Some(digits) if digits.len() == 64 && digits.bytes().all(hex) => Ok(Self(text.to_owned())),
            _ => Err(ParseDigestError(text.chars().take(80).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Decision;

    fn change() -> Change {
        Change {
            target_branch: "main".into(),
            branch: "astraforge/1".into(),
            base_commit: "a".repeat(40),
            head_commit: "b".repeat(40),
            head_tree: "c".repeat(40),
            diff: "diff --git a/x b/x\n".into(),
            files: vec![],
        }
    }

    fn verdict() -> Verdict {
        Verdict { policy_version: "v1".into(), decision: Decision::Allow, reasons: vec![] }
    }

    #[track_caller]
    fn check_differs(edit: impl FnOnce(&mut Change, &mut Verdict)) {
        let (mut change, mut verdict) = (change(), verdict());
        let before = Digest::of(&change, &verdict);
        edit(&mut change, &mut verdict);
        assert_ne!(Digest::of(&change, &verdict), before);
    }

    #[test]
    fn any_drift_changes_the_digest() {
        check_differs(|c, _| c.diff.push('x'));
        check_differs(|c, _| c.base_commit = "d".repeat(40));
        check_differs(|c, _| c.head_commit = "d".repeat(40));
        check_differs(|c, _| c.head_tree = "d".repeat(40));
        check_differs(|c, _| c.target_branch = "release".into());
        check_differs(|_, v| v.policy_version = "v2".into());
        check_differs(|_, v| v.decision = Decision::Deny);
        check_differs(|c, _| (c.target_branch, c.branch) = ("mainastraforge/1".into(), String::new()));
    }

    #[test]
    fn a_digest_survives_its_text() {
        let digest = Digest::of(&change(), &verdict());
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for text in ["", "sha256:", &"a".repeat(71), &format!("sha256:{}", "G".repeat(64))] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
