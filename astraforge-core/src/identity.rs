//! People and programs whom an identity provider knows.

use crate::{
    access::{Caller, Role},
    id::{TenantId, UserId},
};

/// Somebody at an identity provider, as they are called there for ever.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// The provider, as it calls itself.
    pub issuer: String,
    /// What it calls them. It never gives that to anybody else.
    pub id: String,
}

/// Whom a provider's token stands for, as its claims are read here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who it is at the provider.
    pub subject: Subject,
    /// What they want to be called here. Who came first has the name.
    pub user: UserId,
    /// The tenant they belong to.
    pub tenant: TenantId,
    /// What they may do.
    pub role: Role,
    /// Their e-mail address, or empty.
    pub email: String,
}

impl Identity {
    /// The same somebody as the sender of commands, by the name that they have here.
    #[must_use]
    pub fn caller(&self, user: UserId) -> Caller {
        Caller::new(self.tenant.clone(), user, self.role)
    }
}
