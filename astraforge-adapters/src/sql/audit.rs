//! The audit: entries, and the end of each tenant's chain.

use astraforge_core::{
    audit::{
        Entry, NewEntry,
        chain::{AuditKey, Head},
    },
    id::TenantId,
    ports::{audit_log::AuditLog, store::StoreError},
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{
    Dialect, SqlStore,
    error::failed,
    row::{Cells, Columns as _, SqlResult, micros, number},
    statement::{Statements, values},
    transaction::in_transaction,
};

impl<D: Dialect> SqlStore<D> {
    async fn audit_rows(
        &self,
        statement: &'static str,
        tenant: &TenantId,
        seq: i64,
        limit: u32,
    ) -> SqlResult<Vec<Entry>> {
        let values = values![tenant.as_str(), seq, limit];
        let rows = self.warm.or(self.readers.acquire()).await?.rows(statement, values).await?;
        rows.iter().map(entry_from).collect()
    }
}

#[async_trait]
impl<D: Dialect> AuditLog for SqlStore<D> {
    async fn add_entry(&self, key: &AuditKey, entry: &NewEntry, at: DateTime<Utc>) -> Result<Entry, StoreError> {
        const OPERATION: &str = "write to the audit";
        in_transaction::<D, _>(&self.warm, &self.writer, OPERATION, async |connection| {
            append(connection, key, entry, at).await.map_err(failed(OPERATION))
        })
        .await
    }

    async fn entries_after(&self, tenant: &TenantId, after: u64, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let statement = "SELECT * FROM audit_entries WHERE tenant = $1 AND seq > $2 ORDER BY seq LIMIT $3";
        // From before the first, so that a row is seen whose number no entry can have.
        let after = if after == 0 { i64::MIN } else { storable(after) };
        self.audit_rows(statement, tenant, after, limit).await.map_err(failed("read the audit"))
    }

    async fn entries_before(&self, tenant: &TenantId, before: u64, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let statement = "SELECT * FROM audit_entries WHERE tenant = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3";
        self.audit_rows(statement, tenant, storable(before), limit).await.map_err(failed("read the audit"))
    }

    async fn audit_head(&self, tenant: &TenantId) -> Result<Option<Head>, StoreError> {
        let statement = "SELECT * FROM audit_heads WHERE tenant = $1";
        let read = async {
            let mut connection = self.warm.or(self.readers.acquire()).await?;
            connection.row(statement, values![tenant.as_str()]).await?.as_ref().map(head_from).transpose()
        };
        read.await.map_err(failed("read the end of the audit"))
    }

    async fn audited_tenants(&self) -> Result<Vec<TenantId>, StoreError> {
        // Found one after the other in the index: entries are many, and tenants few.
        let statement = "WITH RECURSIVE audited (tenant) AS (SELECT min(tenant) FROM audit_entries \
                         UNION ALL SELECT (SELECT min(audit_entries.tenant) FROM audit_entries \
                         WHERE audit_entries.tenant > audited.tenant) FROM audited WHERE audited.tenant IS NOT NULL) \
                         SELECT tenant FROM audited WHERE tenant IS NOT NULL \
                         UNION SELECT tenant FROM audit_heads ORDER BY 1";
        let read = async {
            let rows = self.warm.or(self.readers.acquire()).await?.rows(statement, []).await?;
            rows.iter().map(|row| row.wrapped("tenant", TenantId::new)).collect::<SqlResult<Vec<_>>>()
        };
        read.await.map_err(failed("list the tenants of the audit"))
    }
}

/// Writes an entry and the head that it makes. The row of the head is this transaction's until it ends, so that others of
/// the tenant come after it; those of other tenants do not wait.
async fn append(
    connection: &mut impl Statements,
    key: &AuditKey,
    new: &NewEntry,
    at: DateTime<Utc>,
) -> SqlResult<Entry> {
    let head = lock_head(connection, &new.tenant).await?;
    let (entry, head) = key.next(head.as_ref(), new, at);
    let insert = "INSERT INTO audit_entries (tenant, seq, created_at, actor, means, action, subject, outcome, details, \
                  call, hash) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    let values = values![
        entry.tenant.as_str(),
        number(entry.seq)?,
        micros(entry.at),
        &entry.user,
        &entry.means,
        &entry.action,
        &entry.subject,
        &entry.outcome,
        &entry.details,
        &entry.call,
        &entry.hash,
    ];
    connection.execute(insert, values).await?;
    let update = "UPDATE audit_heads SET seq = $1, hash = $2, seal = $3 WHERE tenant = $4";
    let values = values![number(head.seq)?, head.hash, head.seal, entry.tenant.as_str()];
    connection.execute(update, values).await?;
    Ok(entry)
}

/// The end of a chain, or `None` where it begins, kept for this transaction. Where entries go on behind it, somebody
/// changed it: the last of them is taken, without a seal.
async fn lock_head(connection: &mut impl Statements, tenant: &TenantId) -> SqlResult<Option<Head>> {
    let lock = "INSERT INTO audit_heads (tenant, seq, hash, seal) VALUES ($1, 0, '', '') \
                ON CONFLICT (tenant) DO UPDATE SET seq = audit_heads.seq \
                RETURNING seq, hash, seal, (SELECT max(seq) FROM audit_entries WHERE audit_entries.tenant = $1) AS last_seq";
    let Some(row) = connection.row(lock, values![tenant.as_str()]).await? else { return Ok(None) };
    let head = head_from(&row)?;
    if row.maybe_number("last_seq")?.unwrap_or(0_i64) <= number(head.seq)? {
        return Ok((head.seq > 0).then_some(head));
    }
    let statement = "SELECT seq, hash, '' AS seal FROM audit_entries WHERE tenant = $1 ORDER BY seq DESC LIMIT 1";
    connection.row(statement, values![tenant.as_str()]).await?.as_ref().map(head_from).transpose()
}

fn head_from(row: &impl Cells) -> SqlResult<Head> {
    Ok(Head { seq: possible(row, "seq")?, hash: row.string("hash")?, seal: row.string("seal")? })
}

fn entry_from(row: &impl Cells) -> SqlResult<Entry> {
    let at = row.maybe_integer("created_at")?.and_then(DateTime::from_timestamp_micros);
    Ok(Entry {
        tenant: row.wrapped("tenant", TenantId::new)?,
        seq: possible(row, "seq")?,
        // What no entry can have is read as something else that this one has not, so that the row can be told.
        at: at.unwrap_or(DateTime::<Utc>::MIN_UTC),
        user: row.string("actor")?,
        means: row.string("means")?,
        action: row.string("action")?,
        subject: row.string("subject")?,
        outcome: row.string("outcome")?,
        details: row.string("details")?,
        call: row.string("call")?,
        hash: row.string("hash")?,
    })
}

/// A sequence number as a database has it; one that it cannot hold is after every entry.
fn storable(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// A sequence number; 0 for one that no entry can have.
fn possible(row: &impl Cells, column: &str) -> SqlResult<u64> {
    Ok(row.maybe_integer(column)?.and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0))
}
