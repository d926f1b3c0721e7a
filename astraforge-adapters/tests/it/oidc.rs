//! Tokens of an OpenID provider, good ones and forged ones.

#![expect(clippy::unwrap_used, reason = "a failing test is what this is for")]

use astraforge_core::ports::identity_provider::{IdentityError, IdentityProvider as _, TokenFault};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::{Value, json};

use self::{
    played::Played,
    signer::{Signer, unsigned},
};

mod directory;
mod login;
mod played;
mod signer;

#[tokio::test]
async fn a_key_verifies_in_every_way_that_it_is_for() {
    let keys = [Signer::p256("p256"), Signer::p384("p384"), Signer::ed25519("ed"), Signer::rsa("rsa")];
    let played = Played::with(&keys.each_ref()).await;
    let claims = played.claims(json!({"preferred_username": "mira"}));
    for key in &keys {
        assert_eq!(played.bearer(&key.token(&claims)).await.as_deref(), Ok("mira"), "{}", key.id);
    }
    for algorithm in ["RS384", "RS512", "PS256", "PS384", "PS512"] {
        let token = keys[3].token_with(json!({ "alg": algorithm }), &claims);
        assert_eq!(played.bearer(&token).await.as_deref(), Ok("mira"), "{algorithm}");
    }
    let other_name = keys[2].token_with(json!({"alg": "Ed25519", "typ": "application/at+jwt"}), &claims);
    assert_eq!(played.bearer(&other_name).await.as_deref(), Ok("mira"));
    let unnamed = keys[0].token_with(json!({"kid": null, "typ": null}), &played.claims(json!({})));
    assert_eq!(played.bearer(&unnamed).await.as_deref(), Ok("1"), "who has no name is called as the provider does");
    assert_eq!(played.n_readings(), 1);
}

#[tokio::test]
async fn what_a_token_says_tells_whose_it_is_and_for_whom() {
    let key = Signer::ed25519("a");
    let played = Played::with(&[&key]).await;
    let now = played.claims(json!({}))["iat"].as_i64().unwrap();
    let check = async |with: Value, expected: TokenFault| {
        assert_eq!(played.bearer(&key.token(&played.claims(with.clone()))).await, Err(expected), "{with}");
    };
    check(json!({"exp": now - 60}), TokenFault::Expired).await;
    check(json!({"exp": null}), TokenFault::Claim("exp")).await;
    check(json!({"nbf": now + 61}), TokenFault::NotYet).await;
    check(json!({"iat": now + 61}), TokenFault::NotYet).await;
    check(json!({"aud": "forge-pages"}), TokenFault::Audience).await;
    check(json!({"aud": null}), TokenFault::Audience).await;
    check(json!({"iss": format!("{}/", played.server.url)}), TokenFault::Issuer).await;
    check(json!({"iss": null}), TokenFault::Issuer).await;
    check(json!({"sub": null}), TokenFault::Claim("sub")).await;
    check(json!({"nonce": "n"}), TokenFault::Kind).await;
    check(json!({"cnf": {"jkt": "x"}}), TokenFault::Bound).await;
    let none = played.provider.bearer(&key.token(&played.claims(json!({"roles": ["x"]})))).await;
    assert!(matches!(none, Err(IdentityError::NotAdmitted { .. })), "{none:?}");
}

#[tokio::test]
async fn nobody_else_makes_a_token() {
    let (own, rsa) = (Signer::p256("a"), Signer::rsa("r"));
    let played = Played::with(&[&own, &rsa]).await;
    let claims = played.claims(json!({}));
    let check = async |token: &str, expected: TokenFault| {
        assert_eq!(played.bearer(token).await, Err(expected), "{token}");
    };
    // Signed by nobody, in several spellings.
    for algorithm in ["none", "None", "NONE", ""] {
        let plain = unsigned(&json!({"alg": algorithm, "kid": "a"}), &claims);
        check(&format!("{plain}."), TokenFault::Algorithm).await;
    }
    // Signed with what everybody has: the public key as a shared secret.
    for secret in [rsa.modulus(), rsa.der(), rsa.published()["n"].as_str().unwrap().as_bytes().to_vec()] {
        let plain = unsigned(&json!({"alg": "HS256", "kid": "r"}), &claims);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), plain.as_bytes());
        check(&format!("{plain}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag)), TokenFault::Algorithm).await;
    }
    // Signed with a key of one's own, under the provider's name for its own, or brought along.
    let forger = Signer::p256("a");
    check(&forger.token(&claims), TokenFault::Signature).await;
    let brought = json!({"jwk": forger.published(), "jku": "https://evil.example/jwks", "x5u": "https://evil.example"});
    check(&forger.token_with(brought, &claims), TokenFault::Signature).await;
    check(&Signer::p256("b").token(&claims), TokenFault::UnknownKey).await;
    check(&Signer::p256("b").token_with(json!({"kid": null}), &claims), TokenFault::UnknownKey).await;
    // Used in a way that the key is not for.
    check(&own.token_with(json!({"alg": "RS256"}), &claims), TokenFault::Algorithm).await;
    check(&own.token_with(json!({"alg": "ES384"}), &claims), TokenFault::Algorithm).await;
    check(&rsa.token_with(json!({"alg": "ES256"}), &claims), TokenFault::Algorithm).await;
    let (head, signature) = rsa
        .token_with(json!({"alg": "PS256"}), &claims)
        .rsplit_once('.')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let relabelled = format!(
        "{}.{signature}",
        head.replacen(
            head.split('.').next().unwrap(),
            unsigned(&json!({"alg": "RS256", "kid": "r"}), &claims).split('.').next().unwrap(),
            1
        )
    );
    check(&relabelled, TokenFault::Signature).await;
    // Changed on the way.
    let good = own.token(&claims);
    let parts: Vec<_> = good.split('.').collect();
    let admin = unsigned(&json!({}), &played.claims(json!({"sub": "2"})));
    check(&format!("{}.{}.{}", parts[0], admin.split('.').nth(1).unwrap(), parts[2]), TokenFault::Signature).await;
    check(&format!("{}.{}.", parts[0], parts[1]), TokenFault::Signature).await;
    check(&format!("{good}="), TokenFault::Malformed).await;
    assert!(played.bearer(&good).await.is_ok());
}

#[tokio::test]
async fn what_is_no_token_of_the_provider_asks_nobody() {
    let key = Signer::p256("a");
    let played = Played::with(&[&key]).await;
    let check = async |token: &str, expected: TokenFault| {
        assert_eq!(played.bearer(token).await, Err(expected), "{token:.200}");
    };
    let long = key.token(&played.claims(json!({"x": "x".repeat(16 * 1024)})));
    check(&long, TokenFault::TooLong).await;
    for malformed in ["", "..", "a.b.c", "....", "e30.e30.e30", "\u{fc}.\u{fc}.\u{fc}"] {
        check(malformed, TokenFault::Malformed).await;
    }
    let deep = format!(
        "{}.{}.",
        BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#),
        BASE64_URL_SAFE_NO_PAD.encode("[".repeat(5000))
    );
    check(&deep, TokenFault::Malformed).await;
    check(&key.token_with(json!({"crit": ["b64"], "b64": false}), &played.claims(json!({}))), TokenFault::Extension)
        .await;
    for kind in ["dpop+jwt", "logout+jwt", "id_token+jwt"] {
        check(&key.token_with(json!({ "typ": kind }), &played.claims(json!({}))), TokenFault::Kind).await;
    }
    check(&key.token(&played.claims(json!({"iss": "https://other.example"}))), TokenFault::Issuer).await;
    assert!(played.server.received().is_empty());
}

#[tokio::test]
async fn keys_that_are_not_for_this_verify_nothing() {
    let keys = ["encrypts", "other-way", "odd"].map(Signer::p256);
    let played = Played::with(&keys.each_ref()).await;
    played.says().keys[0]["use"] = json!("enc");
    played.says().keys[1]["alg"] = json!("ES384");
    played.says().keys[2]["x"] = json!("AAAA");
    let good = Signer::p256("good");
    played.says().keys.push(json!({"kty": "oct", "kid": "shared", "k": "c2VjcmV0"}));
    played.says().keys.push(json!("no key at all"));
    played.says().keys.push(good.published());
    let claims = played.claims(json!({}));
    assert!(played.bearer(&good.token(&claims)).await.is_ok(), "odd ones spoil nothing");
    for (key, fault) in keys.iter().zip([TokenFault::UnknownKey, TokenFault::Algorithm, TokenFault::UnknownKey]) {
        assert_eq!(played.bearer(&key.token(&claims)).await, Err(fault), "{}", key.id);
    }
    let plain = unsigned(&json!({"alg": "HS256", "kid": "shared"}), &claims);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"secret"), plain.as_bytes());
    let token = format!("{plain}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag));
    assert_eq!(played.bearer(&token).await, Err(TokenFault::UnknownKey), "what others have too proves nothing");
}
