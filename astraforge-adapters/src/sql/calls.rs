//! Calls that may come more than once. What they brought and how they were answered is sealed.

use astraforge_core::{
    id::AttemptId,
    idempotency::{Attempt, Begun, CallName, Fingerprint, Outcome, REMEMBERED},
    ports::{call_store::CallStore, store::StoreError},
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Dialect, SqlStore,
    error::failed,
    row::{Cells, Columns as _, SqlResult, micros},
    statement::{Statements, Value, values},
};
use crate::secret_box::SecretKey;

/// How often it is looked anew at a call that others change in between.
const LOOKS: usize = 8;

impl<D: Dialect> SqlStore<D> {
    /// Asks for a call once; `None` when others changed it in between.
    async fn ask(
        &self,
        call: &CallName,
        fingerprint: Fingerprint,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> SqlResult<Option<Begun>> {
        let attempt = Attempt { call: call.clone(), id: AttemptId::random(), makes: Uuid::now_v7() };
        let name = call.digest();
        if insert(&mut *self.call_writer().await?, &self.key, &attempt, fingerprint, now, until).await? {
            return Ok(Some(Begun::Attempt(attempt)));
        }
        let row = {
            let mut reader = self.warm.or(self.readers.acquire()).await?;
            reader.row("SELECT * FROM calls WHERE name = $1", values![&name]).await?
        };
        // It was forgotten in between.
        let Some(row) = row else { return Ok(None) };
        if open(&self.key, &name, "fingerprint", row.bytes("fingerprint")?)? != fingerprint.as_bytes() {
            return Ok(Some(Begun::OtherCall));
        }
        if let Some(sealed) = row.maybe_bytes("outcome")? {
            let outcome = Outcome::from_bytes(&open(&self.key, &name, "outcome", sealed)?);
            return outcome.map(|it| Some(Begun::Over(it))).map_err(|error| unreadable("outcome", error.into()));
        }
        if row.maybe_time("lease_until")?.is_some_and(|end| end >= now) {
            return Ok(Some(Begun::AtWork));
        }
        let attempt = Attempt { makes: row.parsed("makes")?, ..attempt };
        let lost: AttemptId = row.parsed("attempt")?;
        let taken = take_over(&mut *self.call_writer().await?, &attempt, lost, now, until).await?;
        Ok(taken.then_some(Begun::Attempt(attempt)))
    }

    async fn call_writer(&self) -> SqlResult<super::Taken<D>> {
        self.warm.or(self.writer.acquire()).await
    }

    /// Changes the call of an attempt; tells whether the attempt still had it.
    async fn change_call(&self, statement: &'static str, values: impl IntoIterator<Item = Value>) -> SqlResult<bool> {
        Ok(self.call_writer().await?.execute(statement, values).await? > 0)
    }
}

#[async_trait]
impl<D: Dialect> CallStore for SqlStore<D> {
    async fn begin_call(
        &self,
        call: &CallName,
        fingerprint: Fingerprint,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<Begun, StoreError> {
        for _ in 0..LOOKS {
            if let Some(begun) = self.ask(call, fingerprint, now, until).await.map_err(failed("begin a call"))? {
                return Ok(begun);
            }
        }
        // Whoever changes it again and again is at it.
        Ok(Begun::AtWork)
    }

    async fn renew_attempt(&self, attempt: &Attempt, until: DateTime<Utc>) -> Result<bool, StoreError> {
        let statement =
            "UPDATE calls SET lease_until = $1 WHERE name = $2 AND attempt = $3 AND lease_until IS NOT NULL";
        let values = values![micros(until), attempt.call.digest(), attempt.id.to_string()];
        self.change_call(statement, values).await.map_err(failed("renew the lease of a call"))
    }

    async fn end_call(&self, attempt: &Attempt, outcome: &Outcome, now: DateTime<Utc>) -> Result<bool, StoreError> {
        let name = attempt.call.digest();
        let sealed = outcome.to_bytes().map_err(|error| sqlx::Error::Encode(error.into()));
        let sealed =
            sealed.and_then(|bytes| seal(&self.key, &name, "outcome", &bytes)).map_err(failed("end a call"))?;
        let statement = "UPDATE calls SET outcome = $1, lease_until = NULL, expires_at = $2 \
                         WHERE name = $3 AND attempt = $4 AND lease_until IS NOT NULL";
        let values = values![sealed, micros(now + REMEMBERED), name, attempt.id.to_string()];
        self.change_call(statement, values).await.map_err(failed("end a call"))
    }

    async fn give_up_attempt(&self, attempt: &Attempt) -> Result<bool, StoreError> {
        let statement =
            "UPDATE calls SET lease_until = NULL WHERE name = $1 AND attempt = $2 AND lease_until IS NOT NULL";
        let values = values![attempt.call.digest(), attempt.id.to_string()];
        self.change_call(statement, values).await.map_err(failed("give up a call"))
    }

    async fn forget_calls(&self, now: DateTime<Utc>, limit: u32) -> Result<u64, StoreError> {
        const OPERATION: &str = "forget calls";
        let statement = "DELETE FROM calls WHERE name IN (SELECT name FROM calls WHERE expires_at <= $1 \
                         AND coalesce(lease_until, 0) < $1 ORDER BY expires_at LIMIT $2)";
        let mut writer = self.writer(OPERATION).await?;
        writer.execute(statement, values![micros(now), limit]).await.map_err(failed(OPERATION))
    }
}

/// Adds a call, in place of one whose time is over; tells whether it did.
async fn insert(
    connection: &mut impl Statements,
    key: &SecretKey,
    attempt: &Attempt,
    fingerprint: Fingerprint,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> SqlResult<bool> {
    let statement = "INSERT INTO calls (name, fingerprint, attempt, makes, lease_until, expires_at) \
                     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO UPDATE \
                     SET fingerprint = $2, attempt = $3, makes = $4, outcome = NULL, lease_until = $5, expires_at = $6 \
                     WHERE calls.expires_at <= $7 AND coalesce(calls.lease_until, 0) < $7";
    let name = attempt.call.digest();
    let values = values![
        &name,
        seal(key, &name, "fingerprint", fingerprint.as_bytes())?,
        attempt.id.to_string(),
        attempt.makes.to_string(),
        micros(until),
        micros(now + REMEMBERED),
        micros(now),
    ];
    Ok(connection.execute(statement, values).await? > 0)
}

/// Takes a call over from an attempt whose lease ended; tells whether nobody else did.
async fn take_over(
    connection: &mut impl Statements,
    attempt: &Attempt,
    lost: AttemptId,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> SqlResult<bool> {
    let statement = "UPDATE calls SET attempt = $1, lease_until = $2, expires_at = $3 WHERE name = $4 AND attempt = $5 \
                     AND outcome IS NULL AND coalesce(lease_until, 0) < $6";
    let values = values![
        attempt.id.to_string(),
        micros(until),
        micros(now + REMEMBERED),
        attempt.call.digest(),
        lost.to_string(),
        micros(now),
    ];
    Ok(connection.execute(statement, values).await? > 0)
}

fn seal(key: &SecretKey, name: &str, column: &str, plain: &[u8]) -> SqlResult<Vec<u8>> {
    key.seal(plain, &place(name, column)).map_err(|error| sqlx::Error::Encode(error.into()))
}

fn open(key: &SecretKey, name: &str, column: &'static str, sealed: &[u8]) -> SqlResult<Vec<u8>> {
    key.open(sealed, &place(name, column)).map_err(|error| unreadable(column, error.into()))
}

/// Binds what is sealed to its row and column, so that it cannot be moved to another.
fn place(name: &str, column: &str) -> String {
    format!("call {name} {column}")
}

fn unreadable(column: &str, source: astraforge_core::BoxError) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source }
}
