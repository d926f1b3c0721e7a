//! The ways in which people log in.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which ways of logging in a server has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoginMethods {
    /// Whether there are logins with a name and a password.
    pub password: bool,
    /// Whether people may add themselves.
    pub registration: bool,
    /// The identity provider at which people log in; null where there is none.
    pub oidc: Option<ProviderLogin>,
}

/// How people log in at an identity provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProviderLogin {
    /// Where a browser goes for that, on this server; `?next=/…` says where it is sent in the end.
    #[schema(example = "/api/auth/oidc/login/")]
    pub login_url: String,
    /// What the provider is called, for people.
    #[schema(example = "Single sign-on")]
    pub name: String,
}
