//! Links that let whoever has them download one artifact for a while, without being known: the claim, and its proof.

use std::fmt;

use chrono::{DateTime, Utc};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::id::{ArtifactId, TenantId};

/// What proofs begin with, so that no other text that the key may sign can be taken for one.
const PURPOSE: &[u8] = b"astraforge artifact link 1";

/// What a link lets its holder do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkClaim {
    /// Who the artifact belongs to.
    pub tenant: TenantId,
    /// The artifact.
    pub artifact: ArtifactId,
    /// When the link is of no use any more, in seconds since 1970.
    pub expires: i64,
}

/// Signs links, and checks them. Its `Debug` shows nothing.
///
/// ```
/// use astraforge_core::{
///     download_link::{LinkClaim, LinkKey},
///     id::{ArtifactId, TenantId},
/// };
/// use chrono::DateTime;
///
/// let key = LinkKey::new([7; 32]);
/// let claim = LinkClaim { tenant: TenantId::new("acme"), artifact: ArtifactId::random(), expires: 1_000 };
/// let proof = key.sign(&claim);
/// let at = |secs| DateTime::from_timestamp(secs, 0).unwrap();
/// assert!(key.check(&claim, &proof, at(999)).is_ok());
/// assert!(key.check(&claim, &proof, at(1_000)).is_err());
/// assert!(key.check(&LinkClaim { expires: 2_000, ..claim }, &proof, at(999)).is_err());
/// ```
#[derive(Clone)]
pub struct LinkKey([u8; 32]);

/// A link that opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// It was not made here, or was changed.
    #[error("this link is not valid; ask for a new one")]
    Invalid,
    /// Its time is over.
    #[error("this link has expired; ask for a new one")]
    Expired,
}

impl LinkKey {
    /// A key made from one that has another purpose too; nothing that it signs tells of that one.
    #[must_use]
    pub fn derived_from(secret: &[u8; 32]) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap_or_else(|_| unreachable!("HMAC takes any key"));
        mac.update(b"astraforge key of artifact links");
        Self(mac.finalize().into_bytes().into())
    }

    /// A key of 32 random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the proof of a claim: 64 hexadecimal digits.
    #[must_use]
    pub fn sign(&self, claim: &LinkClaim) -> String {
        let proof = self.mac(claim).finalize().into_bytes();
        proof.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Checks a claim by its proof, in a time that tells nothing of the right one.
    ///
    /// # Errors
    /// [`LinkError::Invalid`] before anything else, so that nobody learns of a time from a wrong proof.
    pub fn check(&self, claim: &LinkClaim, proof: &str, now: DateTime<Utc>) -> Result<(), LinkError> {
        let proof = from_hex(proof).ok_or(LinkError::Invalid)?;
        self.mac(claim).verify_slice(&proof).map_err(|_| LinkError::Invalid)?;
        if now.timestamp() < claim.expires { Ok(()) } else { Err(LinkError::Expired) }
    }

    fn mac(&self, claim: &LinkClaim) -> Hmac<Sha256> {
        // Keys of any length are taken.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| unreachable!("HMAC takes any key"));
        let (artifact, tenant) = (claim.artifact.to_string(), claim.tenant.as_str());
        mac.update(PURPOSE);
        // Each part says how long it is, so that no two claims are the same text.
        for part in [artifact.as_bytes(), tenant.as_bytes(), &claim.expires.to_be_bytes()] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey(***)")
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).ok().filter(|it| it.bytes().all(|it| it.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> LinkClaim {
        LinkClaim { tenant: TenantId::new("acme"), artifact: ArtifactId::random(), expires: 5_000 }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut LinkClaim, &mut String), now: i64, expected: Result<(), LinkError>) {
        let key = LinkKey::new([1; 32]);
        let mut claim = claim();
        let mut proof = key.sign(&claim);
        change(&mut claim, &mut proof);
        assert_eq!(key.check(&claim, &proof, DateTime::from_timestamp(now, 0).unwrap()), expected);
    }

    #[test]
    fn a_link_opens_what_it_was_made_for_and_only_in_time() {
        check(|_, _| (), 4_999, Ok(()));
        check(|_, _| (), 5_000, Err(LinkError::Expired));
        check(|claim, _| claim.expires = 9_000, 4_999, Err(LinkError::Invalid));
        check(|claim, _| claim.artifact = ArtifactId::random(), 4_999, Err(LinkError::Invalid));
        check(|claim, _| claim.tenant = TenantId::new("other"), 4_999, Err(LinkError::Invalid));
    }

    #[test]
    fn a_proof_is_whole_or_worth_nothing() {
        check(|_, proof| proof.make_ascii_uppercase(), 0, Ok(()));
        check(|_, proof| proof.truncate(62), 0, Err(LinkError::Invalid));
        check(|_, proof| proof.clear(), 0, Err(LinkError::Invalid));
        check(|_, proof| proof.replace_range(..2, "+f"), 0, Err(LinkError::Invalid));
        check(|_, proof| *proof = "é".repeat(32), 9_000, Err(LinkError::Invalid));
        let (one, other) = (LinkKey::new([1; 32]), LinkKey::new([2; 32]));
        let claim = claim();
        assert_eq!(other.check(&claim, &one.sign(&claim), DateTime::UNIX_EPOCH), Err(LinkError::Invalid));
        assert_eq!(format!("{one:?}"), "LinkKey(***)");
    }
}
