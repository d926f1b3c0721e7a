//! API keys.

use astraforge_core::{
    access::{Action, ApiKey, Role, Scopes},
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
    /// Which part of what the role allows it is for; additive, all of it unless set.
    #[serde(with = "scopes", skip_serializing_if = "is_for_all")]
    #[schema(schema_with = schema::scopes, required = false)]
    pub scopes: Scopes,
    /// From when on it opens nothing; additive, it does not end by itself unless set.
    #[serde(with = "timestamp::row::optional", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
}

impl NewApiKey {
    /// A key for the caller.
    pub fn new(name: impl Into<String>, role: Role) -> Self {
        Self { name: name.into(), role, user: None, scopes: Scopes::All, expires_at: None }
    }

    /// The same key, for some actions only.
    #[must_use]
    pub fn with_scopes(self, actions: impl IntoIterator<Item = Action>) -> Self {
        Self { scopes: Scopes::Only(actions.into_iter().collect()), ..self }
    }

    /// The same key, which ends by itself.
    #[must_use]
    pub fn with_end(self, at: DateTime<Utc>) -> Self {
        Self { expires_at: Some(at), ..self }
    }
}

fn is_for_all(scopes: &Scopes) -> bool {
    *scopes == Scopes::All
}

/// An API key, without the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKeyView {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: ApiKeyId,
    /// Its name, for people.
    pub name: String,
    /// What the key begins with, to know it by; additive, empty for one that was made before this was kept.
    #[serde(default)]
    #[schema(example = "afk_3xYz0Q1b")]
    pub prefix: String,
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
    /// Which part of that it is for; additive, `null` for all of it.
    #[serde(with = "scopes", default)]
    #[schema(schema_with = schema::maybe_scopes)]
    pub scopes: Scopes,
    /// From when on it opens nothing; additive, `null` if it does not end by itself.
    #[serde(with = "timestamp::row::optional", default)]
    pub expires_at: Option<DateTime<Utc>>,
}

impl From<ApiKey> for ApiKeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            prefix: key.prefix,
            created_at: key.created_at,
            last_used_at: key.last_used_at,
            is_active: key.is_active,
            user: key.user.to_string(),
            role: key.role,
            scopes: key.scopes,
            expires_at: key.expires_at,
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

/// Scopes as a list of names, and all of them as nothing.
mod scopes {
    use astraforge_core::access::{Action, ParseActionError, Scopes};
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(scopes: &Scopes, serializer: S) -> Result<S::Ok, S::Error> {
        let names = match scopes {
            Scopes::All => None,
            Scopes::Only(actions) => Some(actions.iter().map(|action| action.as_str()).collect::<Vec<_>>()),
        };
        names.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Scopes, D::Error> {
        let Some(names) = Option::<Vec<String>>::deserialize(deserializer)? else { return Ok(Scopes::All) };
        let actions: Result<_, ParseActionError> = names.iter().map(|name| name.parse::<Action>()).collect();
        actions.map(Scopes::Only).map_err(D::Error::custom)
    }
}
