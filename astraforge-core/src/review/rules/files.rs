//! Files that stand out: large, binary or executable ones; and code without a test.

use super::{Report, ReviewLimits, extension, is_generated, is_test};
use crate::{
    diff::{Diff, FileDiff},
    request::change_set::{Change, ChangeKind},
    review::Severity,
};

/// Looks at one file of the diff.
pub(super) fn check_one(file: &FileDiff<'_>, limits: &ReviewLimits, report: &mut Report) {
    let path = file.path();
    if file.is_binary && file.kind == ChangeKind::Added {
        let severity = if is_asset(path) { Severity::Info } else { Severity::Warning };
        let message = "A binary file was added, which nobody can review. Check where it comes from.";
        report.file(path, severity, "binary-added", message);
    }
    if file.new_mode == Some("100755") && file.old_mode != Some("100755") && !begins_with_shebang(file) {
        let message = "The file became executable, but it does not begin with `#!`. Is that meant?";
        report.file(path, Severity::Info, "executable-bit", message);
    }
    let added = file.added_lines().count() as u64;
    if added > limits.lines_in_file && !is_generated(path) {
        let message = format!("{added} lines were added to one file; consider to split it.");
        report.file(path, Severity::Info, "large-file", message);
    }
}

/// Looks at the change as a whole.
pub(super) fn check_all(change: &Change, diff: &Diff<'_>, limits: &ReviewLimits, report: &mut Report) {
    for file in change.files.iter().filter(|file| file.size > limits.file_size && file.kind != ChangeKind::Deleted) {
        let message = format!("The file has {} KiB. Large files stay in the history for ever.", file.size / 1024);
        report.file(&file.path, Severity::Warning, "large-file", message);
    }
    check_size(diff, limits, report);
    check_tests(diff, report);
}

fn check_size(diff: &Diff<'_>, limits: &ReviewLimits, report: &mut Report) {
    let written: Vec<_> = diff.files.iter().filter(|file| !is_generated(file.path())).collect();
    let changed = |file: &&FileDiff<'_>| (file.added_lines().count() + file.removed_lines().count()) as u64;
    let n_lines: u64 = written.iter().map(changed).sum();
    if written.len() > limits.files || n_lines > limits.lines {
        let first = written.first().map(|file| file.path()).unwrap_or_default();
        let message = format!(
            "The change has {n_lines} lines in {} files, too much to read with care. Consider smaller steps.",
            written.len()
        );
        report.file(first, Severity::Warning, "large-change", message);
    }
}

fn check_tests(diff: &Diff<'_>, report: &mut Report) {
    if diff.files.iter().any(|file| is_test(file.path()) || tests_itself(file)) {
        return;
    }
    let adds_code = |file: &&FileDiff<'_>| {
        is_code(file.path())
            && !is_generated(file.path())
            && file.added_lines().any(|line| !line.text.trim().is_empty())
    };
    if let Some(file) = diff.files.iter().find(adds_code) {
        let message = "Code changes, but no test does. Add one that fails without this change.";
        report.file(file.path(), Severity::Info, "no-test", message);
    }
}

/// Some languages keep their tests in the file itself.
fn tests_itself(file: &FileDiff<'_>) -> bool {
    const BEGINS: [&str; 4] = ["#[test]", "#[cfg(test)]", "#[rstest", ">>> "];
    const HOLDS: [&str; 2] = ["::test]", "::test("];
    file.added_lines()
        .map(|line| line.text.trim())
        .any(|text| BEGINS.iter().any(|sign| text.starts_with(sign)) || HOLDS.iter().any(|sign| text.contains(sign)))
}

fn begins_with_shebang(file: &FileDiff<'_>) -> bool {
    match file.lines().find(|line| line.new == Some(1)) {
        Some(line) => line.text.starts_with("#!"),
        // The first line is not shown: an old file of which only the mode changes.
        None => {
            file.kind != ChangeKind::Added
                && matches!(extension(file.path()).as_str(), "" | "sh" | "bash" | "py" | "pl" | "rb")
        }
    }
}

fn is_asset(path: &str) -> bool {
    const ASSETS: [&str; 14] =
        ["png", "jpg", "jpeg", "gif", "webp", "avif", "ico", "svg", "woff", "woff2", "ttf", "otf", "pdf", "mp4"];
    ASSETS.contains(&extension(path).as_str())
}

fn is_code(path: &str) -> bool {
    const CODE: [&str; 26] = [
        "rs", "py", "js", "jsx", "ts", "tsx", "mjs", "cjs", "go", "java", "kt", "scala", "rb", "php", "c", "h", "cc",
        "cpp", "hpp", "cs", "swift", "ex", "exs", "clj", "vue", "svelte",
    ];
    CODE.contains(&extension(path).as_str())
}
