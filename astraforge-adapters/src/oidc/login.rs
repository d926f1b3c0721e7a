//! The login of a browser: the authorization code flow, with PKCE, a state and a nonce.

use astraforge_core::{
    ports::identity_provider::{BegunLogin, IdentityError, LoginAnswer, LoginAsk, TokenFault},
    repository::Secret,
};
use base64::{Engine as _, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{RequestBuilder, StatusCode, Url};
use ring::digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    OidcClient,
    address::Address,
    directory::{Metadata, Published},
    token::{Claims, Signed},
    web::{Answer, Web, unavailable},
};
use crate::secret_box::SecretKey;

/// How long a login may take.
const LONGEST: TimeDelta = TimeDelta::minutes(10);
/// What is sealed, so that nothing that was sealed for another purpose is taken for it.
const SEAL: &str = "login at an identity provider";

/// A login that was begun. The browser has it, sealed.
#[derive(Serialize, Deserialize)]
pub(super) struct Begun {
    state: String,
    pub(super) nonce: String,
    verifier: String,
    redirect_uri: String,
    pub(super) next: String,
    /// When it is too late, in seconds since 1970.
    until: i64,
}

/// What a provider gives for a code.
#[derive(Deserialize)]
pub(super) struct Tokens {
    pub(super) id_token: String,
    access_token: Option<String>,
}

/// Why a provider gives nothing for a code.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Begun {
    /// Makes up what a login needs.
    pub(super) fn new(ask: LoginAsk, now: DateTime<Utc>) -> Result<Self, IdentityError> {
        Ok(Self {
            state: random()?,
            nonce: random()?,
            verifier: random()?,
            redirect_uri: ask.redirect_uri,
            next: ask.next,
            until: (now + LONGEST).timestamp(),
        })
    }

    /// Where the browser goes with it, and what it has to bring back.
    pub(super) fn begun(
        &self,
        client: &OidcClient,
        metadata: &Metadata,
        key: &SecretKey,
    ) -> Result<BegunLogin, IdentityError> {
        let mut url = needed(metadata.authorization_endpoint.as_ref())?;
        let challenge = BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, self.verifier.as_bytes()));
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &client.id)
            .append_pair("redirect_uri", &self.redirect_uri)
            .append_pair("scope", &client.scopes.join(" "))
            .append_pair("state", &self.state)
            .append_pair("nonce", &self.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        let plain = serde_json::to_vec(self).map_err(|error| unavailable("the login cannot be begun", error))?;
        let sealed = key.seal(&plain, SEAL).map_err(|error| unavailable("the login cannot be begun", error))?;
        Ok(BegunLogin { url: url.into(), sealed: BASE64_URL_SAFE_NO_PAD.encode(sealed) })
    }

    /// Opens what a browser brings back: that of this very login, in time.
    pub(super) fn open(answer: &LoginAnswer, key: &SecretKey, now: DateTime<Utc>) -> Option<Self> {
        let sealed = BASE64_URL_SAFE_NO_PAD.decode(&answer.sealed).ok()?;
        let begun: Self = serde_json::from_slice(&key.open(&sealed, SEAL).ok()?).ok()?;
        (begun.state == answer.state && now.timestamp() < begun.until).then_some(begun)
    }

    /// Gives the provider a code for tokens.
    pub(super) async fn redeem(
        &self,
        code: &str,
        client: &OidcClient,
        published: &Published,
        web: &Web,
    ) -> Result<Tokens, IdentityError> {
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", self.redirect_uri.as_str()),
            ("code_verifier", self.verifier.as_str()),
        ];
        let way = Authentication::of(client, &published.metadata);
        fields.extend(way.fields());
        let request = web.post(needed(published.metadata.token_endpoint.as_ref())?, &fields);
        let answer = Answer::of(way.sign(request)).await?;
        if answer.status == StatusCode::OK {
            return answer.read();
        }
        let status = answer.status;
        match answer.json::<Refusal>().map(|refusal| refusal.error).unwrap_or_default().as_str() {
            "invalid_grant" => Err(IdentityError::NoSuchLogin),
            "invalid_client" | "unauthorized_client" => {
                let told = format!("status {status}; are OIDC_CLIENT_ID and OIDC_CLIENT_SECRET what it knows?");
                Err(unavailable("it does not know this server", told))
            }
            other => {
                let told: String = other.chars().filter(|c| !c.is_control()).take(100).collect();
                Err(unavailable("it gives nothing for its own code", format!("status {status}, `{told}`")))
            }
        }
    }
}

impl Tokens {
    /// Checks that the access token is the one that came with what shows who logged in.
    pub(super) fn check_access_token(&self, signed: &Signed) -> Result<(), TokenFault> {
        let (Some(hash), Some(token)) = (signed.claims.get("at_hash"), &self.access_token) else { return Ok(()) };
        let algorithm = match &signed.algorithm {
            it if it.ends_with("256") => &digest::SHA256,
            it if it.ends_with("384") => &digest::SHA384,
            // Also that of Ed25519, which signs with this one inside.
            _ => &digest::SHA512,
        };
        let digest = digest::digest(algorithm, token.as_bytes());
        let half = BASE64_URL_SAFE_NO_PAD.encode(&digest.as_ref()[..digest.as_ref().len() / 2]);
        if hash.as_str() == Some(&half) { Ok(()) } else { Err(TokenFault::AccessToken) }
    }

    /// What the provider tells of them besides, where it does.
    pub(super) async fn more_claims(
        &self,
        metadata: &Metadata,
        web: &Web,
        own: &mut Claims,
    ) -> Result<(), IdentityError> {
        let (Some(place), Some(token)) = (&metadata.userinfo_endpoint, &self.access_token) else { return Ok(()) };
        let more: Claims = Answer::of(web.get(place.0.clone()).bearer_auth(token)).await?.read()?;
        if more.get("sub").and_then(Value::as_str).is_none() || more.get("sub") != own.get("sub") {
            return Err(unavailable("it tells of somebody else than who logged in", "another `sub` in its user info"));
        }
        // What is signed comes first.
        for (name, value) in more {
            own.entry(name).or_insert(value);
        }
        Ok(())
    }
}

/// How this server shows a provider who it is.
enum Authentication<'a> {
    /// By its name alone: PKCE binds the code to it.
    Public(&'a str),
    /// With the secret in a header.
    Header(&'a str, &'a Secret),
    /// With the secret in the form.
    Form(&'a str, &'a Secret),
}

impl<'a> Authentication<'a> {
    fn of(client: &'a OidcClient, metadata: &Metadata) -> Self {
        let Some(secret) = &client.secret else { return Self::Public(&client.id) };
        let ways = metadata.token_endpoint_auth_methods_supported.as_deref();
        let takes = |way: &str| ways.is_some_and(|ways| ways.iter().any(|it| it == way));
        // A provider that does not say takes the header.
        if takes("client_secret_post") && !takes("client_secret_basic") {
            Self::Form(&client.id, secret)
        } else {
            Self::Header(&client.id, secret)
        }
    }

    fn fields(&self) -> Vec<(&'static str, &'a str)> {
        match *self {
            Self::Public(id) => vec![("client_id", id)],
            Self::Header(..) => Vec::new(),
            Self::Form(id, secret) => vec![("client_id", id), ("client_secret", secret.reveal())],
        }
    }

    fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        let Self::Header(id, secret) = self else { return request };
        // As in a form, so that a colon or any other character is no trouble (RFC 6749, 2.3.1).
        let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let both = format!("{}:{}", encoded(id), encoded(secret.reveal()));
        let mut value = reqwest::header::HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(both)))
            .unwrap_or_else(|_| reqwest::header::HeaderValue::from_static("Basic"));
        value.set_sensitive(true);
        request.header(reqwest::header::AUTHORIZATION, value)
    }
}

fn needed(address: Option<&Address>) -> Result<Url, IdentityError> {
    address
        .map(|address| address.0.clone())
        .ok_or_else(|| unavailable("it has no logins of browsers", "an endpoint is missing in its metadata"))
}

/// A text that nobody guesses: 32 random bytes, in 43 characters.
fn random() -> Result<String, IdentityError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| unavailable("the login cannot be begun", error.to_string()))?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}
