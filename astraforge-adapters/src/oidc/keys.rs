//! The public keys of a provider, and what each of them may verify.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;
use serde_json::Value;

use astraforge_core::ports::identity_provider::TokenFault;

/// How many keys of a provider are read; those after them are not known.
const MOST: usize = 100;

/// The keys of a provider. Those of kinds that are not known here are left out, and so are shared secrets: what only the
/// provider may sign is not to be verified with something that others have too.
#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<Key>);

impl KeySet {
    /// Reads a set as a provider publishes it (RFC 7517). One key that cannot be read does not spoil the others.
    pub(super) fn read(set: &PublishedKeys) -> Self {
        Self(set.keys.iter().take(MOST).filter_map(Key::read).collect())
    }

    /// Whether there is no key at all.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Verifies what claims to be signed with `algorithm` by the key `id`, or by any if it names none.
    pub(super) fn verify(
        &self,
        id: Option<&str>,
        algorithm: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), TokenFault> {
        let named: Vec<_> = self.0.iter().filter(|key| id.is_none() || key.id.as_deref() == id).collect();
        if named.is_empty() {
            return Err(TokenFault::UnknownKey);
        }
        let mut fault = TokenFault::Algorithm;
        for key in named {
            match key.verify(algorithm, message, signature) {
                Ok(()) => return Ok(()),
                Err(TokenFault::Algorithm) => {}
                Err(other) => fault = other,
            }
        }
        // Without a name, it may be of a key that is not known yet.
        Err(if id.is_none() && fault == TokenFault::Signature { TokenFault::UnknownKey } else { fault })
    }
}

/// A set of keys, as it is published.
#[derive(Debug, Deserialize)]
pub(super) struct PublishedKeys {
    keys: Vec<Value>,
}

/// A public key.
#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// The one way in which it signs, where that is said.
    algorithm: Option<String>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// A key, as it is published.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Key {
    fn read(published: &Value) -> Option<Self> {
        let jwk = Jwk::deserialize(published).ok()?;
        if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let material = Material::read(&jwk)?;
        Some(Self { id: jwk.kid, algorithm: jwk.alg, material })
    }

    /// Verifies a signature, if the key is one that is used with `algorithm`: its own kind decides, never the token alone.
    fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> Result<(), TokenFault> {
        if self.algorithm.as_deref().is_some_and(|own| own != algorithm) {
            return Err(TokenFault::Algorithm);
        }
        let point = |how: &'static dyn VerificationAlgorithm, point: &[u8]| {
            UnparsedPublicKey::new(how, point).verify(message, signature)
        };
        let verified = match (&self.material, algorithm) {
            (Material::Rsa { n, e }, "RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512") => {
                let how = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    _ => &signature::RSA_PSS_2048_8192_SHA512,
                };
                RsaPublicKeyComponents { n, e }.verify(how, message, signature)
            }
            (Material::P256(key), "ES256") => point(&signature::ECDSA_P256_SHA256_FIXED, key),
            (Material::P384(key), "ES384") => point(&signature::ECDSA_P384_SHA384_FIXED, key),
            (Material::Ed25519(key), "EdDSA" | "Ed25519") => point(&signature::ED25519, key),
            _ => return Err(TokenFault::Algorithm),
        };
        verified.map_err(|_| TokenFault::Signature)
    }
}

impl Material {
    fn read(jwk: &Jwk) -> Option<Self> {
        let bytes = |text: &Option<String>| BASE64_URL_SAFE_NO_PAD.decode(text.as_ref()?).ok();
        let coordinate = |text: &Option<String>, length: usize| bytes(text).filter(|bytes| bytes.len() == length);
        // The two coordinates, as a point that is not compressed.
        let point = |length| Some([&[4][..], &coordinate(&jwk.x, length)?, &coordinate(&jwk.y, length)?].concat());
        match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => Some(Self::Rsa { n: without_zeros(bytes(&jwk.n)?), e: without_zeros(bytes(&jwk.e)?) }),
            ("EC", Some("P-256")) => Some(Self::P256(point(32)?)),
            ("EC", Some("P-384")) => Some(Self::P384(point(48)?)),
            ("OKP", Some("Ed25519")) => Some(Self::Ed25519(coordinate(&jwk.x, 32)?)),
            _ => None,
        }
    }
}

/// A number as it is verified with; some write zeros before it.
fn without_zeros(number: Vec<u8>) -> Vec<u8> {
    number.into_iter().skip_while(|byte| *byte == 0).collect()
}
