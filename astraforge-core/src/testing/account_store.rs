//! Accounts remembered in memory.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    access::Role,
    account::{Account, Login},
    id::{TenantId, UserId},
    identity::Subject,
    ports::{account_store::AccountStore, store::StoreError},
};

/// Remembers accounts in memory.
#[derive(Debug, Default)]
pub struct MemoryAccountStore {
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    accounts: BTreeMap<UserId, Account>,
    subjects: BTreeMap<Subject, UserId>,
    logins: Vec<Login>,
}

impl MemoryAccountStore {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl AccountStore for MemoryAccountStore {
    async fn add_account(&self, account: &Account) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let free = !rows.accounts.contains_key(&account.user);
        rows.accounts.entry(account.user.clone()).or_insert_with(|| account.clone());
        Ok(free)
    }

    async fn account(&self, user: &UserId) -> Result<Option<Account>, StoreError> {
        Ok(self.rows().accounts.get(user).cloned())
    }

    async fn accounts(&self, tenant: &TenantId) -> Result<Vec<Account>, StoreError> {
        Ok(self.rows().accounts.values().filter(|account| account.tenant == *tenant).cloned().collect())
    }

    async fn change_account(&self, account: &Account) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let Some(row) = rows.accounts.get_mut(&account.user) else { return Ok(false) };
        let ends_logins = row.password_hash != account.password_hash || !account.is_active;
        *row = Account { tenant: row.tenant.clone(), created_at: row.created_at, ..account.clone() };
        rows.logins.retain(|login| !ends_logins || login.user != account.user);
        Ok(true)
    }

    async fn add_account_of(&self, subject: &Subject, account: &Account) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let free = !rows.accounts.contains_key(&account.user) && !rows.subjects.contains_key(subject);
        if free {
            rows.accounts.insert(account.user.clone(), account.clone());
            rows.subjects.insert(subject.clone(), account.user.clone());
        }
        Ok(free)
    }

    async fn account_of(&self, subject: &Subject) -> Result<Option<Account>, StoreError> {
        let rows = self.rows();
        Ok(rows.subjects.get(subject).and_then(|user| rows.accounts.get(user)).cloned())
    }

    async fn refresh_account(&self, user: &UserId, email: &str, role: Role) -> Result<(), StoreError> {
        if let Some(row) = self.rows().accounts.get_mut(user) {
            (row.email, row.role) = (email.to_owned(), role);
        }
        Ok(())
    }

    async fn add_login(&self, login: &Login, account: &Account) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        rows.logins.retain(|row| row.expires_at > login.created_at);
        let row = rows.accounts.get(&login.user);
        let holds = row.is_some_and(|row| row.is_active && row.password_hash == account.password_hash);
        if holds {
            rows.logins.push(login.clone());
        }
        Ok(holds)
    }

    async fn logged_in(&self, hash: &str, now: DateTime<Utc>) -> Result<Option<Account>, StoreError> {
        let rows = self.rows();
        let login = rows.logins.iter().find(|login| login.hash == hash && login.expires_at > now);
        let account = login.and_then(|login| rows.accounts.get(&login.user));
        Ok(account.filter(|account| account.is_active).cloned())
    }

    async fn remove_login(&self, hash: &str) -> Result<(), StoreError> {
        self.rows().logins.retain(|login| login.hash != hash);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::account_store_conformance!(async { ((), MemoryAccountStore::default()) });
}
