//! One call at a time for each sandbox.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use astraforge_core::id::SandboxId;
use tokio::sync::OwnedMutexGuard;

/// Who is at work on which sandbox.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<SandboxId, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits until nobody else is at work on sandbox `id`; the caller is, until it drops the guard.
    pub(super) async fn take(&self, id: SandboxId) -> OwnedMutexGuard<()> {
        let turn = {
            // No code panics while it holds the map.
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(id).or_default())
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_sandbox_has_one_turn_and_leaves_nothing() {
        let (turns, id) = (Turns::default(), SandboxId::random());
        let first = turns.take(id).await;
        assert!(turns.take(id).now_or_never().is_none(), "it is taken");
        drop(turns.take(SandboxId::random()).await);
        drop(first);
        drop(turns.take(id).now_or_never().expect("it is free"));
        drop(turns.take(SandboxId::random()).await);
        assert_eq!(turns.0.lock().unwrap().len(), 1, "only the last one is known");
    }
}
