//! The audit kept in memory.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    audit::{
        Entry, NewEntry,
        chain::{AuditKey, Head},
    },
    id::TenantId,
    ports::{audit_log::AuditLog, store::StoreError},
};

/// Keeps the audit in memory.
#[derive(Debug, Default)]
pub struct MemoryAuditLog {
    chains: Mutex<BTreeMap<TenantId, Chain>>,
    is_full: AtomicBool,
}

/// The rows of one tenant.
#[derive(Debug, Default)]
pub struct Chain {
    /// Its entries, in order.
    pub entries: Vec<Entry>,
    /// Its end.
    pub head: Option<Head>,
}

impl MemoryAuditLog {
    /// All entries of a tenant.
    #[must_use]
    pub fn entries(&self, tenant: &TenantId) -> Vec<Entry> {
        self.chains().get(tenant).map(|chain| chain.entries.clone()).unwrap_or_default()
    }

    /// Does with the rows of a tenant what nobody should.
    pub fn tamper(&self, tenant: &TenantId, change: impl FnOnce(&mut Chain)) {
        change(self.chains().entry(tenant.clone()).or_default());
    }

    /// Refuses entries from now on, or takes them again.
    pub fn is_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::SeqCst);
    }

    fn chains(&self) -> MutexGuard<'_, BTreeMap<TenantId, Chain>> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl AuditLog for MemoryAuditLog {
    async fn add_entry(&self, key: &AuditKey, entry: &NewEntry, at: DateTime<Utc>) -> Result<Entry, StoreError> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(StoreError::Backend { operation: "write to the audit", source: "it is full".into() });
        }
        let mut chains = self.chains();
        let chain = chains.entry(entry.tenant.clone()).or_default();
        let last =
            chain.entries.last().map(|last| Head { seq: last.seq, hash: last.hash.clone(), seal: String::new() });
        let stored = chain.head.clone();
        let is_behind = last.as_ref().map(|last| last.seq) > stored.as_ref().map(|head| head.seq);
        let (entry, head) = key.next(if is_behind { last } else { stored }.as_ref(), entry, at);
        chain.entries.push(entry.clone());
        chain.head = Some(head);
        Ok(entry)
    }

    async fn entries_after(&self, tenant: &TenantId, after: u64, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let entries = self.entries(tenant).into_iter().filter(|entry| entry.seq > after);
        Ok(entries.take(limit.try_into().unwrap_or(usize::MAX)).collect())
    }

    async fn entries_before(&self, tenant: &TenantId, before: u64, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let entries = self.entries(tenant).into_iter().rev().filter(|entry| entry.seq < before);
        Ok(entries.take(limit.try_into().unwrap_or(usize::MAX)).collect())
    }

    async fn audit_head(&self, tenant: &TenantId) -> Result<Option<Head>, StoreError> {
        Ok(self.chains().get(tenant).and_then(|chain| chain.head.clone()))
    }

    async fn audited_tenants(&self) -> Result<Vec<TenantId>, StoreError> {
        Ok(self.chains().keys().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::audit_log_conformance!(async { ((), MemoryAuditLog::default()) });
}
