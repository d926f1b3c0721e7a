//! Keys of a provider, made in the test but for the one of RSA, which is for tests only and no secret.

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use ring::{
    rand::SystemRandom,
    rsa::PublicKeyComponents,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair},
};
use serde_json::{Value, json};

/// A private key, with its name.
pub(crate) struct Signer {
    pub(crate) id: String,
    key: Key,
}

enum Key {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl Signer {
    pub(crate) fn p256(id: &str) -> Self {
        Self { id: id.to_owned(), key: Key::P256(ecdsa(&signature::ECDSA_P256_SHA256_FIXED_SIGNING)) }
    }

    pub(crate) fn p384(id: &str) -> Self {
        Self { id: id.to_owned(), key: Key::P384(ecdsa(&signature::ECDSA_P384_SHA384_FIXED_SIGNING)) }
    }

    pub(crate) fn ed25519(id: &str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self { id: id.to_owned(), key: Key::Ed25519(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()) }
    }

    pub(crate) fn rsa(id: &str) -> Self {
        let text: String = include_str!("rsa-key-for-tests-only.base64").split_whitespace().collect();
        let key = RsaKeyPair::from_der(&BASE64_STANDARD.decode(text).unwrap()).unwrap();
        Self { id: id.to_owned(), key: Key::Rsa(Box::new(key)) }
    }

    /// How it signs unless something else is asked for.
    pub(crate) fn algorithm(&self) -> &'static str {
        match self.key {
            Key::P256(_) => "ES256",
            Key::P384(_) => "ES384",
            Key::Ed25519(_) => "EdDSA",
            Key::Rsa(_) => "RS256",
        }
    }

    /// The public key, as a provider publishes it.
    pub(crate) fn published(&self) -> Value {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let point = |key: &EcdsaKeyPair, curve: &str| {
            let (x, y) = key.public_key().as_ref()[1..].split_at((key.public_key().as_ref().len() - 1) / 2);
            json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)})
        };
        let mut key = match &self.key {
            Key::P256(key) => point(key, "P-256"),
            Key::P384(key) => point(key, "P-384"),
            Key::Ed25519(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": text(key.public_key().as_ref())}),
            Key::Rsa(_) => json!({"kty": "RSA", "n": text(&self.modulus()), "e": "AQAB"}),
        };
        key["kid"] = json!(self.id);
        key["use"] = json!("sig");
        key
    }

    /// The number that is public of a key of RSA.
    pub(crate) fn modulus(&self) -> Vec<u8> {
        let Key::Rsa(key) = &self.key else { panic!("this is no key of RSA") };
        PublicKeyComponents::<Vec<u8>>::from(key.public()).n
    }

    /// The public key of RSA in the form of most files, DER.
    pub(crate) fn der(&self) -> Vec<u8> {
        let Key::Rsa(key) = &self.key else { panic!("this is no key of RSA") };
        key.public_key().as_ref().to_vec()
    }

    /// A token with these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.token_with(json!({}), claims)
    }

    /// A token whose header says something else.
    pub(crate) fn token_with(&self, header: Value, claims: &Value) -> String {
        let mut all = json!({"alg": self.algorithm(), "kid": self.id, "typ": "JWT"});
        all.as_object_mut().unwrap().extend(header.as_object().unwrap().clone());
        let algorithm = all["alg"].as_str().unwrap().to_owned();
        let signed = unsigned(&all, claims);
        let signature = self.sign(&algorithm, signed.as_bytes());
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    /// Signs as `algorithm` says, or as the key does if that is not for it.
    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::P256(key) | Key::P384(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Key::Rsa(key) => {
                let how: &dyn signature::RsaEncoding = match algorithm {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut bytes = vec![0; key.public().modulus_len()];
                key.sign(how, &random, message, &mut bytes).unwrap();
                bytes
            }
        }
    }
}

/// Header and claims of a token, as they are signed.
pub(crate) fn unsigned(header: &Value, claims: &Value) -> String {
    let text = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", text(header), text(claims))
}

fn ecdsa(how: &'static signature::EcdsaSigningAlgorithm) -> EcdsaKeyPair {
    let document = EcdsaKeyPair::generate_pkcs8(how, &SystemRandom::new()).unwrap();
    EcdsaKeyPair::from_pkcs8(how, document.as_ref(), &SystemRandom::new()).unwrap()
}
