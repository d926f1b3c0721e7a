//! People who log in with a name and a password.

use std::fmt;

use chrono::{DateTime, Utc};

use crate::{
    access::{Caller, Role},
    id::{TenantId, UserId},
};

/// Somebody who can log in.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// Their name, which is theirs alone in all tenants. Names differ by case.
    pub user: UserId,
    /// The tenant they belong to.
    pub tenant: TenantId,
    /// Their e-mail address, or empty.
    pub email: String,
    /// What their password is checked against, with how it was made: never the password.
    pub password_hash: String,
    /// What they may do.
    pub role: Role,
    /// Whether they may log in. One who may not is also logged out.
    pub is_active: bool,
    /// When they were added.
    pub created_at: DateTime<Utc>,
}

impl Account {
    /// Whoever it is, as the sender of commands.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller::new(self.tenant.clone(), self.user.clone(), self.role)
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("user", &self.user)
            .field("tenant", &self.tenant)
            .field("role", &self.role)
            .field("is_active", &self.is_active)
            .finish_non_exhaustive()
    }
}

/// That somebody is logged in, as it is stored: never what proves it, only the hash of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The hash of what their browser has.
    pub hash: String,
    /// Who it is.
    pub user: UserId,
    /// When they logged in.
    pub created_at: DateTime<Utc>,
    /// When they have to log in again.
    pub expires_at: DateTime<Utc>,
}
