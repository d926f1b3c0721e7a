//! An identity provider that lets in whom a test says.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;

use super::samples;
use crate::{
    access::Role,
    id::UserId,
    identity::{Identity, Subject},
    ports::identity_provider::{
        BegunLogin, EndedLogin, IdentityError, IdentityProvider, LoginAnswer, LoginAsk, TokenFault, Ways,
    },
};

/// Lets in whom a test says: a bearer token, or a code, stands for whoever was put under that text.
#[derive(Debug, Default)]
pub struct PlayedIdentities {
    people: Mutex<BTreeMap<String, Identity>>,
    away: Mutex<bool>,
}

impl PlayedIdentities {
    /// Somebody of that name, with a subject of the same name.
    pub fn somebody(name: &str, role: Role) -> Identity {
        Identity {
            subject: Subject { issuer: "https://provider.test".to_owned(), id: format!("subject of {name}") },
            user: UserId::new(name),
            tenant: samples::tenant(),
            role,
            email: format!("{name}@example.org"),
        }
    }

    /// Has a token or a code stand for somebody from now on.
    pub fn put(&self, text: &str, identity: Identity) {
        self.people.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned(), identity);
    }

    /// Whether the provider is out of reach from now on.
    pub fn is_away(&self, away: bool) {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = away;
    }

    fn find(&self, text: &str) -> Result<Identity, IdentityError> {
        if *self.away.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(IdentityError::Unavailable {
                trouble: "it does not answer",
                source: "a secret address".into(),
            });
        }
        let found = self.people.lock().unwrap_or_else(PoisonError::into_inner).get(text).cloned();
        found.ok_or(IdentityError::Refused(TokenFault::Signature))
    }
}

#[async_trait]
impl IdentityProvider for PlayedIdentities {
    async fn bearer(&self, token: &str) -> Result<Identity, IdentityError> {
        let identity = self.find(token)?;
        match identity.user.as_str() {
            "nobody" => Err(IdentityError::NotAdmitted { reason: "no role of the token is known here".to_owned() }),
            _ => Ok(identity),
        }
    }

    async fn begin_login(&self, ask: LoginAsk) -> Result<BegunLogin, IdentityError> {
        let url = format!("https://provider.test/authorize?redirect_uri={}", ask.redirect_uri);
        let sealed = ask.next.bytes().map(|byte| format!("{byte:02x}")).collect();
        Ok(BegunLogin { url, sealed })
    }

    async fn end_login(&self, answer: LoginAnswer) -> Result<EndedLogin, IdentityError> {
        if answer.state != "the state" {
            return Err(IdentityError::NoSuchLogin);
        }
        let code = answer.outcome.map_err(|code| IdentityError::Denied { code })?;
        let hex = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let next = answer.sealed.as_bytes().chunks(2).map(hex).collect();
        Ok(EndedLogin { identity: self.find(&code)?, next: String::from_utf8(next).unwrap() })
    }

    fn ways(&self) -> Ways {
        Ways { browsers: true, bearers: true }
    }
}
