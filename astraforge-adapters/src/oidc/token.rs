//! JSON Web Tokens: reading them, which proves nothing, and verifying them.

use astraforge_core::ports::identity_provider::TokenFault;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::keys::KeySet;

/// The longest token that is read, in bytes.
const LONGEST: usize = 16 * 1024;

/// What a token says.
pub(super) type Claims = Map<String, Value>;

/// A token that was read and may be anybody's work.
pub(super) struct Unverified<'a> {
    header: Header,
    claims: Claims,
    signed: &'a str,
    signature: Vec<u8>,
}

/// A token that its issuer signed. Whom it is for, and when, is another question.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) claims: Claims,
    /// How it was signed.
    pub(super) algorithm: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

impl<'a> Unverified<'a> {
    /// Reads a token in its compact form.
    pub(super) fn read(text: &'a str) -> Result<Self, TokenFault> {
        if text.len() > LONGEST {
            return Err(TokenFault::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenFault::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenFault::Malformed)?;
        let header: Header = json(header)?;
        if header.crit.is_some() {
            return Err(TokenFault::Extension);
        }
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenFault::Malformed)?;
        Ok(Self { header, claims: json(claims)?, signed, signature })
    }

    /// Who is said to have made it.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// Refuses a token whose header says that it is something else than `kinds`, or than a token of no special kind.
    pub(super) fn check_kind(&self, kinds: &[&str]) -> Result<(), TokenFault> {
        let Some(kind) = self.header.typ.as_deref() else { return Ok(()) };
        let kind = kind.strip_prefix("application/").unwrap_or(kind);
        let is_fine = ["JWT"].iter().chain(kinds).any(|known| known.eq_ignore_ascii_case(kind));
        if is_fine { Ok(()) } else { Err(TokenFault::Kind) }
    }

    /// Verifies it with its issuer's keys.
    pub(super) fn verify(&self, keys: &KeySet) -> Result<Signed, TokenFault> {
        let Header { alg, kid, .. } = &self.header;
        keys.verify(kid.as_deref(), alg, self.signed.as_bytes(), &self.signature)?;
        Ok(Signed { claims: self.claims.clone(), algorithm: alg.clone() })
    }
}

fn json<T: DeserializeOwned>(part: &str) -> Result<T, TokenFault> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenFault::Malformed)
}
