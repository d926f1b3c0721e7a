//! The port for what is remembered of people who log in.

use std::fmt;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    access::Role,
    account::{Account, Login},
    id::{TenantId, UserId},
    identity::Subject,
    ports::store::StoreError,
};

/// Remembers accounts, and who is logged in.
///
/// # Contract
/// A row is written whole or not at all, and what was written is read by every process that shares the store.
#[async_trait]
pub trait AccountStore: fmt::Debug + Send + Sync + 'static {
    /// Adds an account; tells whether its name was free.
    async fn add_account(&self, account: &Account) -> Result<bool, StoreError>;
    /// Finds an account, whatever its tenant.
    async fn account(&self, user: &UserId) -> Result<Option<Account>, StoreError>;
    /// Lists a tenant's accounts by name.
    async fn accounts(&self, tenant: &TenantId) -> Result<Vec<Account>, StoreError>;
    /// Replaces what may change of an account: e-mail address, password, role, and whether it is active. Its logins end
    /// when the password changes, or it may not log in any more. Tells whether it is there.
    async fn change_account(&self, account: &Account) -> Result<bool, StoreError>;

    /// Adds the account of somebody whom an identity provider knows; tells whether the name was free, and they had none.
    async fn add_account_of(&self, subject: &Subject, account: &Account) -> Result<bool, StoreError>;
    /// Finds the account of somebody whom an identity provider knows, whatever its tenant.
    async fn account_of(&self, subject: &Subject) -> Result<Option<Account>, StoreError>;

    /// Replaces what an identity provider tells of an account: e-mail address and role. Whether it is active is ours to say.
    async fn refresh_account(&self, user: &UserId, email: &str, role: Role) -> Result<(), StoreError>;

    /// Notes a login of an account, and forgets those that expired before it began. Tells whether the account still has
    /// the password that proved it, and may log in; else nothing is noted.
    async fn add_login(&self, login: &Login, account: &Account) -> Result<bool, StoreError>;
    /// Finds who is logged in at `now` by the hash of what they have; nobody whose account is not active.
    async fn logged_in(&self, hash: &str, now: DateTime<Utc>) -> Result<Option<Account>, StoreError>;
    /// Forgets a login.
    async fn remove_login(&self, hash: &str) -> Result<(), StoreError>;
}
