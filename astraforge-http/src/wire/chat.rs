//! The conversation about a request, and approvals.

use astraforge_core::{
    id::{ApprovalId, ChangeSetId, RequestId},
    request::{
        Prompt,
        approval::{Approval, Binding},
        change_set::Digest,
    },
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{schema, timestamp};

/// A person's message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ChatBody {
    /// The request it is about.
    #[schema(value_type = uuid::Uuid)]
    pub request_id: RequestId,
    /// What is said, word for word; not blank.
    #[schema(value_type = String, example = "Also add a test.")]
    pub message: Prompt,
}

/// What is approved. An empty body approves the change that is current when the call arrives.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct ApproveBody {
    /// The digest of the change that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, example = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
    pub digest: Option<Digest>,
}

/// A change was approved, and its publication queued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Approved {
    /// Always `queued`.
    #[schema(example = "queued")]
    pub status: String,
    /// The approval; additive.
    pub approval: ApprovalView,
}

/// A person's yes to exactly one change set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: ApprovalId,
    /// The change set it is for.
    #[schema(value_type = uuid::Uuid)]
    pub change_set_id: ChangeSetId,
    /// The digest that was approved.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Who approved.
    pub approver: String,
    /// How the digest came to be named.
    #[schema(schema_with = schema::binding)]
    pub binding: Binding,
    /// When.
    #[serde(with = "timestamp::row")]
    pub created_at: DateTime<Utc>,
}

impl From<Approval> for ApprovalView {
    fn from(approval: Approval) -> Self {
        Self {
            id: approval.id,
            change_set_id: approval.change_set,
            digest: approval.digest,
            approver: approval.approver.to_string(),
            binding: approval.binding,
            created_at: approval.created_at,
        }
    }
}
