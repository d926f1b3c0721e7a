//! What a provider publishes of itself, its addresses and keys: read when it is needed, and kept for a while.

use std::sync::{Arc, Mutex, PoisonError};

use astraforge_core::{
    error::chain,
    ports::{clock::Clock, identity_provider::IdentityError},
};
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Url;
use serde::Deserialize;
use tokio::sync::Mutex as Turns;

use super::{
    address::{Address, is_safe},
    keys::{KeySet, PublishedKeys},
    web::{Answer, Web, unavailable},
};

/// For how long nobody asks again, unless there is a token of a key that is not known.
const FRESH: TimeDelta = TimeDelta::minutes(10);
/// For how long what is known goes on while the provider is away.
const KEPT: TimeDelta = TimeDelta::hours(1);
/// The least time between two readings, however many tokens there are of keys that are not known.
const PAUSE: TimeDelta = TimeDelta::seconds(5);

/// What one provider publishes. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Directory(Arc<Shelf>);

#[derive(Debug)]
struct Shelf {
    web: Web,
    issuer: String,
    clock: Arc<dyn Clock>,
    known: Mutex<Option<Arc<Published>>>,
    /// Whoever has it reads; what others then find is how that went.
    turn: Turns<Option<Reading>>,
}

/// What was published at some time.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) metadata: Metadata,
    pub(super) keys: KeySet,
    read_at: DateTime<Utc>,
}

/// How the last reading went.
#[derive(Debug, Clone, Copy)]
struct Reading {
    ended_at: DateTime<Utc>,
    trouble: Option<&'static str>,
}

/// The provider's own description, as far as it matters here.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    issuer: String,
    jwks_uri: Address,
    pub(super) authorization_endpoint: Option<Address>,
    pub(super) token_endpoint: Option<Address>,
    pub(super) userinfo_endpoint: Option<Address>,
    pub(super) token_endpoint_auth_methods_supported: Option<Vec<String>>,
    /// Whether it says who it is when it sends a browser back.
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
}

impl Directory {
    pub(super) fn new(web: Web, issuer: String, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shelf { web, issuer, clock, known: Mutex::default(), turn: Turns::default() }))
    }

    /// What is known. What is no longer fresh is read again meanwhile, and what is too old before.
    pub(super) async fn published(&self) -> Result<Arc<Published>, IdentityError> {
        let Some(known) = self.known() else { return self.newer_than(None).await };
        match self.age(known.read_at) {
            age if age < FRESH => Ok(known),
            age if age < KEPT => {
                let (this, seen) = (self.clone(), known.clone());
                tokio::spawn(async move {
                    if let Ok(turn) = this.0.turn.try_lock() {
                        // It tells of its troubles itself.
                        drop(this.read_in_turn(turn, Some(seen)).await);
                    }
                });
                Ok(known)
            }
            _ => self.newer_than(Some(known)).await,
        }
    }

    /// Reads again, unless somebody else has done so since `seen`, or a moment ago.
    pub(super) async fn newer_than(&self, seen: Option<Arc<Published>>) -> Result<Arc<Published>, IdentityError> {
        let this = self.clone();
        // A task of its own: a caller who hangs up must not take with them what others wait for.
        let reading = tokio::spawn(async move { this.read_in_turn(this.0.turn.lock().await, seen).await });
        reading.await.map_err(|error| unavailable("it could not be asked", error))?
    }

    async fn read_in_turn(
        &self,
        mut turn: tokio::sync::MutexGuard<'_, Option<Reading>>,
        seen: Option<Arc<Published>>,
    ) -> Result<Arc<Published>, IdentityError> {
        let known = self.known();
        if let Some(known) = known.clone().filter(|known| seen.is_none_or(|seen| !Arc::ptr_eq(known, &seen))) {
            return Ok(known);
        }
        if let Some(last) = turn.filter(|last| self.age(last.ended_at) < PAUSE) {
            return match (known, last.trouble) {
                (Some(known), None) => Ok(known),
                (_, trouble) => Err(unavailable(trouble.unwrap_or("it does not answer"), "it was asked a moment ago")),
            };
        }
        let read = self.0.read().await;
        let trouble = match &read {
            Ok(_) => None,
            Err(IdentityError::Unavailable { trouble, .. }) => Some(*trouble),
            Err(_) => Some("it cannot be read"),
        };
        *turn = Some(Reading { ended_at: self.0.clock.now(), trouble });
        match &read {
            Ok(published) => *self.0.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(published.clone()),
            Err(error) => {
                tracing::warn!(issuer = self.0.issuer, error = chain(error), "cannot read an identity provider")
            }
        }
        read
    }

    fn known(&self) -> Option<Arc<Published>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long ago something was. What lies ahead, because somebody set the clock, is as good as long ago.
    fn age(&self, then: DateTime<Utc>) -> TimeDelta {
        let age = self.0.clock.now() - then;
        if age < TimeDelta::zero() { TimeDelta::MAX } else { age }
    }
}

impl Shelf {
    async fn read(&self) -> Result<Arc<Published>, IdentityError> {
        let place = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let place = Url::parse(&place).map_err(|error| unavailable("its address is none", error))?;
        let metadata: Metadata = Answer::of(self.web.get(place)).await?.read()?;
        if metadata.issuer != self.issuer {
            let told = format!("it says that it is `{}`, not `{}`", metadata.issuer, self.issuer);
            return Err(unavailable("it calls itself by another name than is configured", told));
        }
        let addresses = [&metadata.authorization_endpoint, &metadata.token_endpoint, &metadata.userinfo_endpoint];
        for address in addresses.into_iter().flatten().chain([&metadata.jwks_uri]) {
            if !is_safe(&address.0, &self.issuer) {
                return Err(unavailable("one of its addresses is not HTTPS", format!("`{}`", address.0)));
            }
        }
        let published: PublishedKeys = Answer::of(self.web.get(metadata.jwks_uri.0.clone())).await?.read()?;
        let keys = KeySet::read(&published);
        if keys.is_empty() {
            return Err(unavailable(
                "it publishes no key that can be used",
                "no key for RS, PS, ES256, ES384 or EdDSA",
            ));
        }
        Ok(Arc::new(Published { metadata, keys, read_at: self.clock.now() }))
    }
}
