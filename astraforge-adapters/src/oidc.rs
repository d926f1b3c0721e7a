//! An OpenID provider: its tokens verified, and browsers logged in by it.

use std::{fmt, sync::Arc};

use astraforge_core::{
    BoxError,
    identity::Identity,
    ports::{
        clock::Clock,
        identity_provider::{
            BegunLogin, EndedLogin, IdentityError, IdentityProvider, LoginAnswer, LoginAsk, TokenFault, Ways,
        },
    },
    repository::Secret,
};
use async_trait::async_trait;

use self::{
    directory::Directory,
    login::Begun,
    token::{Signed, Unverified},
    web::Web,
};
use crate::secret_box::SecretKey;

mod address;
mod checks;
mod claims;
mod directory;
mod keys;
mod login;
mod token;
mod web;

pub use self::claims::ClaimRules;

/// Which provider it is, and what its words mean here.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OidcConfig {
    /// The provider's issuer, exactly as it calls itself: an address with HTTPS, or one of this machine.
    pub issuer: String,
    /// What bearer tokens have to be made for (`aud`). Without one no token is taken.
    pub audience: Option<String>,
    /// What this server is at the provider, for logins of browsers. Without one there are none.
    pub client: Option<OidcClient>,
    /// What claims mean.
    pub claims: ClaimRules,
}

/// What this server is at a provider.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OidcClient {
    /// Its client id.
    pub id: String,
    /// Its secret; a client without one is a public one, with PKCE alone.
    pub secret: Option<Secret>,
    /// What is asked for. Default `openid profile email`.
    pub scopes: Vec<String>,
}

impl OidcConfig {
    /// A provider that nothing is taken from yet: it needs an audience, a client, or both.
    pub fn new(issuer: impl Into<String>, claims: ClaimRules) -> Self {
        Self { issuer: issuer.into(), audience: None, client: None, claims }
    }
}

impl OidcClient {
    /// A public client.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), secret: None, scopes: ["openid", "profile", "email"].map(str::to_owned).to_vec() }
    }
}

/// Why a provider cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OidcConfigError {
    /// Its issuer proves nothing.
    #[error("`{0}` is no issuer: it has to be an address with https:// (or http:// on this machine), without ? and #")]
    Issuer(String),
    /// Nothing is taken from it.
    #[error("an OpenID provider needs an audience for bearer tokens, a client for browsers, or both")]
    Useless,
    /// The client asks for no identity.
    #[error("the scopes have to have `openid` among them")]
    Scopes,
    /// Nothing can be asked of it.
    #[error("what asks an OpenID provider cannot be set up")]
    Web(#[source] BoxError),
}

/// An OpenID provider.
///
/// Nothing is asked of it before something is asked here, so that it may start after this program. What it publishes, its
/// keys among it, is read again when it is ten minutes old, or when there is a token of a key that is not known, at most
/// every five seconds. While it is away, keys that are known go on for an hour.
///
/// The process must have a TLS crypto provider before the first one is made; the library installs none:
///
/// ```
/// use std::sync::Arc;
///
/// use astraforge_adapters::{
///     clock::SystemClock,
///     oidc::{ClaimRules, OidcConfig, OidcProvider},
///     secret_box::SecretKey,
/// };
/// use astraforge_core::{access::Role, id::TenantId};
///
/// let _already_there = rustls::crypto::ring::default_provider().install_default();
/// let mut claims = ClaimRules::new(TenantId::new("acme"));
/// claims.roles.insert("developers".to_owned(), Role::Maintainer);
/// let mut config = OidcConfig::new("https://id.example.org/realms/acme", claims);
/// config.audience = Some("astraforge".to_owned());
/// let provider = OidcProvider::new(config, SecretKey::random()?, Arc::new(SystemClock))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct OidcProvider {
    config: OidcConfig,
    web: Web,
    directory: Directory,
    /// Seals what browsers keep during a login.
    key: SecretKey,
    clock: Arc<dyn Clock>,
}

impl OidcProvider {
    /// A provider; nothing is connected yet. Servers that share `key` end each other's logins.
    ///
    /// # Errors
    /// [`OidcConfigError`] for a value that cannot be used, or when the process has no crypto provider.
    pub fn new(config: OidcConfig, key: SecretKey, clock: Arc<dyn Clock>) -> Result<Self, OidcConfigError> {
        config.check()?;
        let web = Web::new().map_err(OidcConfigError::Web)?;
        let directory = Directory::new(web.clone(), config.issuer.clone(), clock.clone());
        Ok(Self { config, web, directory, key, clock })
    }

    /// Verifies a token of one of these kinds, which is for `audience` and holds now.
    async fn verified(&self, text: &str, audience: &str, kinds: &[&str]) -> Result<Signed, IdentityError> {
        let token = Unverified::read(text)?;
        token.check_kind(kinds)?;
        // Before anybody is asked for keys.
        if token.issuer() != Some(&self.config.issuer) {
            return Err(TokenFault::Issuer.into());
        }
        let published = self.directory.published().await?;
        let signed = match token.verify(&published.keys) {
            Err(TokenFault::UnknownKey) => token.verify(&self.directory.newer_than(Some(published)).await?.keys)?,
            known => known?,
        };
        checks::holds(&signed.claims, audience, self.clock.now())?;
        Ok(signed)
    }

    fn client(&self) -> Result<&OidcClient, IdentityError> {
        self.config.client.as_ref().ok_or(IdentityError::NotOffered("Nobody logs in at an identity provider here."))
    }
}

impl OidcConfig {
    /// Tells what is wrong with it, as far as that can be told without a look at the provider.
    ///
    /// # Errors
    /// [`OidcConfigError`].
    pub fn check(&self) -> Result<(), OidcConfigError> {
        if !address::is_issuer(&self.issuer) {
            return Err(OidcConfigError::Issuer(self.issuer.clone()));
        }
        if self.audience.is_none() && self.client.is_none() {
            return Err(OidcConfigError::Useless);
        }
        if self.client.as_ref().is_some_and(|client| !client.scopes.iter().any(|scope| scope == "openid")) {
            return Err(OidcConfigError::Scopes);
        }
        Ok(())
    }
}

#[async_trait]
impl IdentityProvider for OidcProvider {
    async fn bearer(&self, token: &str) -> Result<Identity, IdentityError> {
        let not_offered =
            IdentityError::NotOffered("Tokens of the identity provider are not taken here; use an API key.");
        let audience = self.config.audience.as_ref().ok_or(not_offered)?;
        let signed = self.verified(token, audience, &["at+jwt"]).await?;
        checks::is_access_token(&signed.claims)?;
        // What shows who logged in is made for the client: where both have one name, silence about the kind is not enough.
        let is_clients_own = self.config.client.as_ref().is_some_and(|client| client.id == *audience);
        if is_clients_own && !checks::says_that_it_gives_access(&signed.claims) {
            return Err(TokenFault::Kind.into());
        }
        self.config.claims.identity(&self.config.issuer, &signed.claims)
    }

    async fn begin_login(&self, ask: LoginAsk) -> Result<BegunLogin, IdentityError> {
        let client = self.client()?;
        let published = self.directory.published().await?;
        Begun::new(ask, self.clock.now())?.begun(client, &published.metadata, &self.key)
    }

    /// # Cancel safety
    /// A dropped call may have used up the code; the login then has to be begun anew.
    async fn end_login(&self, answer: LoginAnswer) -> Result<EndedLogin, IdentityError> {
        let client = self.client()?;
        let begun = Begun::open(&answer, &self.key, self.clock.now()).ok_or(IdentityError::NoSuchLogin)?;
        let published = self.directory.published().await?;
        let has_to_say = published.metadata.authorization_response_iss_parameter_supported;
        if answer.issuer.as_ref().map_or(has_to_say, |issuer| *issuer != self.config.issuer) {
            return Err(IdentityError::NoSuchLogin);
        }
        let code = answer.outcome.map_err(|code| IdentityError::Denied { code })?;
        let tokens = begun.redeem(&code, client, &published, &self.web).await?;
        let mut signed = self.verified(&tokens.id_token, &client.id, &[]).await?;
        checks::is_of_login(&signed.claims, &client.id, &begun.nonce)?;
        tokens.check_access_token(&signed)?;
        if !self.config.claims.are_in(&signed.claims) {
            tokens.more_claims(&published.metadata, &self.web, &mut signed.claims).await?;
        }
        let identity = self.config.claims.identity(&self.config.issuer, &signed.claims)?;
        Ok(EndedLogin { identity, next: begun.next })
    }

    fn ways(&self) -> Ways {
        Ways { browsers: self.config.client.is_some(), bearers: self.config.audience.is_some() }
    }
}

impl fmt::Debug for OidcProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OidcProvider").field("config", &self.config).finish_non_exhaustive()
    }
}
