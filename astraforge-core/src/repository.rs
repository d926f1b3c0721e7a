//! A link to a repository, and how runs on it are set up.

use std::{collections::BTreeMap, fmt, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    egress::HostRule,
    id::{RepositoryLinkId, TenantId, UserId},
};

/// A repository that a tenant's requests may work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryLink {
    /// Its id; clients call it the project id.
    pub id: RepositoryLinkId,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// Who linked it.
    pub owner: UserId,
    /// The VCS provider's name in the registry, such as `local`.
    pub provider: String,
    /// The repository in the provider's own terms.
    pub repository: String,
    /// The provider's address, where it has several.
    pub base_url: String,
    /// The credential for it, if it needs one.
    pub access_token: Option<Secret>,
    /// How runs on it are set up.
    pub environment: RepositoryEnvironment,
    /// When it was linked.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// How runs on a repository are set up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RepositoryEnvironment {
    /// The branch that changes are for; the repository's default branch unless set.
    pub base_branch: Option<String>,
    /// A shell line run after the clone, before the agent.
    pub setup: Option<String>,
    /// A shell line run on the agent's last commit.
    pub test: Option<String>,
    /// Environment of all commands of a run.
    pub env: BTreeMap<String, String>,
    /// How long one run may take, in seconds; 3,600 unless set.
    pub timeout_seconds: Option<u64>,
    /// The hosts that runs may reach, such as those of package registries; none unless set.
    pub egress: Vec<HostRule>,
}

impl RepositoryEnvironment {
    /// How long one run may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.unwrap_or(3600))
    }
}

/// A text that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Shows the last four characters, enough to tell one from another.
    #[must_use]
    pub fn preview(&self) -> String {
        let n = self.0.chars().count();
        format!("***{}", self.0.chars().skip(n.saturating_sub(4)).collect::<String>())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}
