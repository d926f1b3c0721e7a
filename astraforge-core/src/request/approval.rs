//! An approval: a person's yes to one digest.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::change_set::Digest;
use crate::id::{ApprovalId, ChangeSetId, RequestId, UserId};

/// A person's yes to exactly one change set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Its id.
    pub id: ApprovalId,
    /// The request it belongs to.
    pub request: RequestId,
    /// The change set it is for.
    pub change_set: ChangeSetId,
    /// The digest that was approved.
    pub digest: Digest,
    /// Who approved.
    pub approver: UserId,
    /// How the digest came to be named.
    pub binding: Binding,
    /// When.
    pub created_at: DateTime<Utc>,
}

/// How an approval came to name its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binding {
    /// The approver sent the digest.
    Explicit,
    /// The approver sent none; the digest that was current when the call arrived was taken.
    Implicit,
}
