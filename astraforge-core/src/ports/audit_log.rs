//! The port for where the audit is kept.

use std::fmt;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    audit::{
        Entry, NewEntry,
        chain::{AuditKey, Head},
    },
    id::TenantId,
    ports::store::StoreError,
};

/// Keeps the audit: one chain of entries a tenant, to which entries are only ever added.
///
/// # Contract
/// - An entry and the head that it makes are written together, or not at all, and are read by every process that shares
///   the log from then on.
/// - However many append at once, each entry of a tenant comes after exactly one other, with the next number: the head is
///   the tenant's until the entry is written. Other tenants do not wait for that.
/// - What comes next is what [`AuditKey::next`] makes of the head. Where entries go on behind the head that is stored, or
///   it is not there though they are, the last entry is taken for the head, without a seal.
#[async_trait]
pub trait AuditLog: fmt::Debug + Send + Sync + 'static {
    /// Adds an entry at the end of its tenant's chain.
    async fn add_entry(&self, key: &AuditKey, entry: &NewEntry, at: DateTime<Utc>) -> Result<Entry, StoreError>;
    /// Reads at most `limit` entries after sequence number `after`, in order.
    async fn entries_after(&self, tenant: &TenantId, after: u64, limit: u32) -> Result<Vec<Entry>, StoreError>;
    /// Reads at most `limit` entries before sequence number `before`, the last one first.
    async fn entries_before(&self, tenant: &TenantId, before: u64, limit: u32) -> Result<Vec<Entry>, StoreError>;
    /// Reads the end of a chain.
    async fn audit_head(&self, tenant: &TenantId) -> Result<Option<Head>, StoreError>;
    /// Lists the tenants that have entries or a head, by name.
    async fn audited_tenants(&self) -> Result<Vec<TenantId>, StoreError>;
}
