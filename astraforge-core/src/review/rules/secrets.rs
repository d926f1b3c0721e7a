//! Secrets in added lines. No message, and no fingerprint, holds one.

use std::sync::LazyLock;

use regex::Regex;

use super::{Report, is_generated, is_test};
use crate::{diff::FileDiff, redact::Redactor, review::Severity};

/// A literal given to something that is named like a credential.
static ASSIGNED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r#"(?i)(?:password|passwd|secret|api_?key|apikey|access_?token|auth_?token|private_?key)["']?"#,
        r#"\s*(?::|=|:=|=>)\s*["'](?P<value>[^"'\s]{8,})["']"#,
    ))
    .ok()
});

/// A user and a password in a URL.
static IN_URL: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"[a-z][a-z0-9+.-]*://[^/\s:@"']+:(?P<value>[^/\s:@"']{3,})@"#).ok());

/// What stands where a secret will be put.
static PLACEHOLDER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)^(?:[x*.<>_-]+|\$.*|.*\$\{.*|%.*%|<.*>|\{.*\}|your[_-].*|.*example.*|.*change[_-]?me.*|.*placeholder.*",
        r"|.*dummy.*|password|passw0rd|secret|hunter2|process\.env.*|os\.environ.*)$"
    ))
    .ok()
});

pub(super) fn check(file: &FileDiff<'_>, report: &mut Report) {
    let redactor = Redactor::default();
    let path = file.path();
    for line in file.added_lines() {
        let masked = redactor.redact(line.text);
        if masked != line.text {
            const MESSAGE: &str = "This line holds what looks like a credential. Take it out, revoke it at its issuer \
                                   (it is in the history of the branch), and read it from the environment instead.";
            report.evident(file, line, Severity::Error, "secret", MESSAGE, masked.trim());
        } else if !is_test(path) && !is_generated(path) && holds_password(line.text) {
            const MESSAGE: &str = "A password or key seems to be written into the code. If it is real, take it out, \
                                   change it, and read it from the environment instead.";
            // The text would make the fingerprint a guess away from a weak password.
            report.evident(file, line, Severity::Warning, "secret", MESSAGE, &before_value(line.text));
        }
    }
}

fn holds_password(text: &str) -> bool {
    value(text).is_some_and(|value| PLACEHOLDER.as_ref().is_some_and(|pattern| !pattern.is_match(value)))
}

fn value(text: &str) -> Option<&str> {
    let find = |pattern: &'static LazyLock<Option<Regex>>| {
        let found = pattern.as_ref()?.captures(text)?;
        found.name("value").map(|value| value.as_str())
    };
    find(&ASSIGNED).or_else(|| find(&IN_URL))
}

fn before_value(text: &str) -> String {
    match value(text) {
        Some(value) => text.trim().replace(value, ""),
        None => String::new(),
    }
}
