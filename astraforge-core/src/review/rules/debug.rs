//! Debug leftovers, language by language.

use std::{collections::HashSet, sync::LazyLock};

use regex::Regex;

use super::{Report, extension, is_test};
use crate::{diff::FileDiff, review::Severity};

/// Where a leftover is one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Anywhere,
    /// Printing is what tests, scripts and command lines may do.
    ProductOnly,
    TestsOnly,
}

struct Leftover {
    extensions: &'static [&'static str],
    pattern: Regex,
    place: Place,
    severity: Severity,
    message: &'static str,
}

const SCRIPTS: &[&str] = &["js", "jsx", "ts", "tsx", "mjs", "cjs", "mts", "cts", "vue", "svelte"];

static LEFTOVERS: LazyLock<Vec<Leftover>> = LazyLock::new(|| {
    use Place::{Anywhere, ProductOnly, TestsOnly};
    use Severity::{Info, Warning};
    const STOPS: &str = "A debugger stop was left in: it halts the program. Remove it.";
    const ONLY: &str = "`only` makes the runner skip every other test. Remove it.";
    [
        (SCRIPTS, r"^\s*debugger\s*;?\s*$", Anywhere, Warning, STOPS),
        (
            SCRIPTS,
            r"\bconsole\.(?:log|debug|trace|dir)\(",
            ProductOnly,
            Info,
            "A console print was added. Remove it if it was for debugging.",
        ),
        (SCRIPTS, r"\b(?:describe|context|suite|it|test)\.only\(|^\s*(?:fdescribe|fit)\(", TestsOnly, Warning, ONLY),
        (&["rs"][..], r"\bdbg!\(", Anywhere, Warning, "`dbg!` was left in: it prints on every call. Remove it."),
        (&["py"], r"^\s*(?:breakpoint\(\)|i?pdb\.set_trace\(|import i?pdb\b)", Anywhere, Warning, STOPS),
        (
            &["py"],
            r#"^\s*print\(f?["'](?:(?i:debug|here|xxx|todo|test)\b|[>*=#-]{3})"#,
            Anywhere,
            Info,
            "A print for debugging seems to be left in. Remove it.",
        ),
        (&["rb"], r"\bbinding\.(?:pry|irb)\b|^\s*byebug\b", Anywhere, Warning, STOPS),
        (&["rb"], r#"\b(?:focus: true|fit |fdescribe |fcontext )"#, TestsOnly, Warning, ONLY),
        (
            &["php"],
            r"\b(?:var_dump|dd|xdebug_break)\(",
            ProductOnly,
            Warning,
            "A dump for debugging was left in. Remove it.",
        ),
        (
            &["java", "kt"],
            r"\.printStackTrace\(\)",
            ProductOnly,
            Info,
            "A stack trace is printed, not logged or passed on.",
        ),
        (&["ex", "exs"], r"\bIEx\.pry\b", Anywhere, Warning, STOPS),
    ]
    .into_iter()
    .filter_map(|(extensions, pattern, place, severity, message)| {
        Some(Leftover { extensions, pattern: Regex::new(pattern).ok()?, place, severity, message })
    })
    .collect()
});

pub(super) fn check(file: &FileDiff<'_>, moved: &HashSet<&str>, report: &mut Report) {
    let path = file.path();
    let extension = extension(path);
    let applies = |leftover: &&Leftover| {
        leftover.extensions.contains(&extension.as_str())
            && match leftover.place {
                Place::Anywhere => true,
                Place::ProductOnly => !is_test(path) && !may_print(path),
                Place::TestsOnly => is_test(path),
            }
    };
    let leftovers: Vec<_> = LEFTOVERS.iter().filter(applies).collect();
    for line in file.added_lines() {
        if is_comment(line.text) || moved.contains(line.text.trim()) {
            continue;
        }
        if let Some(found) = leftovers.iter().find(|leftover| leftover.pattern.is_match(line.text)) {
            report.line(file, line, found.severity, "debug-leftover", found.message);
        }
    }
}

fn may_print(path: &str) -> bool {
    let tells = |part: &str| matches!(part, "bin" | "cli" | "scripts" | "script" | "tools" | "examples" | "benches");
    path.split('/').any(|part| tells(part) || part.split('.').next().is_some_and(tells))
}

fn is_comment(text: &str) -> bool {
    let text = text.trim_start();
    ["//", "#", "*", "/*", "--", "<!--"].iter().any(|start| text.starts_with(start))
}
