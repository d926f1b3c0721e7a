//! People who log in.

use astraforge_core::{account::Account, repository::Secret};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

/// Somebody who wants an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RegisterBody {
    /// Their name; at most 150 characters.
    #[schema(example = "mira", max_length = 150)]
    pub username: String,
    /// Their e-mail address, or empty.
    #[schema(required = false)]
    pub email: String,
    /// Their password, of 8 characters at least; every character counts.
    #[serde(serialize_with = "reveal")]
    #[schema(value_type = String, min_length = 8, write_only)]
    pub password: Secret,
}

/// Somebody who logs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LoginBody {
    /// Their name.
    #[schema(example = "mira")]
    pub username: String,
    /// Their password.
    #[serde(serialize_with = "reveal")]
    #[schema(value_type = String, write_only)]
    pub password: Secret,
}

/// Somebody who is logged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccountView {
    /// Their name.
    pub username: String,
    /// Their e-mail address, or empty.
    pub email: String,
}

impl From<Account> for AccountView {
    fn from(account: Account) -> Self {
        Self { username: account.user.as_str().to_owned(), email: account.email }
    }
}

fn reveal<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.reveal())
}
