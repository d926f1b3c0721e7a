//! The port for large objects: bundles, rollouts, attachments, snapshots.

use std::{fmt, path::PathBuf};

use async_trait::async_trait;
use bytes::Bytes;

use futures::stream::BoxStream;

use crate::BoxError;

/// Bytes as they come. An error is the last item.
pub type ArtifactStream = BoxStream<'static, Result<Bytes, BoxError>>;

/// Keeps bytes under keys such as `rollouts/REQUEST/RUN.jsonl`.
///
/// # Contract
/// `put` replaces, and a reader sees the old or the new bytes, never a part. Keys have no `..` and no leading `/`.
#[async_trait]
pub trait ArtifactStore: fmt::Debug + Send + Sync + 'static {
    /// Stores bytes.
    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ArtifactError>;
    /// Reads bytes; `None` when there are none under that key.
    async fn get(&self, key: &str) -> Result<Option<Bytes>, ArtifactError>;
    /// Stores bytes as they come and returns their number. Until the stream has ended well, readers see what was there
    /// before; an error in it stores nothing.
    async fn put_stream(&self, key: &str, bytes: ArtifactStream) -> Result<u64, ArtifactError>;
    /// Reads bytes as they are wanted; `None` when there are none under that key.
    async fn get_stream(&self, key: &str) -> Result<Option<ArtifactStream>, ArtifactError>;
    /// Removes bytes; a key that holds none is `Ok(())`.
    async fn delete(&self, key: &str) -> Result<(), ArtifactError>;
    /// The keys that hold bytes and whose text begins with `prefix`, in the order of their bytes; all of them for `""`.
    /// A prefix may end within a part: `a/b` finds `a/b`, `a/b/c` and `a/bc`. What is still being written is not told,
    /// and what is stored or removed meanwhile may be told or not.
    ///
    /// # Errors
    /// Also when no key can begin with `prefix`; see [`check_prefix`].
    async fn list(&self, prefix: &str) -> Result<Vec<String>, ArtifactError>;

    /// Where the bytes of a key lie, or would, for people: it is told, and never opened.
    fn place(&self, key: &str) -> Place {
        Place::Key(key.to_owned())
    }
}

/// Where bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file of the store's machine.
    File(PathBuf),
    /// Under a key, in a bucket for instance.
    Key(String),
}

/// The artifact store failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {operation} artifact `{key}`")]
pub struct ArtifactError {
    /// What was tried.
    pub operation: &'static str,
    /// The key.
    pub key: String,
    /// Why it failed.
    #[source]
    pub source: BoxError,
}

/// Checks a key, for stores: letters, digits, `-`, `_` and `.`, in parts that are separated by `/`.
///
/// # Errors
/// A text that says what a key is made of.
pub fn check_key(key: &str) -> Result<(), BoxError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let sound = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(plain);
    if key.len() <= 512 && key.split('/').all(sound) {
        Ok(())
    } else {
        Err("a key is made of letters, digits, `-`, `_` and `.`, in parts that are separated by `/` and do not begin \
             with `.`"
            .into())
    }
}

/// Checks what keys are asked to begin with, for stores: nothing, a key, or what a key can begin with.
///
/// # Errors
/// A text that says what a key is made of.
pub fn check_prefix(prefix: &str) -> Result<(), BoxError> {
    if prefix.is_empty() || check_key(&format!("{prefix}x")).is_ok() { Ok(()) } else { check_key(prefix) }
}
