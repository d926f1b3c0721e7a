//! Passwords: hashed slowly, a few at a time, and not tried again and again.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use astraforge_core::repository::Secret;
use tokio::sync::Semaphore;

/// How many passwords are hashed at the same time: each takes 19 MiB and a processor.
const AT_ONCE: usize = 2;
/// How many wrong passwords in a row cost nothing.
const FREE: u32 = 5;
/// The longest pause after a wrong password. Whoever tries passwords for somebody else's name keeps them waiting no longer.
const LONGEST: Duration = Duration::from_secs(60);
/// After how long wrong passwords are forgotten.
const FORGOTTEN: Duration = Duration::from_secs(900);
/// How many may wait for their password to be hashed.
const WAITING: usize = 64;
/// How many names are remembered that had wrong passwords.
const REMEMBERED: usize = 10_000;

/// A password could not be hashed or checked.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Too many wait for that already.
    #[error("too many passwords are being checked")]
    Busy,
    /// Something of the system failed.
    #[error("a password could not be hashed: {0}")]
    Failed(String),
}

/// Hashes a password with Argon2id and a salt of its own, as a text that says how. It takes some tens of milliseconds of
/// a processor.
///
/// # Errors
/// [`PasswordError`] when the operating system has no random numbers.
pub fn hash_password(password: &Secret) -> Result<String, PasswordError> {
    let hashed = Argon2::default().hash_password(password.reveal().as_bytes());
    hashed.map(|hash: PasswordHash| hash.to_string()).map_err(|error| PasswordError::Failed(error.to_string()))
}

/// Hashes and checks passwords. Clones share its limits.
#[derive(Debug, Clone)]
pub(super) struct Passwords {
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    wrong: Arc<Mutex<HashMap<String, Wrong>>>,
}

/// Wrong passwords in a row for one name.
#[derive(Debug, Clone, Copy)]
struct Wrong {
    n: u32,
    last: Instant,
}

impl Wrong {
    /// How long after the last one the next may come.
    fn pause(self) -> Duration {
        match self.n.checked_sub(FREE) {
            None => Duration::ZERO,
            Some(more) => Duration::from_secs(2_u64.saturating_pow(more)).min(LONGEST),
        }
    }
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Arc::new(Semaphore::new(WAITING)),
            wrong: Arc::default(),
        }
    }
}

impl Passwords {
    /// Hashes a new password.
    pub(super) async fn hash(&self, password: Secret) -> Result<String, PasswordError> {
        self.slowly(move || hash_password(&password)).await?
    }

    /// Counts an attempt at the password of `name`, as a wrong one until it proves right; or tells how much longer nobody
    /// may try.
    pub(super) fn begin_attempt(&self, name: &str) -> Result<(), Duration> {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.len() >= REMEMBERED {
            wrong.retain(|_, it| it.last.elapsed() < LONGEST);
        }
        if wrong.len() >= REMEMBERED && !wrong.contains_key(name) {
            // Somebody tries all names there are; those that have come often matter more.
            wrong.retain(|_, it| it.n > 1);
        }
        let it = wrong.get(name).copied().filter(|it| it.last.elapsed() < FORGOTTEN);
        let left = it.and_then(|it| it.pause().checked_sub(it.last.elapsed())).filter(|left| !left.is_zero());
        if let Some(left) = left {
            return Err(left);
        }
        let n = it.map_or(0, |it| it.n).saturating_add(1);
        wrong.insert(name.to_owned(), Wrong { n, last: Instant::now() });
        Ok(())
    }

    /// Tells whether a password is that of `hash`. Without one it takes as long, and is not.
    pub(super) async fn check(
        &self,
        name: &str,
        password: Secret,
        hash: Option<String>,
    ) -> Result<bool, PasswordError> {
        // A hash that nobody has the password of.
        static NOBODY: LazyLock<Option<String>> =
            LazyLock::new(|| hash_password(&Secret::new(format!("{:?}", Instant::now()))).ok());
        // Who comes from an identity provider only has none either.
        let hash = hash.filter(|hash| !hash.is_empty());
        let is_known = hash.is_some();
        let is_right = self
            .slowly(move || {
                let Some(hash) = hash.or_else(|| NOBODY.clone()) else { return false };
                let hash = PasswordHash::new(&hash);
                hash.is_ok_and(|hash| Argon2::default().verify_password(password.reveal().as_bytes(), &hash).is_ok())
            })
            .await?
            && is_known;
        if is_right {
            self.wrong.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        }
        Ok(is_right)
    }

    async fn slowly<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PasswordError> {
        let failed = |error: &dyn std::fmt::Display| PasswordError::Failed(error.to_string());
        let _waits = self.waiting.try_acquire().map_err(|_| PasswordError::Busy)?;
        let turn = self.turns.clone().acquire_owned().await.map_err(|error| failed(&error))?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        done.await.map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_passwords_cost_more_and_more_time() {
        let pause = |n| Wrong { n, last: Instant::now() }.pause().as_secs();
        assert_eq!([1, 4, 5, 6, 10, 11, 12, 4_000_000_000].map(pause), [0, 0, 1, 2, 32, 60, 60, 60]);
    }

    #[test]
    fn attempts_are_counted_before_they_are_made() {
        let passwords = Passwords::default();
        let begun = (0..100).filter(|_| passwords.begin_attempt("mira").is_ok()).count();
        assert_eq!(begun, 5, "however many come at once");
        assert!(passwords.begin_attempt("ada").is_ok());
    }

    #[tokio::test]
    async fn a_password_is_right_or_wrong_and_the_right_one_ends_the_count() {
        let passwords = Passwords::default();
        let hash = passwords.hash(Secret::new("correct horse")).await.unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        let check = async |text: &str, hash: Option<&String>| {
            passwords.check("mira", Secret::new(text), hash.cloned()).await.unwrap()
        };
        for _ in 0..4 {
            passwords.begin_attempt("mira").unwrap();
        }
        assert!(!check("correct horse ", Some(&hash)).await, "every character counts");
        assert!(!check("correct horse", None).await);
        assert!(!check("", Some(&String::new())).await, "an account without a password has not the empty one");
        assert!(check("correct horse", Some(&hash)).await);
        assert_eq!((0..100).filter(|_| passwords.begin_attempt("mira").is_ok()).count(), 5);
    }

    #[tokio::test]
    async fn no_more_wait_than_can_be_served_soon() {
        let passwords = Passwords::default();
        let checks = (0..200).map(|_| passwords.hash(Secret::new("correct horse")));
        let done = futures::future::join_all(checks).await;
        let busy = done.iter().filter(|it| matches!(it, Err(PasswordError::Busy))).count();
        assert_eq!(busy, 200 - WAITING);
    }
}
