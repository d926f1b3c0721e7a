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
        r"sk-[A-Za-z0-9_-]{20,}",                                    // OpenAI and others
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
    known: Arc<RwLock<Vec<Arc<Secret>>>>,
}

impl Redactor {
    /// The shortest text that is taken for a secret; shorter ones would blank ordinary words.
    pub const SHORTEST: usize = 8;

    /// Learns a secret for as long as the returned guard lives.
    #[must_use = "the secret is forgotten when the guard is dropped"]
    pub fn learn(&self, secret: Secret) -> KnownSecret {
        let secret = Arc::new(secret);
        if secret.reveal().len() >= Self::SHORTEST {
            self.write(|known| {
                known.push(secret.clone());
                // Longer ones first, so that a secret within another leaves no rest.
                known.sort_by_key(|s| std::cmp::Reverse(s.reveal().len()));
            });
        }
        KnownSecret { redactor: self.clone(), secret }
    }

    /// Returns `text` with every secret blanked.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        self.read(|known| {
            for secret in known {
                if text.contains(secret.reveal()) {
                    text = text.replace(secret.reveal(), MASK);
                }
            }
        });
        match SHAPES.as_ref() {
            Some(shapes) => shapes.replace_all(&text, MASK).into_owned(),
            None => text,
        }
    }

    /// Tells whether `text` holds a secret that was learned.
    #[must_use]
    pub fn knows_secret_in(&self, text: &str) -> bool {
        let mut found = false;
        self.read(|known| found = known.iter().any(|secret| text.contains(secret.reveal())));
        found
    }

    fn read(&self, look: impl FnOnce(&[Arc<Secret>])) {
        look(&self.known.read().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    fn write(&self, change: impl FnOnce(&mut Vec<Arc<Secret>>)) {
        change(&mut self.known.write().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
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
        self.redactor.write(|known| known.retain(|secret| !Arc::ptr_eq(secret, &self.secret)));
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
