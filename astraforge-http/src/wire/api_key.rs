//! API keys.

use astraforge_core::{
    access::{ApiKey, Role},
    id::ApiKeyId,
    repository::Secret,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use super::{schema, text, timestamp};

/// A key to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NewApiKey {
    /// Its name, for people; at most 255 characters.
    #[schema(example = "laptop", max_length = 255)]
    pub name: String,
    /// What its bearer may do; additive, `maintainer` unless set.
    #[serde(with = "text")]
    #[schema(schema_with = schema::role, required = false)]
    pub role: Role,
    /// Whom it stands for; additive, the caller unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl NewApiKey {
    /// A key for the caller.
    pub fn new(name: impl Into<String>, role: Role) -> Self {
        Self { name: name.into(), role, user: None }
    }
}

/// An API key, without the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKeyView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: ApiKeyId,
    /// Its name, for people.
    pub name: String,
    /// When it was made.
    #[serde(with = "timestamp::row")]
    pub created_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    #[serde(with = "timestamp::row::optional")]
    pub last_used_at: Option<DateTime<Utc>>,
    /// Whether it still opens anything.
    pub is_active: bool,
    /// Whom it stands for; additive.
    pub user: String,
    /// What its bearer may do; additive.
    #[serde(with = "text")]
    #[schema(schema_with = schema::role)]
    pub role: Role,
}

impl From<ApiKey> for ApiKeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            created_at: key.created_at,
            last_used_at: key.last_used_at,
            is_active: key.is_active,
            user: key.user.to_string(),
            role: key.role,
        }
    }
}

/// An API key that was just made: the only time that the key itself is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MintedApiKey {
    /// All that is stored of it.
    #[serde(flatten)]
    pub view: ApiKeyView,
    /// The key itself. Keep it: only its hash is stored.
    #[serde(serialize_with = "reveal", deserialize_with = "conceal")]
    #[schema(value_type = String, example = "afk_…")]
    pub key: Secret,
}

pub(super) fn reveal<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.reveal())
}

fn conceal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}
