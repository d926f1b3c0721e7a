//! Artifacts in memory.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};

use crate::ports::artifacts::{ArtifactError, ArtifactStore, ArtifactStream, check_key, check_prefix};

/// Keeps artifacts in memory.
///
/// ```
/// use astraforge_core::{ports::artifacts::ArtifactStore, testing::MemoryArtifacts};
///
/// # futures::executor::block_on(async {
/// let artifacts = MemoryArtifacts::default();
/// artifacts.put("rollouts/a.jsonl", "{}".into()).await?;
/// assert_eq!(artifacts.get("rollouts/a.jsonl").await?.as_deref(), Some(&b"{}"[..]));
/// assert_eq!(artifacts.list("rollouts/").await?, ["rollouts/a.jsonl"]);
/// # Ok::<(), astraforge_core::ports::artifacts::ArtifactError>(()) }).unwrap();
/// ```
#[derive(Debug, Default)]
pub struct MemoryArtifacts {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl MemoryArtifacts {
    /// The keys that hold something, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

#[async_trait]
impl ArtifactStore for MemoryArtifacts {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ArtifactError> {
        check(key, "write")?;
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), bytes);
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, ArtifactError> {
        check(key, "read")?;
        Ok(self.objects.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    async fn put_stream(&self, key: &str, bytes: ArtifactStream) -> Result<u64, ArtifactError> {
        let whole = bytes.try_fold(BytesMut::new(), |mut whole, piece| async move {
            whole.extend_from_slice(&piece);
            Ok(whole)
        });
        let failed = |source| ArtifactError { operation: "write", key: key.to_owned(), source };
        let whole = whole.await.map_err(failed)?.freeze();
        let n_bytes = whole.len() as u64;
        self.put(key, whole).await?;
        Ok(n_bytes)
    }

    async fn get_stream(&self, key: &str) -> Result<Option<ArtifactStream>, ArtifactError> {
        let bytes = self.get(key).await?;
        Ok(bytes.map(|bytes| stream::iter([Ok(bytes)]).boxed()))
    }

    async fn delete(&self, key: &str) -> Result<(), ArtifactError> {
        check(key, "delete")?;
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, ArtifactError> {
        let failed = |source| ArtifactError { operation: "list", key: prefix.to_owned(), source };
        check_prefix(prefix).map_err(failed)?;
        Ok(self.keys().into_iter().filter(|key| key.starts_with(prefix)).collect())
    }
}

fn check(key: &str, operation: &'static str) -> Result<(), ArtifactError> {
    check_key(key).map_err(|source| ArtifactError { operation, key: key.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::artifacts_conformance!(async { ((), MemoryArtifacts::default()) });
}
