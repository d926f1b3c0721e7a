//! What a provider publishes: read when it is needed, rarely, and from nowhere else.

use std::{sync::Arc, time::Duration};

use astraforge_core::ports::identity_provider::{IdentityProvider as _, TokenFault};
use futures::future::join_all;
use serde_json::json;

use super::{played::Played, signer::Signer};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn new_keys_are_found_and_old_ones_forgotten() {
    let (old, new) = (Signer::p256("old"), Signer::ed25519("new"));
    let played = Played::with(&[&old]).await;
    let claims = played.claims(json!({"exp": 1e12}));
    let (by_old, by_new) = (old.token(&claims), new.token(&claims));
    assert!(played.bearer(&by_old).await.is_ok());
    played.says().keys.push(new.published());
    assert_eq!(played.bearer(&by_new).await, Err(TokenFault::UnknownKey), "it was read a moment ago");
    played.clock.advance(Duration::from_secs(5));
    assert!(played.bearer(&by_new).await.is_ok());
    assert_eq!(played.n_readings(), 2);
    played.says().keys.remove(0);
    played.clock.advance(10 * MINUTE);
    // It is read again behind the first call that finds it old.
    while played.bearer(&by_old).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(played.bearer(&by_old).await, Err(TokenFault::UnknownKey));
    assert!(played.bearer(&by_new).await.is_ok());
    assert_eq!(played.n_readings(), 3);
}

#[tokio::test]
async fn many_tokens_of_unknown_keys_are_one_question() {
    let (known, new) = (Signer::p256("known"), Signer::p256("new"));
    let played = Played::with(&[&known]).await;
    let claims = played.claims(json!({}));
    let good = known.token(&claims);
    let all = join_all((0..50).map(|_| played.bearer(&good))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(played.n_readings(), 1, "also where nothing is known yet");
    played.clock.advance(Duration::from_secs(5));
    played.says().keys.push(new.published());
    let forged: Vec<_> = (0..50).map(|n| Signer::p256(&format!("forged {n}")).token(&claims)).collect();
    let token = new.token(&claims);
    let waiting = join_all(forged.iter().chain([&token]).map(|token| played.bearer(token))).await;
    assert_eq!(waiting.iter().filter(|it| it.is_ok()).count(), 1, "the good one among them waits and is found");
    assert_eq!(played.n_readings(), 2);
}

#[tokio::test]
async fn callers_who_hang_up_take_nothing_with_them() {
    let key = Signer::p256("a");
    let played = Arc::new(Played::with(&[&key]).await);
    let token = key.token(&played.claims(json!({})));
    let (asks, asked) = (played.clone(), token.clone());
    let caller = tokio::spawn(async move { asks.provider.bearer(&asked).await.map(drop) });
    while played.server.received().is_empty() {
        tokio::task::yield_now().await;
    }
    caller.abort();
    _ = caller.await;
    assert!(played.bearer(&token).await.is_ok());
    let n_asked = played.server.received().len();
    assert_eq!(n_asked, 2, "what was begun for them is what others wait for, and nobody asks more by not waiting");
}

#[tokio::test]
async fn while_the_provider_is_away_known_keys_go_on_for_an_hour() {
    let (key, new) = (Signer::p256("a"), Signer::p256("b"));
    let played = Played::with(&[&key]).await;
    let claims = played.claims(json!({"exp": 1e12}));
    let (good, unknown) = (key.token(&claims), new.token(&claims));
    assert!(played.bearer(&good).await.is_ok());
    played.says().is_broken = true;
    played.clock.advance(11 * MINUTE);
    assert!(played.bearer(&good).await.is_ok());
    assert_eq!(played.trouble(&unknown).await, "it refuses to answer", "nobody can say whether it is of a new key");
    played.clock.advance(48 * MINUTE);
    assert!(played.bearer(&good).await.is_ok());
    played.clock.advance(MINUTE);
    assert_eq!(played.trouble(&good).await, "it refuses to answer");
    played.says().is_broken = false;
    assert_eq!(played.trouble(&good).await, "it refuses to answer", "it was asked a moment ago");
    played.clock.advance(Duration::from_secs(5));
    assert!(played.bearer(&good).await.is_ok());
}

#[tokio::test]
async fn a_provider_is_who_it_is_configured_to_be_and_nowhere_else() {
    let key = Signer::p256("a");
    let played = Played::with(&[&key]).await;
    let token = key.token(&played.claims(json!({})));
    let check = async |metadata: serde_json::Value, trouble: &str| {
        played.says().metadata = metadata.clone();
        assert_eq!(played.trouble(&token).await, trouble, "{metadata}");
        played.clock.advance(Duration::from_secs(5));
    };
    check(json!({"issuer": "https://other.example"}), "it calls itself by another name than is configured").await;
    check(json!({"issuer": format!("{}/", played.server.url)}), "it calls itself by another name than is configured")
        .await;
    check(json!({"jwks_uri": "http://keys.example/"}), "one of its addresses is not HTTPS").await;
    check(json!({"token_endpoint": "file:///etc/passwd"}), "one of its addresses is not HTTPS").await;
    check(json!({"jwks_uri": "nowhere"}), "its answer cannot be read").await;
    check(json!({"x": "x".repeat(1024 * 1024)}), "its answer is too long").await;
    let elsewhere = Played::with(&[&key]).await;
    played.says().redirect = Some(elsewhere.server.url.clone());
    check(json!({}), "it refuses to answer").await;
    assert!(elsewhere.server.received().is_empty(), "a redirect is not followed");
    played.says().redirect = None;
    let keys = std::mem::take(&mut played.says().keys);
    check(json!({}), "it publishes no key that can be used").await;
    played.says().keys = keys;
    assert!(played.bearer(&token).await.is_ok());
}
