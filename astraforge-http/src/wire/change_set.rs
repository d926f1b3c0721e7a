//! Changes: what a run wants to change, and what the policy says of it.

use astraforge_core::{
    id::{ChangeSetId, RequestId, RunId},
    policy::{Decision, Reason, Verdict},
    request::{
        approval::Approval,
        change_set::{ChangeKind, ChangeSet, Digest, FileChange},
    },
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{chat::ApprovalView, schema, timestamp};

/// The whole change of a run against the merge base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangeSetView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: ChangeSetId,
    /// The request it belongs to.
    #[schema(value_type = uuid::Uuid)]
    pub request_id: RequestId,
    /// The run that made it.
    #[schema(value_type = uuid::Uuid)]
    pub run_id: RunId,
    /// What an approval binds to: send it back to approve exactly this.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// The branch it is meant for.
    #[schema(example = "main")]
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
    pub files: Vec<FileChangeView>,
    /// What the policy says of it.
    pub verdict: VerdictView,
    /// The approvals of exactly this digest, the oldest first.
    pub approvals: Vec<ApprovalView>,
    /// When it was made.
    #[serde(with = "timestamp::row")]
    pub created_at: DateTime<Utc>,
}

impl ChangeSetView {
    /// Puts a change set and the approvals of its digest together.
    #[must_use]
    pub fn new(set: ChangeSet, approvals: Vec<Approval>) -> Self {
        let approvals = approvals.into_iter().filter(|a| a.digest == set.digest).map(ApprovalView::from).collect();
        Self {
            id: set.id,
            request_id: set.request,
            run_id: set.run,
            digest: set.digest,
            target_branch: set.change.target_branch,
            branch: set.change.branch,
            base_commit: set.change.base_commit,
            head_commit: set.change.head_commit,
            head_tree: set.change.head_tree,
            diff: set.change.diff,
            files: set.change.files.into_iter().map(FileChangeView::from).collect(),
            verdict: set.verdict.into(),
            approvals,
            created_at: set.created_at,
        }
    }
}

/// What happens to one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileChangeView {
    /// Its path after the change (before it, for a deleted file).
    #[schema(example = "src/loader.py")]
    pub path: String,
    /// Its path before the change, where that differs.
    pub old_path: Option<String>,
    /// What happens.
    #[schema(schema_with = schema::change_kind)]
    pub kind: ChangeKind,
    /// Lines added; null for a binary file.
    pub added: Option<u64>,
    /// Lines removed; null for a binary file.
    pub removed: Option<u64>,
    /// Its mode after the change, in octal.
    #[schema(example = "100644")]
    pub mode: String,
    /// Its size in bytes after the change.
    pub size: u64,
}

impl From<FileChange> for FileChangeView {
    fn from(file: FileChange) -> Self {
        let FileChange { path, old_path, kind, added, removed, mode, size } = file;
        Self { path, old_path, kind, added, removed, mode, size }
    }
}

/// What a policy says of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerdictView {
    /// Names the exact policy texts that were evaluated.
    pub policy_version: String,
    /// What follows.
    #[schema(schema_with = schema::decision)]
    pub decision: Decision,
    /// Why.
    pub reasons: Vec<ReasonView>,
}

impl From<Verdict> for VerdictView {
    fn from(verdict: Verdict) -> Self {
        let Verdict { policy_version, decision, reasons } = verdict;
        Self { policy_version, decision, reasons: reasons.into_iter().map(ReasonView::from).collect() }
    }
}

/// Why a policy decided as it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReasonView {
    /// The rule's name.
    pub rule: String,
    /// The file it is about, if it is about one.
    pub path: Option<String>,
    /// What is wrong and what to do about it.
    pub message: String,
}

impl From<Reason> for ReasonView {
    fn from(reason: Reason) -> Self {
        let Reason { rule, path, message } = reason;
        Self { rule, path, message }
    }
}
