//! Logins of browsers at a provider, and what may go wrong or be made up on the way.

use std::{collections::HashMap, time::Duration};

use astraforge_core::{
    access::Role,
    ports::identity_provider::{
        BegunLogin, EndedLogin, IdentityError, IdentityProvider as _, LoginAnswer, LoginAsk, TokenFault,
    },
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use reqwest::Url;
use ring::digest;
use serde_json::{Value, json};

use super::{played::Played, signer::Signer};

const CALLBACK: &str = "https://forge.example/api/auth/oidc/callback/";

/// A browser on its way through a login.
struct Trip {
    begun: BegunLogin,
    asked: HashMap<String, String>,
}

impl Trip {
    async fn begin(played: &Played) -> Self {
        let ask = LoginAsk { redirect_uri: CALLBACK.to_owned(), next: "/requests".to_owned() };
        let begun = played.provider.begin_login(ask).await.unwrap();
        let asked = Url::parse(&begun.url).unwrap().query_pairs().into_owned().collect();
        Self { begun, asked }
    }

    fn answer(&self) -> LoginAnswer {
        let (sealed, state) = (self.begun.sealed.clone(), self.asked["state"].clone());
        LoginAnswer { sealed, state, issuer: None, outcome: Ok("the code".to_owned()) }
    }

    /// Has the provider give a token with these claims for the code.
    fn gives(&self, played: &Played, key: &Signer, with: Value) {
        let mut claims = json!({"aud": "forge-pages", "nonce": self.asked["nonce"]});
        claims.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        let id_token = key.token(&played.claims(claims));
        played.says().token = (200, json!({"id_token": id_token, "access_token": "access", "token_type": "Bearer"}));
    }

    async fn end(&self, played: &Played) -> Result<EndedLogin, IdentityError> {
        played.provider.end_login(self.answer()).await
    }
}

#[track_caller]
fn check_fault(ended: Result<EndedLogin, IdentityError>, expected: TokenFault) {
    assert!(matches!(ended, Err(IdentityError::Refused(fault)) if fault == expected), "{ended:?}");
}

#[track_caller]
fn is_no_such_login(ended: Result<EndedLogin, IdentityError>) {
    assert!(matches!(ended, Err(IdentityError::NoSuchLogin)), "{ended:?}");
}

#[tokio::test]
async fn somebody_logs_in() {
    let key = Signer::ed25519("a");
    let played = Played::with(&[&key]).await;
    let trip = Trip::begin(&played).await;
    assert!(trip.begun.url.starts_with(&format!("{}/authorize?x=1&", played.server.url)), "{}", trip.begun.url);
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "forge-pages"),
        ("redirect_uri", CALLBACK),
        ("scope", "openid profile email"),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(trip.asked[name], value, "{name}");
    }
    // The half of the hash that Ed25519 has inside.
    let hash = BASE64_URL_SAFE_NO_PAD.encode(&digest::digest(&digest::SHA512, b"access").as_ref()[..32]);
    trip.gives(&played, &key, json!({"at_hash": hash, "preferred_username": "mira"}));
    played.says().user_info = json!({"sub": "1", "email": "mira@example.org", "roles": [], "preferred_username": "x"});
    let ended = trip.end(&played).await.unwrap();
    assert_eq!(
        (ended.next.as_str(), ended.identity.user.as_str()),
        ("/requests", "mira"),
        "what is signed comes first"
    );
    assert_eq!((ended.identity.role, ended.identity.email.as_str()), (Role::Maintainer, "mira@example.org"));
    assert_eq!(
        (ended.identity.subject.issuer.as_str(), ended.identity.subject.id.as_str()),
        (played.server.url.as_str(), "1")
    );

    let received = played.server.received();
    let redeemed = received.iter().find(|asked| asked.path == "/token").unwrap();
    let form = String::from_utf8(redeemed.body.to_vec()).unwrap();
    let form: HashMap<_, _> = Url::parse(&format!("http://x/?{form}")).unwrap().query_pairs().into_owned().collect();
    assert_eq!((form["grant_type"].as_str(), form["code"].as_str()), ("authorization_code", "the code"));
    let challenge = digest::digest(&digest::SHA256, form["code_verifier"].as_bytes());
    assert_eq!(BASE64_URL_SAFE_NO_PAD.encode(challenge), trip.asked["code_challenge"]);
    assert!((43..=128).contains(&form["code_verifier"].len()));
    let basic = base64::prelude::BASE64_STANDARD.encode("forge-pages:se%3Acret");
    assert_eq!(redeemed.header("authorization"), Some(format!("Basic {basic}").as_str()));
    assert_eq!(form.get("client_secret"), None);
    let told = received.iter().find(|asked| asked.path == "/userinfo").unwrap();
    assert_eq!(told.header("authorization"), Some("Bearer access"));
}

#[tokio::test]
async fn a_provider_that_takes_secrets_in_forms_gets_it_there() {
    let key = Signer::p256("a");
    let played = Played::with(&[&key]).await;
    played.says().metadata = json!({"token_endpoint_auth_methods_supported": ["client_secret_post"]});
    let trip = Trip::begin(&played).await;
    trip.gives(&played, &key, json!({"preferred_username": "mira", "email": "m@example.org"}));
    trip.end(&played).await.unwrap();
    let received = played.server.received();
    let redeemed = received.iter().find(|asked| asked.path == "/token").unwrap();
    assert_eq!(redeemed.header("authorization"), None);
    let form = String::from_utf8(redeemed.body.to_vec()).unwrap();
    assert!(form.contains("client_secret=se%3Acret") && form.contains("client_id=forge-pages"), "{form}");
    assert!(!received.iter().any(|asked| asked.path == "/userinfo"), "nothing is missing");
}

#[tokio::test]
async fn a_login_ends_in_the_browser_that_began_it_and_in_time() {
    let key = Signer::p256("a");
    let played = Played::with(&[&key]).await;
    let (mine, other) = (Trip::begin(&played).await, Trip::begin(&played).await);
    mine.gives(&played, &key, json!({"preferred_username": "mira", "email": ""}));
    let foreign = LoginAnswer { sealed: other.begun.sealed.clone(), ..mine.answer() };
    is_no_such_login(played.provider.end_login(foreign).await);
    for state in ["", "x"] {
        is_no_such_login(played.provider.end_login(LoginAnswer { state: state.to_owned(), ..mine.answer() }).await);
    }
    let mut changed = mine.begun.sealed.clone().into_bytes();
    let middle = changed.len() / 2;
    changed[middle] = if changed[middle] == b'A' { b'B' } else { b'A' };
    for sealed in [String::new(), "e30".to_owned(), "\u{fc}".to_owned(), String::from_utf8(changed).unwrap()] {
        is_no_such_login(played.provider.end_login(LoginAnswer { sealed, ..mine.answer() }).await);
    }
    let elsewhere = LoginAnswer { issuer: Some("https://other.example".to_owned()), ..mine.answer() };
    is_no_such_login(played.provider.end_login(elsewhere).await);
    let denied = LoginAnswer { outcome: Err("access_denied".to_owned()), ..mine.answer() };
    let denied = played.provider.end_login(denied).await;
    assert!(matches!(&denied, Err(IdentityError::Denied { code }) if code == "access_denied"), "{denied:?}");
    assert!(!played.server.received().iter().any(|asked| asked.path == "/token"), "nothing of that is a question");
    played.clock.advance(Duration::from_secs(599));
    mine.gives(&played, &key, json!({"preferred_username": "mira", "email": ""}));
    assert!(mine.end(&played).await.is_ok());
    played.clock.advance(Duration::from_secs(1));
    is_no_such_login(mine.end(&played).await);
}

#[tokio::test]
async fn a_provider_that_says_who_it_is_has_to_say_so() {
    let key = Signer::p256("a");
    let played = Played::with(&[&key]).await;
    played.says().metadata = json!({"authorization_response_iss_parameter_supported": true});
    let trip = Trip::begin(&played).await;
    trip.gives(&played, &key, json!({"preferred_username": "mira", "email": ""}));
    is_no_such_login(trip.end(&played).await);
    let named = LoginAnswer { issuer: Some(played.server.url.clone()), ..trip.answer() };
    assert!(played.provider.end_login(named).await.is_ok());
}

#[tokio::test]
async fn what_a_code_is_given_for_is_believed_as_far_as_it_is_proved() {
    let (key, forger) = (Signer::p256("a"), Signer::p256("a"));
    let played = Played::with(&[&key]).await;
    let trip = Trip::begin(&played).await;
    let now = played.claims(json!({}))["iat"].as_i64().unwrap();
    for (with, fault) in [
        (json!({"nonce": "another"}), TokenFault::Nonce),
        (json!({"nonce": null}), TokenFault::Nonce),
        (json!({"aud": "forge"}), TokenFault::Audience),
        (json!({"aud": ["forge-pages", "other"]}), TokenFault::Audience),
        (json!({"azp": "other"}), TokenFault::Audience),
        (json!({"iss": "https://other.example"}), TokenFault::Issuer),
        (json!({"exp": now - 60}), TokenFault::Expired),
        (json!({"iat": null}), TokenFault::Claim("iat")),
        (json!({"at_hash": "AAAA"}), TokenFault::AccessToken),
    ] {
        trip.gives(&played, &key, with);
        check_fault(trip.end(&played).await, fault);
    }
    trip.gives(&played, &forger, json!({}));
    check_fault(trip.end(&played).await, TokenFault::Signature);
    trip.gives(&played, &key, json!({}));
    played.says().user_info = json!({"sub": "2", "roles": ["devs"]});
    assert!(matches!(trip.end(&played).await, Err(IdentityError::Unavailable { .. })), "somebody else's claims");
    for (error, status) in [("invalid_grant", 400), ("invalid_client", 401), ("server_error", 500)] {
        played.says().token = (status, json!({ "error": error }));
        let ended = trip.end(&played).await;
        let is_used_up = matches!(ended, Err(IdentityError::NoSuchLogin));
        assert_eq!((is_used_up, ended.is_err()), (error == "invalid_grant", true), "{error}");
    }
}
