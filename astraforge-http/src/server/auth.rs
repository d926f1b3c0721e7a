//! API keys: made of 32 random bytes, stored as a hash.

use astraforge_core::repository::Secret;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

/// What a key begins with, so that people and secret scanners know one when they see it.
const PREFIX: &str = "afk_";

/// Makes an API key, and the hash that is stored in its place.
///
/// # Errors
/// [`MintError`] when the operating system has no random numbers.
///
/// ```
/// use astraforge_http::mint_api_key;
///
/// let (key, hash) = mint_api_key()?;
/// assert!(key.reveal().starts_with("afk_"));
/// assert_eq!(hash.len(), 64);
/// # Ok::<(), astraforge_http::server::auth::MintError>(())
/// ```
pub fn mint_api_key() -> Result<(Secret, String), MintError> {
    let key = format!("{PREFIX}{}", random_text()?.reveal());
    let hash = hash_api_key(&key);
    Ok((Secret::new(key), hash))
}

/// What a key begins with, for people to know it by. What follows is too long to be guessed.
///
/// ```
/// # use astraforge_core::repository::Secret;
/// use astraforge_http::server::auth::prefix_of;
///
/// assert_eq!(prefix_of(&Secret::new("afk_3xYz0Q1bKJ9")), "afk_3xYz0Q1b");
/// ```
#[must_use]
pub fn prefix_of(key: &Secret) -> String {
    key.reveal().chars().take(PREFIX.len() + 8).collect()
}

/// A text that nobody guesses: 32 random bytes.
pub(super) fn random_text() -> Result<Secret, MintError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(MintError)?;
    Ok(Secret::new(BASE64_URL_SAFE_NO_PAD.encode(bytes)))
}

/// The hash that stands for a key in the store: SHA-256, in hexadecimal. Keys are random, so no salt is needed.
#[must_use]
pub fn hash_api_key(key: &str) -> String {
    format!("{:x}", Sha256::digest(key.as_bytes()))
}

/// No key could be made.
#[derive(Debug, thiserror::Error)]
#[error("the operating system has no random numbers: {0}")]
pub struct MintError(getrandom::Error);

#[cfg(test)]
mod tests {
    use astraforge_core::redact::{MASK, Redactor};

    use super::*;

    #[test]
    fn a_key_has_43_random_characters_after_its_prefix() {
        let (key, hash) = mint_api_key().unwrap();
        let random = key.reveal().strip_prefix(PREFIX).unwrap();
        assert_eq!(random.len(), 43);
        assert!(random.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_'));
        assert_eq!(hash, hash_api_key(key.reveal()));
        assert_ne!(mint_api_key().unwrap().0, key);
    }

    #[test]
    fn a_hash_is_the_sha_256_of_the_whole_key() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash_api_key("abc"), abc);
    }

    #[test]
    fn the_redactor_knows_a_key_by_its_shape() {
        let (key, _) = mint_api_key().unwrap();
        assert_eq!(Redactor::default().redact(key.reveal()), MASK);
    }
}
