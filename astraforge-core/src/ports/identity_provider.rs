//! The port for an identity provider: whose word it is that somebody is who they are.

use std::fmt;

use async_trait::async_trait;

use crate::{BoxError, identity::Identity};

/// Tells whom a provider's tokens stand for, and sends browsers there to log in.
///
/// # Contract
/// - Nobody is told to be somebody before their token was verified; what cannot be verified is refused.
/// - A login is ended only with what it was begun with, by whoever has that, and for ten minutes.
/// - No call blocks for longer than it takes to ask the provider once or twice, with a deadline.
#[async_trait]
pub trait IdentityProvider: fmt::Debug + Send + Sync + 'static {
    /// Finds whom a bearer token stands for.
    async fn bearer(&self, token: &str) -> Result<Identity, IdentityError>;

    /// Begins the login of a browser.
    async fn begin_login(&self, ask: LoginAsk) -> Result<BegunLogin, IdentityError>;

    /// Ends the login of a browser with what it brings back.
    async fn end_login(&self, answer: LoginAnswer) -> Result<EndedLogin, IdentityError>;

    /// Which of both are offered here.
    fn ways(&self) -> Ways;
}

/// What an identity provider is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways {
    /// Browsers can log in.
    pub browsers: bool,
    /// Bearer tokens are taken.
    pub bearers: bool,
}

/// A browser that wants to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginAsk {
    /// Where the provider sends it afterwards.
    pub redirect_uri: String,
    /// Where it wants to be in the end. It is kept as it is: whoever asks has to know that it is harmless.
    pub next: String,
}

/// A login that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BegunLogin {
    /// Where the browser goes now.
    pub url: String,
    /// What it has to bring back besides, in letters, digits, `-` and `_`. Nobody can read or change it.
    pub sealed: String,
}

/// What a browser brings back from the provider.
#[derive(Clone, PartialEq, Eq)]
pub struct LoginAnswer {
    /// What it was given when the login began.
    pub sealed: String,
    /// What the provider passed on of the beginning.
    pub state: String,
    /// Who says so, where it is said.
    pub issuer: Option<String>,
    /// The code that shows who logged in, or why nobody did.
    pub outcome: Result<String, String>,
}

impl fmt::Debug for LoginAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = self.outcome.as_ref().map(|_| "***");
        f.debug_struct("LoginAnswer").field("issuer", &self.issuer).field("outcome", &outcome).finish_non_exhaustive()
    }
}

/// A login that ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedLogin {
    /// Who it is.
    pub identity: Identity,
    /// Where the browser wanted to be.
    pub next: String,
}

/// Why nobody is told to be anybody.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The token proves nothing.
    #[error("the token {0}")]
    Refused(TokenFault),
    /// It proves who it is, and they may not come in.
    #[error("{reason}")]
    NotAdmitted {
        /// Why not, and what to do.
        reason: String,
    },
    /// What the browser brings back does not belong to a login that it began a short while ago.
    #[error(
        "this login was not begun in this browser, or more than ten minutes ago, or has ended already: begin it anew"
    )]
    NoSuchLogin,
    /// The provider did not let them in, or they did not want to.
    #[error("the identity provider let nobody in: {code}")]
    Denied {
        /// Why, in a word of the protocol.
        code: String,
    },
    /// This way is not offered.
    #[error("{0}")]
    NotOffered(&'static str),
    /// The provider could not be asked, or what it answered is of no use.
    #[error("the identity provider cannot be used now: {trouble}")]
    Unavailable {
        /// What went wrong, in words that anybody may read.
        trouble: &'static str,
        /// The same in detail, for the log.
        #[source]
        source: BoxError,
    },
}

/// What is wrong with a token. The words follow "the token", and have neither quotes nor what the token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFault {
    /// It is too long to be read.
    #[error("is longer than 16 KiB")]
    TooLong,
    /// It is no token, or lacks what every token has.
    #[error("is not a signed JSON Web Token")]
    Malformed,
    /// It is of another kind, such as one that shows who logged in.
    #[error("is of a kind that opens nothing here: an access token is needed")]
    Kind,
    /// It has to be used with a proof that nobody here checks.
    #[error("is bound to a key of its bearer, which is not supported: ask for a plain bearer token")]
    Bound,
    /// It asks for something that has to be understood and is not.
    #[error("has an extension that is not understood")]
    Extension,
    /// No key of the provider signs like that.
    #[error("is signed in a way that its key is not for")]
    Algorithm,
    /// The provider has no such key.
    #[error("is signed with a key that the issuer does not publish")]
    UnknownKey,
    /// Somebody else made it, or changed it.
    #[error("has a wrong signature")]
    Signature,
    /// Somebody else made it.
    #[error("is of another issuer")]
    Issuer,
    /// It is for somebody else.
    #[error("is for another audience")]
    Audience,
    /// Its time is over.
    #[error("has expired")]
    Expired,
    /// Its time has not come.
    #[error("is not valid yet")]
    NotYet,
    /// It was asked for by another login.
    #[error("belongs to another login")]
    Nonce,
    /// It came with an access token that it was not made for.
    #[error("came with an access token that is not its own")]
    AccessToken,
    /// A claim is missing, or is not what it has to be.
    #[error("lacks the claim {0}, or has it in a form that cannot be read")]
    Claim(&'static str),
}

impl From<TokenFault> for IdentityError {
    fn from(fault: TokenFault) -> Self {
        Self::Refused(fault)
    }
}
