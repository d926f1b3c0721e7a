//! Redaction: takes secrets out of texts before they are stored.

use std::{
    fmt,
    sync::{Arc, LazyLock, RwLock},
};

use regex::Regex;

use crate::repository::Secret;

/// What stands where a secret stood.
pub const MASK: &str = "[redacted]";

/// Shapes of well-known credentials.
static SHAPES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
        r"\bsk-[A-Za-z0-9_-]{20,}",                                  // OpenAI and others
        r"|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}", // GitHub
        r"|glpat-[A-Za-z0-9_-]{20,}",                                // GitLab
        r"|A(?:KIA|SIA)[0-9A-Z]{16}",                                // AWS
        r"|xox[abprs]-[A-Za-z0-9-]{10,}",                            // Slack
        r"|af[kr]_[A-Za-z0-9_-]{30,}",                               // our own API keys and run tokens
        r"|-----BEGIN [A-Z ]*PRIVATE KEY-----",                      // PEM
    ))
    .ok()
});

/// Finds known secrets, and the shapes of well-known credentials.
///
/// ```
/// use astraforge_core::{redact::Redactor, repository::Secret};
///
/// let redactor = Redactor::default();
/// let _known = redactor.learn(Secret::new("hunter2-hunter2"));
/// assert_eq!(redactor.redact("the key is hunter2-hunter2."), "the key is [redacted].");
/// ```
#[derive(Clone, Default)]
pub struct Redactor {
    known: Arc<RwLock<Vec<Known>>>,
}

/// One form in which a secret may be written.
struct Known {
    secret: Arc<Secret>,
    form: String,
}

impl Redactor {
    /// The shortest text that is taken for a secret; shorter ones would blank ordinary words.
    pub const SHORTEST: usize = 8;

    /// Learns a secret for as long as the returned guard lives: as it is, as JSON has it, and line by line, because
    /// what programs print is written line by line.
    #[must_use = "the secret is forgotten when the guard is dropped"]
    pub fn learn(&self, secret: Secret) -> KnownSecret {
        let secret = Arc::new(secret);
        let forms: Vec<_> = forms(secret.reveal()).filter(|form| form.len() >= Self::SHORTEST).collect();
        self.write(|known| {
            known.extend(forms.into_iter().map(|form| Known { secret: secret.clone(), form }));
            // Longer ones first, so that a secret within another leaves no rest.
            known.sort_by_key(|known| std::cmp::Reverse(known.form.len()));
        });
        KnownSecret { redactor: self.clone(), secret }
    }

    /// Returns `text` with every secret that was learned blanked, and nothing else: for texts that a program reads.
    #[must_use]
    pub fn redact_known(&self, text: &str) -> String {
        let mut text = text.to_owned();
        self.read(|known| {
            for Known { form, .. } in known {
                if text.contains(form) {
                    text = text.replace(form, MASK);
                }
            }
        });
        text
    }

    /// Returns `text` with every secret blanked, and all that has the shape of one.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        let text = self.redact_known(text);
        match SHAPES.as_ref() {
            Some(shapes) => shapes.replace_all(&text, MASK).into_owned(),
            None => text,
        }
    }

    /// Tells whether `text` holds a secret that was learned.
    #[must_use]
    pub fn knows_secret_in(&self, text: &str) -> bool {
        let mut found = false;
        self.read(|known| found = known.iter().any(|known| text.contains(&known.form)));
        found
    }

    fn read(&self, look: impl FnOnce(&[Known])) {
        look(&self.known.read().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    fn write(&self, change: impl FnOnce(&mut Vec<Known>)) {
        change(&mut self.known.write().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

/// The forms in which a secret may be written.
fn forms(secret: &str) -> impl Iterator<Item = String> {
    let json = serde_json::to_string(secret).unwrap_or_default();
    let json = json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap_or_default().to_owned();
    let lines = secret.lines().map(|line| line.trim().to_owned());
    let mut forms: Vec<_> = [secret.to_owned(), json].into_iter().chain(lines).collect();
    forms.sort();
    forms.dedup();
    forms.into_iter()
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

/// Keeps a secret known to its redactor.
#[derive(Debug)]
pub struct KnownSecret {
    redactor: Redactor,
    secret: Arc<Secret>,
}

impl Drop for KnownSecret {
    fn drop(&mut self) {
        self.redactor.write(|known| known.retain(|known| !Arc::ptr_eq(&known.secret, &self.secret)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_shape(text: &str) {
        let redacted = Redactor::default().redact(&format!("before {text} after"));
        assert!(redacted.starts_with("before ") && !redacted.contains(text), "{redacted}");
    }

    #[test]
    fn well_known_credentials_are_blanked() {
        check_shape(concat!("sk-", "proj-abcdefghijklmnopqrstuvwx"));
        check_shape(concat!("ghp_", "abcdefghijklmnopqrstuvwxyz0123456789"));
        check_shape(concat!("glpat-", "abcdefghijklmnopqrst"));
        check_shape(concat!("AKIA", "ABCDEFGHIJKLMNOP"));
        check_shape(concat!("-----BEGIN RSA ", "PRIVATE KEY-----"));
    }

    #[test]
    fn ordinary_words_stay() {
        let text = "a task-list, sk-short, AKIA is a prefix; commit 0123456789abcdef0123456789abcdef01234567";
        assert_eq!(Redactor::default().redact(text), text);
    }

    #[test]
    fn words_that_only_end_like_a_credential_stay() {
        let text = "see risk-assessment-of-the-loader-cache.md";
        assert_eq!(Redactor::default().redact(text), text);
    }

    #[test]
    fn a_secret_is_known_in_json_and_line_by_line() {
        let redactor = Redactor::default();
        let guard = redactor.learn(Secret::new("first \"line\" of it\nand the second\n"));
        let json = serde_json::json!({ "output": "first \"line\" of it\nand the second\n" }).to_string();
        assert_eq!(redactor.redact_known(&json), r#"{"output":"[redacted]"}"#);
        assert_eq!(redactor.redact("  and the second"), "  [redacted]");
        assert_eq!(redactor.redact("first \"line\" of it"), MASK);
        drop(guard);
        assert!(!redactor.knows_secret_in("and the second"));
    }

    #[test]
    fn a_secret_is_forgotten_with_its_guard() {
        let redactor = Redactor::default();
        let guard = redactor.learn(Secret::new("correct horse"));
        assert!(redactor.knows_secret_in("the correct horse battery"));
        drop(guard);
        assert!(!redactor.knows_secret_in("the correct horse battery"));
    }

    #[test]
    fn a_secret_within_another_leaves_no_rest() {
        let redactor = Redactor::default();
        let _short = redactor.learn(Secret::new("password"));
        let _long = redactor.learn(Secret::new("password-of-the-house"));
        assert_eq!(redactor.redact("password-of-the-house"), MASK);
    }

    #[test]
    fn texts_too_short_for_a_secret_are_not_blanked() {
        let redactor = Redactor::default();
        let _guard = redactor.learn(Secret::new("abc"));
        assert_eq!(redactor.redact("abc"), "abc");
    }
}
