//! A store in memory remembers calls as [`MemoryCallStore`](super::MemoryCallStore) does.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::MemoryStore;
use crate::{
    idempotency::{Attempt, Begun, CallName, Fingerprint, Outcome},
    ports::{call_store::CallStore, store::StoreError},
};

#[async_trait]
impl CallStore for MemoryStore {
    async fn begin_call(
        &self,
        call: &CallName,
        fingerprint: Fingerprint,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Begun, StoreError> {
        self.calls.begin_call(call, fingerprint, now, until).await
    }

    async fn renew_attempt(&self, attempt: &Attempt, until: DateTime<Utc>) -> Result<bool, StoreError> {
        self.calls.renew_attempt(attempt, until).await
    }

    async fn end_call(&self, attempt: &Attempt, outcome: &Outcome, now: DateTime<Utc>) -> Result<bool, StoreError> {
        self.calls.end_call(attempt, outcome, now).await
    }

    async fn give_up_attempt(&self, attempt: &Attempt) -> Result<bool, StoreError> {
        self.calls.give_up_attempt(attempt).await
    }

    async fn forget_calls(&self, now: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        self.calls.forget_calls(now, limit).await
    }
}
