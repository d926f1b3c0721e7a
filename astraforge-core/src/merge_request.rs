//! A merge request: an approved change on its way into a repository.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    id::{ChangeSetId, MergeRequestId, RequestId, TenantId},
    review::Review,
};

/// An approved change, published as a branch and proposed for merging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeRequest {
    /// Its id.
    pub id: MergeRequestId,
    /// The request it belongs to.
    pub request: RequestId,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// The change set that was approved.
    pub change_set: ChangeSetId,
    /// What is proposed.
    pub proposal: Proposal,
    /// Where people find it.
    pub url: String,
    /// Where it stands.
    pub status: MergeRequestStatus,
    /// What the review found, once there was one.
    pub review: Option<Review>,
    /// When it was opened.
    pub created_at: DateTime<Utc>,
}

/// What is proposed for merging.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The title.
    pub title: String,
    /// The description, in Markdown.
    pub description: String,
    /// The branch with the change.
    pub source_branch: String,
    /// The branch it is for.
    pub target_branch: String,
    /// The one commit that was approved, in full.
    pub commit: String,
}

/// Where a merge request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MergeRequestStatus {
    /// It can be merged.
    Open,
    /// It was merged.
    Merged,
    /// It was closed without merging.
    Closed,
}
