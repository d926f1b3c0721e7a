//! A change as people read it: files, diff, verdict.

use owo_colors::Style;

use super::{Terminal, bad, faint, good, harmless, strong};

/// Returns a unified diff with colours, line by line.
pub(crate) fn diff(terminal: Terminal, diff: &str) -> Vec<String> {
    diff.lines().map(|line| terminal.paint(harmless(line), style_of(line))).collect()
}

fn style_of(line: &str) -> Style {
    let headers = [
        "diff --git ",
        "index ",
        "--- ",
        "+++ ",
        "new file",
        "deleted file",
        "rename ",
        "similarity ",
        "old mode",
        "new mode",
    ];
    if headers.iter().any(|header| line.starts_with(header)) {
        strong()
    } else if line.starts_with("@@") {
        Style::new().cyan()
    } else if line.starts_with('+') {
        good()
    } else if line.starts_with('-') {
        bad()
    } else {
        faint()
    }
}

/// Returns `+a -b` of a file, or `binary`.
pub(crate) fn counts(terminal: Terminal, added: Option<u64>, removed: Option<u64>) -> String {
    match (added, removed) {
        (Some(added), Some(removed)) => {
            format!("{} {}", terminal.paint(format!("+{added}"), good()), terminal.paint(format!("-{removed}"), bad()))
        }
        _ => "binary".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_diff_is_the_diff() {
        let text = "diff --git a/x b/x\n@@ -1 +1 @@\n-a\n+b";
        assert_eq!(diff(Terminal::plain(), text).join("\n"), text);
    }

    #[test]
    fn a_binary_file_has_no_counts() {
        assert_eq!(counts(Terminal::plain(), None, None), "binary");
        assert_eq!(counts(Terminal::plain(), Some(2), Some(1)), "+2 -1");
    }
}
