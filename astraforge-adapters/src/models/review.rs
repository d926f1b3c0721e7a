//! A reviewer that asks a model, and believes it only as far as its answer fits the change.

mod answer;
mod prompt;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use astraforge_core::{
    BoxError,
    diff::Diff,
    ports::{
        model::{Endpoint, ModelAnswer, ModelCall, ModelUpstream},
        review::{ReviewError, Reviewer},
    },
    redact::Redactor,
    request::change_set::Change,
    review::{Finding, Severity},
};
use async_trait::async_trait;
use futures::StreamExt as _;

use self::{answer::Remark, prompt::Excerpt};

/// Asks a model for findings, as JSON of a strict schema.
///
/// The diff that is sent is bounded and has no credentials in it; when files had to be left out, a finding says so.
/// An answer that is no list of findings is an error, never an empty review.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
///
/// use astraforge_adapters::models::{ModelReviewer, ScriptedUpstream};
/// use astraforge_core::{ports::review::Reviewer, request::change_set::Change};
///
/// let upstream = ScriptedUpstream::from_json(
///     r#"{"name": "reviewer", "steps": [{"answer": [{"message":
///         "{\"findings\": [{\"file\": \"x\", \"line\": 1, \"severity\": \"error\", \"message\": \"b is undefined\"}]}"
///     }]}]}"#,
/// )?;
/// let change = Change {
///     target_branch: "main".into(),
///     branch: "astraforge/1".into(),
///     base_commit: "a".repeat(40),
///     head_commit: "b".repeat(40),
///     head_tree: "c".repeat(40),
///     diff: "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n".into(),
///     files: vec![],
/// };
/// let findings = ModelReviewer::new(Arc::new(upstream), "any-model").review(&change).await?;
/// assert_eq!((&*findings[0].message, findings[0].line), ("b is undefined", Some(1)));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct ModelReviewer {
    upstream: Arc<dyn ModelUpstream>,
    model: String,
    diff_limit: usize,
    timeout: Duration,
}

impl ModelReviewer {
    /// The reviewer's name in findings and errors.
    pub const NAME: &str = "model";

    /// A reviewer that asks this model.
    pub fn new(upstream: Arc<dyn ModelUpstream>, model: impl Into<String>) -> Self {
        Self { upstream, model: model.into(), diff_limit: 200 << 10, timeout: Duration::from_secs(300) }
    }

    /// Limits how many bytes of the diff are sent. Default 200 KiB.
    #[must_use]
    pub fn with_diff_limit(mut self, bytes: usize) -> Self {
        self.diff_limit = bytes;
        self
    }

    /// Limits how long the whole answer may take. Default 300 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    async fn ask(&self, excerpt: &Excerpt) -> Result<Vec<Remark>, BoxError> {
        let call = ModelCall {
            endpoint: Endpoint::Responses,
            headers: vec![
                ("content-type".into(), "application/json".into()),
                ("accept".into(), "application/json".into()),
            ],
            body: prompt::body(&self.model, excerpt).to_string().into(),
        };
        let answer = async { read(self.upstream.call(call).await?).await };
        let (status, body) = tokio::time::timeout(self.timeout, answer)
            .await
            .map_err(|_| format!("the model did not answer within {} s", self.timeout.as_secs()))??;
        answer::remarks(status, &body)
    }
}

#[async_trait]
impl Reviewer for ModelReviewer {
    fn name(&self) -> &str {
        Self::NAME
    }

    async fn review(&self, change: &Change) -> Result<Vec<Finding>, ReviewError> {
        let failed = |source| ReviewError { reviewer: Self::NAME.into(), source };
        let diff = Diff::parse(&change.diff);
        let excerpt = Excerpt::of(&diff, self.diff_limit);
        if excerpt.is_empty() {
            return Ok(excerpt.left_out.iter().map(|path| not_read(path)).collect());
        }
        let remarks = self.ask(&excerpt).await.map_err(failed)?;
        let mut findings = findings(&diff, remarks).map_err(failed)?;
        findings.extend(excerpt.left_out.iter().map(|path| not_read(path)));
        Ok(findings)
    }
}

fn not_read(path: &str) -> Finding {
    let message = "The model did not read all of this file: it is binary, or the change is too large for one review.";
    Finding::new(path, None, Severity::Info, "not-reviewed", message, "")
}

/// Reads a whole answer, up to a limit: an upstream may be anyone's.
async fn read(mut answer: ModelAnswer) -> Result<(u16, String), BoxError> {
    const LIMIT: usize = 4 << 20;
    let mut bytes = Vec::new();
    while let Some(piece) = answer.body.next().await {
        bytes.extend_from_slice(&piece?);
        if bytes.len() > LIMIT {
            return Err("the model's answer is longer than 4 MiB".into());
        }
    }
    Ok((answer.status, String::from_utf8(bytes)?))
}

/// Keeps what fits the change: known files, and lines that the diff shows.
fn findings(diff: &Diff<'_>, remarks: Vec<Remark>) -> Result<Vec<Finding>, BoxError> {
    let lines: BTreeMap<&str, BTreeMap<u64, &str>> = diff
        .files
        .iter()
        .map(|file| (file.path(), file.lines().filter_map(|line| Some((line.new?, line.text))).collect()))
        .collect();
    let n_remarks = remarks.len();
    let redactor = Redactor::default();
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for remark in remarks {
        let Some((path, lines)) = lines.get_key_value(remark.path()) else { continue };
        let text = remark.line.and_then(|line| lines.get(&line));
        // The line's text and not the model's words make the fingerprint: those differ from one time to the next.
        let evidence = text.map_or(remark.message.as_str(), |text| text.trim());
        let evidence = (0..).map(|n| format!("{evidence}#{n}")).find(|e| seen.insert((*path, e.clone())));
        let message = redactor.redact(&remark.message);
        let line = remark.line.filter(|_| text.is_some());
        findings.push(Finding::new(path, line, remark.severity, "model", message, &evidence.unwrap_or_default()));
    }
    match (n_remarks, findings.len()) {
        (1.., 0) => Err("all findings of the model are about files that the change does not have".into()),
        (all, kept) => {
            if kept < all {
                tracing::warn!(dropped = all - kept, "findings about files that the change does not have were dropped");
            }
            Ok(findings)
        }
    }
}
