//! Links to repositories.

use std::collections::BTreeMap;

use astraforge_core::{
    egress::HostRule,
    id::RepositoryLinkId,
    repository::{RepositoryEnvironment, RepositoryLink, Secret},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use super::timestamp;

/// A repository to link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NewRepositoryLink {
    /// The provider, as the server has registered it.
    #[schema(example = "local")]
    pub provider: String,
    /// The repository in the provider's own terms; at most 255 characters.
    #[schema(example = "/srv/git/loader.git", max_length = 255)]
    pub repository: String,
    /// The credential; needed by every provider but `local`.
    #[serde(serialize_with = "reveal_optional", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, write_only)]
    pub access_token: Option<Secret>,
    /// The provider's address, where it has several: an http(s) URL of at most 200 characters, for `gitlab` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub base_url: Option<String>,
    /// How runs on it are set up; additive.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub environment: Option<EnvironmentBody>,
}

impl NewRepositoryLink {
    /// A link without credential and environment.
    pub fn new(provider: impl Into<String>, repository: impl Into<String>) -> Self {
        Self {
            provider: provider.into(),
            repository: repository.into(),
            access_token: None,
            base_url: None,
            environment: None,
        }
    }
}

/// What is to change about a link. What is left out stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct RepositoryLinkPatch {
    /// The new credential; null removes it.
    #[serde(serialize_with = "reveal_nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, required = false, write_only)]
    pub access_token: Option<Option<Secret>>,
    /// How runs on it are set up from now on: replaces the whole of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub environment: Option<EnvironmentBody>,
}

/// How runs on a repository are set up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct EnvironmentBody {
    /// The branch that changes are for; the repository's default branch unless set.
    #[schema(example = "main")]
    pub base_branch: Option<String>,
    /// A shell line run after the clone, before the agent.
    #[schema(example = "pip install -e .")]
    pub setup: Option<String>,
    /// A shell line run on the agent's last commit.
    #[schema(example = "pytest -q")]
    pub test: Option<String>,
    /// Environment of all commands of a run. Not for secrets: it is shown to everyone who may read.
    pub env: BTreeMap<String, String>,
    /// How long one run may take, in seconds; 3,600 unless set.
    #[schema(minimum = 1, maximum = 86_400)]
    pub timeout_seconds: Option<u64>,
    /// The hosts that runs may reach, such as those of package registries: `example.com`, `*.example.com` for all names
    /// below it, `example.com:8443` for another port than 80 and 443.
    #[schema(value_type = Vec<String>, example = json!(["packages.example.com"]))]
    pub egress: Vec<HostRule>,
}

impl From<RepositoryEnvironment> for EnvironmentBody {
    fn from(environment: RepositoryEnvironment) -> Self {
        let RepositoryEnvironment { base_branch, setup, test, env, timeout_seconds, egress } = environment;
        Self { base_branch, setup, test, env, timeout_seconds, egress }
    }
}

impl From<EnvironmentBody> for RepositoryEnvironment {
    fn from(body: EnvironmentBody) -> Self {
        let EnvironmentBody { base_branch, setup, test, env, timeout_seconds, egress } = body;
        Self { base_branch, setup, test, env, timeout_seconds, egress }
    }
}

/// A linked repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RepositoryLinkView {
    /// Its id: the `project_id` of new requests.
    #[schema(value_type = uuid::Uuid)]
    pub id: RepositoryLinkId,
    /// The provider.
    pub provider: String,
    /// The repository in the provider's own terms.
    pub repository: String,
    /// The provider's address, or empty.
    pub base_url: String,
    /// The end of the credential, enough to tell one from another; empty when there is none.
    #[schema(example = "***9f3c")]
    pub token_preview: String,
    /// How runs on it are set up; additive.
    pub environment: EnvironmentBody,
    /// When it was linked.
    #[serde(with = "timestamp::row")]
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    #[serde(with = "timestamp::row")]
    pub updated_at: DateTime<Utc>,
}

impl From<RepositoryLink> for RepositoryLinkView {
    fn from(link: RepositoryLink) -> Self {
        Self {
            id: link.id,
            provider: link.provider,
            repository: link.repository,
            base_url: link.base_url,
            token_preview: link.access_token.map(|token| token.preview()).unwrap_or_default(),
            environment: link.environment.into(),
            created_at: link.created_at,
            updated_at: link.updated_at,
        }
    }
}

fn reveal_optional<S: Serializer>(secret: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(Secret::reveal).serialize(serializer)
}

fn reveal_nullable<S: Serializer>(secret: &Option<Option<Secret>>, serializer: S) -> Result<S::Ok, S::Error> {
    reveal_optional(&secret.clone().flatten(), serializer)
}
