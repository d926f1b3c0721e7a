//! A review: what is wrong with a change, by rules that need no model.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub mod rules;

/// What reviewers said of a merge request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    /// The reviewers that were asked.
    pub reviewers: Vec<String>,
    /// What they found, the gravest first.
    pub findings: Vec<Finding>,
    /// The review in a sentence; says so when nothing was found.
    pub summary: String,
}

impl Review {
    /// Puts findings together: sorted, and each fingerprint once.
    #[must_use]
    pub fn new(reviewers: Vec<String>, mut findings: Vec<Finding>) -> Self {
        findings.sort_by(|a, b| {
            (b.severity, &a.file, a.line, &a.fingerprint).cmp(&(a.severity, &b.file, b.line, &b.fingerprint))
        });
        findings.dedup_by(|a, b| a.fingerprint == b.fingerprint);
        let summary = match findings.len() {
            0 => format!("Reviewed by {}: nothing found.", reviewers.join(", ")),
            1 => format!("Reviewed by {}: 1 finding.", reviewers.join(", ")),
            n => format!("Reviewed by {}: {n} findings.", reviewers.join(", ")),
        };
        Self { reviewers, findings, summary }
    }
}

/// One thing that a reviewer found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The file it is about.
    pub file: String,
    /// The line in the new file, where it is about one.
    pub line: Option<u64>,
    /// How grave it is.
    pub severity: Severity,
    /// The rule that found it.
    pub rule: String,
    /// What is wrong and what to do about it.
    pub message: String,
    /// The same for the same finding in a later review.
    pub fingerprint: String,
}

impl Finding {
    /// A finding; `evidence` makes its fingerprint and is not shown.
    pub fn new(
        file: &str,
        line: Option<u64>,
        severity: Severity,
        rule: &str,
        message: impl Into<String>,
        evidence: &str,
    ) -> Self {
        let mut hasher = Sha256::new();
        for part in [rule, file, evidence] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        let fingerprint = format!("{:x}", hasher.finalize())[..16].to_owned();
        Self { file: file.to_owned(), line, severity, rule: rule.to_owned(), message: message.into(), fingerprint }
    }
}

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Should be looked at before merging.
    Warning,
    /// Must not be merged like this.
    Error,
}
