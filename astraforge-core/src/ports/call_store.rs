//! The port for calls that may come more than once.

use std::fmt;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    idempotency::{Attempt, Begun, CallName, Fingerprint, Outcome},
    ports::store::StoreError,
};

/// Remembers calls by the keys that their callers gave them, and how they were answered.
///
/// # Contract
/// - Of all processes that ask to carry out the same call, one gets an attempt at a time: until its lease ends, or it
///   ends by itself. A lease holds to its end.
/// - A call is forgotten [`REMEMBERED`](crate::idempotency::REMEMBERED) after it was last begun or ended, and not while
///   somebody is at it. Its key may be given to another call then.
/// - Fingerprints and outcomes may be as secret as a password, so a store that lasts seals them.
#[async_trait]
pub trait CallStore: fmt::Debug + Send + Sync + 'static {
    /// Asks to carry out a call, on a lease until `until`.
    async fn begin_call(
        &self,
        call: &CallName,
        fingerprint: Fingerprint,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Begun, StoreError>;
    /// Says that an attempt goes on. Tells whether it still has the call.
    async fn renew_attempt(&self, attempt: &Attempt, until: DateTime<Utc>) -> Result<bool, StoreError>;
    /// Ends an attempt, and with it the call. Tells whether it still had the call; else nothing is kept.
    async fn end_call(&self, attempt: &Attempt, outcome: &Outcome, now: DateTime<Utc>) -> Result<bool, StoreError>;
    /// Ends an attempt that came to nothing, so that another may begin at once. Tells whether it still had the call.
    async fn give_up_attempt(&self, attempt: &Attempt) -> Result<bool, StoreError>;
    /// Forgets calls whose time is over, at most `limit` of them, and counts them.
    async fn forget_calls(&self, now: DateTime<Utc>, limit: u32) -> Result<u64, StoreError>;
}
