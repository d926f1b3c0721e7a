//! Who may log in, and from where.

use std::sync::Arc;

use astraforge_core::{access::Role, id::TenantId, ports::account_store::AccountStore};
use astraforge_http::server::Accounts;
use clap::Args;

use crate::config::TENANT;

/// Settings of people who log in with a name and a password.
#[derive(Debug, Args)]
#[command(next_help_heading = "Accounts")]
pub(crate) struct AccountArgs {
    /// Let whoever comes add themselves, with that role: observer, reviewer, maintainer or admin [default: nobody may]
    #[arg(long, global = true, env = "ASTRAFORGE_REGISTRATION", value_name = "ROLE")]
    registration: Option<Role>,
    /// Origins of other pages that may use a browser's login, such as https://forge.example.com, separated by commas
    #[arg(long, global = true, env = "CSRF_TRUSTED_ORIGINS", value_name = "ORIGINS", value_delimiter = ',')]
    trusted_origins: Vec<String>,
}

impl AccountArgs {
    /// The accounts of `store`, as they are configured.
    pub(crate) fn open(&self, store: Arc<dyn AccountStore>) -> Accounts {
        let origins = self.trusted_origins.iter().map(|it| it.trim().trim_end_matches('/')).filter(|it| !it.is_empty());
        let accounts = origins.fold(Accounts::new(store), Accounts::with_trusted_origin);
        match self.registration {
            Some(role) => accounts.with_registration(TenantId::new(TENANT), role),
            None => accounts,
        }
    }
}
