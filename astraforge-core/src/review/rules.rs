//! Rules that find what is wrong with a change without any model.

mod debug;
mod files;
mod lines;
mod secrets;

use std::collections::{BTreeMap, HashSet};

use async_trait::async_trait;

use crate::{
    diff::{Diff, FileDiff, Line},
    ports::review::{ReviewError, Reviewer},
    request::change_set::Change,
    review::{Finding, Severity},
};

/// Reviews a change by rules: secrets, conflict markers, debug leftovers, open ends, and files that stand out.
///
/// It looks at added lines only, and passes over those that were merely moved; a secret is found there too.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use astraforge_core::{ports::review::Reviewer, request::change_set::Change, review::rules::RuleReviewer};
///
/// let change = Change {
///     target_branch: "main".into(),
///     branch: "astraforge/1".into(),
///     base_commit: "a".repeat(40),
///     head_commit: "b".repeat(40),
///     head_tree: "c".repeat(40),
///     diff: "diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n@@ -1 +1,2 @@\n a\n+    breakpoint()\n".into(),
///     files: vec![],
/// };
/// let findings = RuleReviewer::default().review(&change).await?;
/// assert_eq!((&*findings[0].rule, findings[0].line), ("debug-leftover", Some(2)));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct RuleReviewer {
    limits: ReviewLimits,
}

/// From where on something is called large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReviewLimits {
    /// Files in a change. Default 50.
    pub files: usize,
    /// Lines added and removed in a change. Default 1500.
    pub lines: u64,
    /// Lines added in one file. Default 800.
    pub lines_in_file: u64,
    /// The size of a file, in bytes. Default 1 MiB.
    pub file_size: u64,
    /// Findings of one rule that are listed one by one; the rest is counted. Default 20.
    pub findings_per_rule: usize,
}

impl Default for ReviewLimits {
    fn default() -> Self {
        Self { files: 50, lines: 1500, lines_in_file: 800, file_size: 1 << 20, findings_per_rule: 20 }
    }
}

impl Default for RuleReviewer {
    fn default() -> Self {
        Self::new(ReviewLimits::default())
    }
}

impl RuleReviewer {
    /// A reviewer with limits of your own.
    #[must_use]
    pub fn new(limits: ReviewLimits) -> Self {
        Self { limits }
    }

    /// Applies every rule.
    fn findings(&self, change: &Change) -> Vec<Finding> {
        let diff = Diff::parse(&change.diff);
        let mut report = Report::default();
        let removed = removed_lines(&diff);
        for file in &diff.files {
            secrets::check(file, &mut report);
            lines::check_conflict_markers(file, &mut report);
            if !is_generated(file.path()) {
                debug::check(file, &removed, &mut report);
                lines::check_open_ends(file, &removed, &mut report);
            }
            files::check_one(file, &self.limits, &mut report);
        }
        files::check_all(change, &diff, &self.limits, &mut report);
        report.into_findings(self.limits.findings_per_rule)
    }
}

#[async_trait]
impl Reviewer for RuleReviewer {
    fn name(&self) -> &str {
        "rules"
    }

    async fn review(&self, change: &Change) -> Result<Vec<Finding>, ReviewError> {
        Ok(self.findings(change))
    }
}

/// Collects findings and tells like ones apart.
#[derive(Default)]
struct Report {
    findings: Vec<Finding>,
    /// How often the same rule found the same evidence in the same file.
    seen: BTreeMap<(String, String, String), usize>,
}

impl Report {
    /// Reports a line. Its text, not its number, makes the fingerprint, so that it stays when lines move.
    fn line(&mut self, file: &FileDiff<'_>, line: &Line<'_>, severity: Severity, rule: &str, message: &str) {
        self.evident(file, line, severity, rule, message, line.text.trim());
    }

    /// Reports a line with evidence other than its text.
    fn evident(
        &mut self,
        file: &FileDiff<'_>,
        line: &Line<'_>,
        severity: Severity,
        rule: &str,
        message: &str,
        evidence: &str,
    ) {
        let key = (rule.to_owned(), file.path().to_owned(), evidence.to_owned());
        let n = self.seen.entry(key).or_default();
        *n += 1;
        let evidence = format!("{evidence}#{n}");
        self.findings.push(Finding::new(file.path(), line.new, severity, rule, message, &evidence));
    }

    /// Reports a whole file.
    fn file(&mut self, path: &str, severity: Severity, rule: &str, message: impl Into<String>) {
        self.findings.push(Finding::new(path, None, severity, rule, message, ""));
    }

    fn into_findings(self, per_rule: usize) -> Vec<Finding> {
        let mut counts = BTreeMap::<String, usize>::new();
        let mut kept: Vec<Finding> = Vec::new();
        let mut last = BTreeMap::<String, Finding>::new();
        for finding in self.findings {
            let count = counts.entry(finding.rule.clone()).or_default();
            *count += 1;
            if *count <= per_rule {
                kept.push(finding);
            } else {
                last.insert(finding.rule.clone(), finding);
            }
        }
        for (rule, finding) in last {
            let n = counts.get(&rule).map_or(0, |count| count - per_rule);
            let message = format!("{n} more findings of this rule are not listed.");
            kept.push(Finding::new(&finding.file, None, finding.severity, &rule, message, "more"));
        }
        kept
    }
}

/// Every removed line of the change; an added line that is among them was moved.
fn removed_lines<'a>(diff: &Diff<'a>) -> HashSet<&'a str> {
    diff.files.iter().flat_map(FileDiff::removed_lines).map(|line| line.text.trim()).collect()
}

/// Tells whether a path is a test's.
fn is_test(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let in_tests = folder.split('/').any(|part| {
        matches!(part, "test" | "tests" | "spec" | "specs" | "__tests__" | "testdata" | "e2e" | "fixtures")
    });
    let stem = name.split('.').next().unwrap_or(name);
    in_tests
        || name.contains(".test.")
        || name.contains(".spec.")
        || stem.starts_with("test_")
        || ["_test", "_tests", "_spec"].iter().any(|end| stem.ends_with(end))
        || (stem.ends_with("Test") || stem.ends_with("Tests")) && !matches!(stem, "Test" | "Tests")
        || name == "tests.rs"
        || name == "conftest.py"
}

/// Tells whether people do not write this file by hand.
fn is_generated(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let in_vendor = path.split('/').any(|part| matches!(part, "vendor" | "node_modules" | "third_party" | "dist"));
    in_vendor
        || name.contains(".min.")
        || name.ends_with(".lock")
        || name.ends_with(".snap")
        || name.ends_with(".map")
        || matches!(name, "package-lock.json" | "pnpm-lock.yaml" | "go.sum" | "npm-shrinkwrap.json")
}

/// Returns what stands behind the last dot of a file's name, in lower case.
fn extension(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map_or_else(String::new, |(_, extension)| extension.to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
