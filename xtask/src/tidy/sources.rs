//! Rules of the sources: names, sizes, the opening line, an example on every crate's front page.

use super::{Finding, TextFile};

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 7] =
    ["utils.rs", "util.rs", "helpers.rs", "helper.rs", "common.rs", "types.rs", "manager.rs"];

/// More than this is more than one purpose.
const MAX_LINES: usize = 600;

/// Checks every Rust source.
pub(crate) fn check(files: &[TextFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.is("rs")) {
        findings.extend(broken(file).into_iter().map(|message| Finding::new(&file.path, message)));
    }
    findings
}

fn broken(file: &TextFile) -> Vec<String> {
    let mut messages = Vec::new();
    if file.name() == "mod.rs" {
        messages.push("name it after the module, beside its folder".to_owned());
    }
    if EMPTY_NAMES.contains(&file.name()) {
        messages.push("name it after what is inside".to_owned());
    }
    if !file.text.starts_with("//! ") {
        messages.push("open with a `//!` line that says its one purpose".to_owned());
    }
    let n_lines = lines_outside_tests(file);
    if n_lines > MAX_LINES {
        messages.push(format!("has {n_lines} lines outside tests, more than {MAX_LINES}: give a part its own file"));
    }
    if file.path.ends_with("src/lib.rs") && !has_running_example(&file.text) {
        messages.push("show the crate's use in a running example in its `//!` documentation".to_owned());
    }
    messages
}

fn lines_outside_tests(file: &TextFile) -> usize {
    if file.path.components().any(|part| part.as_os_str() == "tests") {
        return 0;
    }
    let lines: Vec<&str> = file.text.lines().collect();
    let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod "));
    tests.unwrap_or(lines.len())
}

/// Whether the crate's documentation has a code block that rustdoc at least compiles.
fn has_running_example(text: &str) -> bool {
    let documentation = text.lines().filter_map(|line| line.strip_prefix("//!")).map(str::trim);
    let mut fences = documentation.filter_map(|line| line.strip_prefix("```"));
    while let Some(opening) = fences.next() {
        if ["", "rust", "no_run", "rust,no_run"].contains(&opening) {
            return true;
        }
        fences.next();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{TextFile, broken};

    #[track_caller]
    fn check(path: &str, text: &str, expected: &[&str]) {
        let messages = broken(&TextFile { path: path.into(), text: text.to_owned() });
        assert_eq!(messages.len(), expected.len(), "{messages:?}");
        for (message, part) in messages.iter().zip(expected) {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_source_has_a_name_a_purpose_and_a_size() {
        check("core/src/run.rs", "//! Runs.\n", &[]);
        check("core/src/run.rs", "use x;\n", &["open with"]);
        check("core/src/run/mod.rs", "//! Runs.\n", &["name it after the module"]);
        check("core/src/utils.rs", "//! Things.\n", &["what is inside"]);
        let long = format!("//! Runs.\n{}", "\n".repeat(600));
        check("core/src/run.rs", &long, &["has 601 lines"]);
        check("core/tests/it/run.rs", &long, &[]);
        check("core/src/run.rs", &format!("//! Runs.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(700)), &[]);
    }

    #[test]
    fn a_front_page_shows_an_example_that_compiles() {
        check("core/src/lib.rs", "//! Core.\n//!\n//! ```\n//! use core;\n//! ```\n", &[]);
        check("core/src/lib.rs", "//! Core.\n//!\n//! ```no_run\n//! use core;\n//! ```\n", &[]);
        check("core/src/lib.rs", "//! Core.\n", &["running example"]);
        check("core/src/lib.rs", "//! Core.\n//! ```text\n//! picture\n//! ```\n", &["running example"]);
        check("core/src/lib.rs", "//! Core.\n//! ```ignore\n//! use core;\n//! ```\n", &["running example"]);
    }
}
