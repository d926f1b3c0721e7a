//! What a policy says of a change.

use serde::{Deserialize, Serialize};

/// The outcome of evaluating a policy on a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Names the exact policy texts that were evaluated.
    pub policy_version: String,
    /// What follows.
    pub decision: Decision,
    /// Why, one entry a rule and file, in a fixed order.
    pub reasons: Vec<Reason>,
}

impl Verdict {
    /// Writes decision and reasons in one fixed form, for the digest.
    #[must_use]
    pub fn canonical_text(&self) -> String {
        let mut text = format!("{:?}", self.decision);
        for reason in &self.reasons {
            text.push_str(&format!("\n{:?} {:?} {:?}", reason.rule, reason.path, reason.message));
        }
        text
    }
}

/// What a policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Anyone who may approve, may approve this.
    Allow,
    /// Only a maintainer or an admin may approve this.
    NeedsMaintainer,
    /// Nobody may approve this.
    Deny,
}

/// Why a policy decided as it did.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reason {
    /// The rule's name.
    pub rule: String,
    /// The file it is about, if it is about one.
    pub path: Option<String>,
    /// What is wrong and what to do about it.
    pub message: String,
}
