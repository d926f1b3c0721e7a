//! Streams of files between machines and the artifact store, hashed on the way.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use sha2::{Digest, Sha256};

use crate::{
    BoxError,
    ports::{
        artifacts::{ArtifactError, ArtifactStore, ArtifactStream},
        machines::ByteStream,
        sessions::SessionError,
    },
};

/// A hash that grows while a stream passes.
#[derive(Clone, Default)]
pub(super) struct Hash(Arc<Mutex<Sha256>>);

impl Hash {
    fn update(&self, bytes: &Bytes) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).update(bytes);
    }

    /// The hash of all that passed, in hex.
    pub(super) fn hex(&self) -> String {
        let hash = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().finalize();
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Stores a machine's bytes, reads them back, and returns their number and hash once both agree.
///
/// # Errors
/// Nothing stays stored then.
pub(super) async fn keep(
    artifacts: &dyn ArtifactStore,
    key: &str,
    bytes: ByteStream,
) -> Result<(u64, String), ArtifactError> {
    let hash = Hash::default();
    let seen = hash.clone();
    let hashed = bytes.map(move |piece| piece.inspect(|bytes| seen.update(bytes)).map_err(BoxError::from));
    let size = artifacts.put_stream(key, hashed.boxed()).await?;
    let sha256 = hash.hex();
    if let Err(source) = verify(artifacts, key, &sha256).await {
        // It was not right; that it cannot be removed either is no other problem.
        let _ = artifacts.delete(key).await;
        return Err(ArtifactError { operation: "verify", key: key.to_owned(), source });
    }
    Ok((size, sha256))
}

async fn verify(artifacts: &dyn ArtifactStore, key: &str, sha256: &str) -> Result<(), BoxError> {
    let stored = artifacts.get_stream(key).await?.ok_or("it is gone at once")?;
    let mut stored = checked(stored, sha256.to_owned());
    while let Some(piece) = stored.next().await {
        piece?;
    }
    Ok(())
}

/// Passes stored bytes on, and ends in an error unless they are those that were stored.
pub(super) fn checked(bytes: ArtifactStream, sha256: String) -> ArtifactStream {
    let hash = Hash::default();
    let seen = hash.clone();
    let passed = bytes.map(move |piece| piece.inspect(|bytes| seen.update(bytes)));
    let last = stream::once(async move {
        if hash.hex() == sha256 { Ok(Bytes::new()) } else { Err("its bytes are not those that were stored".into()) }
    });
    passed.chain(last).boxed()
}

/// Stored bytes, as a machine takes them.
pub(super) fn for_machine(bytes: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> ByteStream {
    bytes.map(|piece| piece.map_err(|source| SessionError::Backend { operation: "read the archive", source })).boxed()
}
