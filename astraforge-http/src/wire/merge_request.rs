//! Merge requests and their reviews.

use astraforge_core::{
    id::{MergeRequestId, RequestId},
    merge_request::{MergeRequest, MergeRequestStatus},
    review::{Finding, Review, Severity},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{schema, timestamp};

/// An approved change, published as a branch and proposed for merging.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MergeRequestView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: MergeRequestId,
    /// The request it belongs to.
    #[schema(value_type = uuid::Uuid)]
    pub request_id: RequestId,
    /// The title of that request.
    pub request_title: String,
    /// The title.
    pub title: String,
    /// The description, in Markdown.
    pub description: String,
    /// The branch it is for.
    pub target_branch: String,
    /// The branch with the change.
    pub source_branch: String,
    /// Where it stands.
    #[schema(schema_with = schema::merge_request_status)]
    pub status: MergeRequestStatus,
    /// Where people find it; the same as `url`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The unified diff that was approved.
    pub diff: String,
    /// When it was opened.
    #[serde(with = "timestamp::offset")]
    pub created_at: DateTime<Utc>,
    /// Where people find it; additive.
    pub url: String,
    /// The one commit that was approved, in full; additive.
    pub commit: String,
    /// What the review found, once there was one; additive.
    pub review: Option<ReviewView>,
}

impl MergeRequestView {
    /// Puts a merge request together with its request's title and the diff that was approved.
    #[must_use]
    pub fn new(merge_request: MergeRequest, request_title: String, diff: String) -> Self {
        Self {
            id: merge_request.id,
            request_id: merge_request.request,
            request_title,
            title: merge_request.proposal.title,
            description: merge_request.proposal.description,
            target_branch: merge_request.proposal.target_branch,
            source_branch: merge_request.proposal.source_branch,
            status: merge_request.status,
            reference: merge_request.url.clone(),
            diff,
            created_at: merge_request.created_at,
            url: merge_request.url,
            commit: merge_request.proposal.commit,
            review: merge_request.review.map(ReviewView::from),
        }
    }
}

/// What reviewers said of a merge request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReviewView {
    /// The reviewers that were asked.
    pub reviewers: Vec<String>,
    /// What they found, the gravest first.
    pub findings: Vec<FindingView>,
    /// The review in a sentence.
    pub summary: String,
}

impl From<Review> for ReviewView {
    fn from(review: Review) -> Self {
        let Review { reviewers, findings, summary } = review;
        Self { reviewers, findings: findings.into_iter().map(FindingView::from).collect(), summary }
    }
}

/// One thing that a reviewer found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FindingView {
    /// The file it is about.
    pub file: String,
    /// The line in the new file, where it is about one.
    pub line: Option<u64>,
    /// How grave it is.
    #[schema(schema_with = schema::severity)]
    pub severity: Severity,
    /// The rule that found it.
    pub rule: String,
    /// What is wrong and what to do about it.
    pub message: String,
    /// The same for the same finding in a later review.
    pub fingerprint: String,
}

impl From<Finding> for FindingView {
    fn from(finding: Finding) -> Self {
        let Finding { file, line, severity, rule, message, fingerprint } = finding;
        Self { file, line, severity, rule, message, fingerprint }
    }
}
