//! Conflict markers, and open ends such as TODO.

use std::{collections::HashSet, sync::LazyLock};

use regex::Regex;

use super::{Report, extension};
use crate::{diff::FileDiff, review::Severity};

/// Reports each place where a conflict begins, and ends that have no beginning.
///
/// A row of `=======` alone is none: texts underline their headings so.
pub(super) fn check_conflict_markers(file: &FileDiff<'_>, report: &mut Report) {
    const MESSAGE: &str = "A conflict marker was left in. Resolve the conflict and remove its markers.";
    let extension = extension(file.path());
    if matches!(extension.as_str(), "diff" | "patch") {
        return;
    }
    // Texts show markers as examples; code that holds one does not even parse.
    let is_text = matches!(extension.as_str(), "md" | "rst" | "txt" | "adoc");
    let severity = if is_text { Severity::Warning } else { Severity::Error };
    let mut n_open = 0_usize;
    for line in file.added_lines() {
        if is_marker(line.text, '<') {
            n_open += 1;
            report.line(file, line, severity, "conflict-marker", MESSAGE);
        } else if is_marker(line.text, '>') {
            if n_open == 0 {
                report.line(file, line, severity, "conflict-marker", MESSAGE);
            }
            n_open = n_open.saturating_sub(1);
        }
    }
}

/// Seven signs, and then the name of a side. Eight `>` are a quotation, none are a shift.
fn is_marker(text: &str, sign: char) -> bool {
    let rest = text.trim_start_matches(sign);
    text.len() - rest.len() == 7 && rest.starts_with(' ') && !rest.trim().is_empty()
}

static OPEN_END: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?:^\s*|//|#|/\*|\*|--|<!--|;|%)\s*(TODO|FIXME|XXX|HACK)\b").ok());

/// Reports open ends that this change adds.
pub(super) fn check_open_ends(file: &FileDiff<'_>, moved: &HashSet<&str>, report: &mut Report) {
    let Some(pattern) = OPEN_END.as_ref() else { return };
    for line in file.added_lines() {
        let Some(found) = pattern.captures(line.text).and_then(|found| found.get(1)) else { continue };
        if !moved.contains(line.text.trim()) {
            let message = format!("This adds a {}: finish it here, or point to where it is tracked.", found.as_str());
            report.line(file, line, Severity::Info, "open-end", &message);
        }
    }
}
