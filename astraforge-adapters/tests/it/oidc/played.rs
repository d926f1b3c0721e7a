//! A provider that says what a test wants it to.

use std::sync::{Arc, Mutex, MutexGuard};

use astraforge_adapters::{
    oidc::{ClaimRules, OidcClient, OidcConfig, OidcProvider},
    secret_box::SecretKey,
};
use astraforge_core::{
    access::Role,
    id::TenantId,
    ports::{
        clock::Clock as _,
        identity_provider::{IdentityError, IdentityProvider as _, TokenFault},
        model::ModelAnswer,
    },
    repository::Secret,
    testing::TestClock,
};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use super::signer::Signer;
use crate::models_server::{Received, Server};

/// A provider, and what asks it.
pub(crate) struct Played {
    pub(crate) server: Server,
    pub(crate) clock: TestClock,
    pub(crate) provider: OidcProvider,
    says: Arc<Mutex<Says>>,
}

/// What the provider says.
#[derive(Default)]
pub(crate) struct Says {
    /// It fails whatever it is asked.
    pub(crate) is_broken: bool,
    /// Its keys.
    pub(crate) keys: Vec<Value>,
    /// What it says of itself beside the usual.
    pub(crate) metadata: Value,
    /// What it answers to codes, with which status.
    pub(crate) token: (u16, Value),
    /// What it tells of people.
    pub(crate) user_info: Value,
    /// Where it sends everybody instead.
    pub(crate) redirect: Option<String>,
}

impl Played {
    /// One with these keys, and with bearers and browsers.
    pub(crate) async fn with(keys: &[&Signer]) -> Self {
        _ = rustls::crypto::ring::default_provider().install_default();
        let says = Says { keys: keys.iter().map(|key| key.published()).collect(), ..Says::default() };
        let says = Arc::new(Mutex::new(says));
        let (heard, address) = (says.clone(), Arc::<Mutex<String>>::default());
        let own = address.clone();
        let server = Server::start(move |asked| {
            let answer = answer(&asked, &heard.lock().unwrap(), &own.lock().unwrap());
            async { answer }
        })
        .await;
        *address.lock().unwrap() = server.url.clone();
        let mut claims = ClaimRules::new(TenantId::new("acme"));
        claims.roles.insert("devs".to_owned(), Role::Maintainer);
        let mut config = OidcConfig::new(&server.url, claims);
        config.audience = Some("forge".to_owned());
        let mut client = OidcClient::new("forge-pages");
        client.secret = Some(Secret::new("se:cret"));
        config.client = Some(client);
        let clock = TestClock::new();
        let provider = OidcProvider::new(config, SecretKey::new(&[7; 32]), Arc::new(clock.clone())).unwrap();
        Self { server, clock, provider, says }
    }

    pub(crate) fn says(&self) -> MutexGuard<'_, Says> {
        self.says.lock().unwrap()
    }

    /// Claims of a token that is fine, with some of them changed; null takes one away.
    pub(crate) fn claims(&self, with: Value) -> Value {
        let now = self.clock.now().timestamp();
        let mut claims = json!({
            "iss": self.server.url, "sub": "1", "aud": "forge", "exp": now + 300, "iat": now, "roles": ["devs"],
        });
        let all = claims.as_object_mut().unwrap();
        all.extend(with.as_object().unwrap().clone());
        all.retain(|_, value| !value.is_null());
        claims
    }

    /// What comes of a bearer token: the name of who it is, or what is wrong.
    pub(crate) async fn bearer(&self, token: &str) -> Result<String, TokenFault> {
        match self.provider.bearer(token).await {
            Ok(identity) => Ok(identity.user.as_str().to_owned()),
            Err(IdentityError::Refused(fault)) => Err(fault),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// What is in trouble with the provider when a token is to be verified.
    pub(crate) async fn trouble(&self, token: &str) -> &'static str {
        match self.provider.bearer(token).await {
            Err(IdentityError::Unavailable { trouble, .. }) => trouble,
            other => panic!("{other:?}"),
        }
    }

    /// How often it was asked for its keys.
    pub(crate) fn n_readings(&self) -> usize {
        self.server.received().iter().filter(|asked| asked.path == "/jwks").count()
    }
}

fn answer(asked: &Received, says: &Says, own: &str) -> Option<ModelAnswer> {
    if let Some(place) = &says.redirect {
        let headers = vec![("location".to_owned(), format!("{place}{}", asked.path))];
        return Some(ModelAnswer { status: 302, headers, body: stream::empty().boxed() });
    }
    let path = asked.path.split('?').next().unwrap();
    let (status, body) = match path {
        _ if says.is_broken => (500, json!({})),
        "/.well-known/openid-configuration" => {
            let mut metadata = json!({
                "issuer": own, "jwks_uri": format!("{own}/jwks"),
                "authorization_endpoint": format!("{own}/authorize?x=1"), "token_endpoint": format!("{own}/token"),
                "userinfo_endpoint": format!("{own}/userinfo"),
            });
            metadata.as_object_mut().unwrap().extend(says.metadata.as_object().cloned().unwrap_or_default());
            (200, metadata)
        }
        "/jwks" => (200, json!({ "keys": says.keys })),
        "/token" => says.token.clone(),
        "/userinfo" => (200, says.user_info.clone()),
        _ => (404, json!({})),
    };
    let body = stream::iter([Ok(Bytes::from(body.to_string()))]).boxed();
    Some(ModelAnswer { status, headers: vec![("content-type".to_owned(), "application/json".to_owned())], body })
}
