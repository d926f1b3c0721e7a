//! Calls remembered in memory.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    id::AttemptId,
    idempotency::{Attempt, Begun, CallName, Fingerprint, Outcome, REMEMBERED},
    ports::{call_store::CallStore, store::StoreError},
};

/// Remembers calls in memory.
#[derive(Debug, Default)]
pub struct MemoryCallStore {
    rows: Mutex<HashMap<String, Row>>,
}

#[derive(Debug)]
struct Row {
    fingerprint: Fingerprint,
    attempt: AttemptId,
    makes: Uuid,
    outcome: Option<Outcome>,
    lease_until: Option<DateTime<Utc>>,
    expires_at: DateTime<Utc>,
}

impl Row {
    fn is_at_work(&self, now: DateTime<Utc>) -> bool {
        self.lease_until.is_some_and(|until| until >= now)
    }

    fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.expires_at <= now && !self.is_at_work(now)
    }
}

impl MemoryCallStore {
    fn rows(&self) -> MutexGuard<'_, HashMap<String, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the row of a call that an attempt has; tells whether it has it.
    fn change(&self, attempt: &Attempt, change: impl FnOnce(&mut Row)) -> bool {
        let mut rows = self.rows();
        let row = rows.get_mut(&attempt.call.digest());
        let held = row.filter(|row| row.attempt == attempt.id && row.lease_until.is_some());
        held.map(change).is_some()
    }
}

#[async_trait]
impl CallStore for MemoryCallStore {
    async fn begin_call(
        &self,
        call: &CallName,
        fingerprint: Fingerprint,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Begun, StoreError> {
        let mut rows = self.rows();
        let name = call.digest();
        rows.retain(|found, row| *found != name || !row.is_over(now));
        let attempt = AttemptId::random();
        let row = rows.entry(name).or_insert_with(|| Row {
            fingerprint,
            attempt,
            makes: Uuid::now_v7(),
            outcome: None,
            lease_until: None,
            expires_at: now,
        });
        if row.fingerprint != fingerprint {
            return Ok(Begun::OtherCall);
        }
        if let Some(outcome) = &row.outcome {
            return Ok(Begun::Over(outcome.clone()));
        }
        if row.is_at_work(now) {
            return Ok(Begun::AtWork);
        }
        (row.attempt, row.lease_until, row.expires_at) = (attempt, Some(until), now + REMEMBERED);
        Ok(Begun::Attempt(Attempt { call: call.clone(), id: attempt, makes: row.makes }))
    }

    async fn renew_attempt(&self, attempt: &Attempt, until: DateTime<Utc>) -> Result<bool, StoreError> {
        Ok(self.change(attempt, |row| row.lease_until = Some(until)))
    }

    async fn end_call(&self, attempt: &Attempt, outcome: &Outcome, now: DateTime<Utc>) -> Result<bool, StoreError> {
        Ok(self.change(attempt, |row| {
            (row.outcome, row.lease_until, row.expires_at) = (Some(outcome.clone()), None, now + REMEMBERED);
        }))
    }

    async fn give_up_attempt(&self, attempt: &Attempt) -> Result<bool, StoreError> {
        Ok(self.change(attempt, |row| row.lease_until = None))
    }

    async fn forget_calls(&self, now: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        let mut rows = self.rows();
        let over = rows.iter().filter(|(_, row)| row.is_over(now)).map(|(name, _)| name.clone());
        let over: Vec<String> = over.take(limit as usize).collect();
        over.iter().for_each(|name| drop(rows.remove(name)));
        Ok(over.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::call_store_conformance!(async { ((), MemoryCallStore::default()) });
}
