//! Calls that may come more than once and are carried out once, by a key that their caller gave them.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{access::Caller, id::AttemptId};

/// How long it is remembered that a call was carried out, and how it was answered.
pub const REMEMBERED: TimeDelta = TimeDelta::hours(24);

/// A key that a caller gave a call: 1 to 255 visible characters of ASCII, each of which counts.
///
/// ```
/// use astraforge_core::idempotency::IdempotencyKey;
///
/// let key: IdempotencyKey = "8e03978e-40d5-43dd-bc93-6894a57f9324".parse()?;
/// assert_eq!(key.as_str().len(), 36);
/// assert!("two words".parse::<IdempotencyKey>().is_err());
/// # Ok::<(), astraforge_core::idempotency::MalformedKey>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    const LONGEST: usize = 255;

    /// Returns the key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = MalformedKey;

    fn from_str(text: &str) -> Result<Self, MalformedKey> {
        let is_one = (1..=Self::LONGEST).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic());
        if is_one { Ok(Self(text.to_owned())) } else { Err(MalformedKey) }
    }
}

/// A text that is no key of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to 255 visible characters of ASCII, such as a random UUID")]
pub struct MalformedKey;

/// Names a call: whose it is, and by which key. Whoever has another role or other scopes by now is another caller, so that nobody is
/// shown an answer that they could not have had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallName {
    /// Who calls.
    pub caller: Caller,
    /// The key that they gave the call.
    pub key: IdempotencyKey,
}

impl CallName {
    /// The name as 64 hexadecimal digits, which tell nothing of the key.
    #[must_use]
    pub fn digest(&self) -> String {
        let Caller { tenant, user, role, scopes } = &self.caller;
        let scopes = scopes.to_string();
        let parts = [tenant.as_str(), user.as_str(), role.as_str(), scopes.as_str(), self.key.as_str()];
        format!("{:x}", hash(parts.map(str::as_bytes)))
    }
}

/// What tells a call from others under the same key. It is as secret as what the call brings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a call: its method, its path with the query, and its body.
    #[must_use]
    pub fn of(method: &str, path_and_query: &str, body: &[u8]) -> Self {
        Self(hash([method.as_bytes(), path_and_query.as_bytes(), body]).into())
    }

    /// Returns the fingerprint.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(***)")
    }
}

/// An attempt to carry out a call: nobody else is at it until its lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The call.
    pub call: CallName,
    /// The attempt.
    pub id: AttemptId,
    /// The id of what the call makes, where its caller gives none. All attempts have the same, so that nothing is made
    /// twice.
    pub makes: Uuid,
}

/// What came of asking to carry out a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// Whoever asked is to carry it out.
    Attempt(Attempt),
    /// Somebody else is at it.
    AtWork,
    /// It was carried out.
    Over(Outcome),
    /// The key was given to a call that is not the same.
    OtherCall,
}

/// What came of a call that was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// How it was answered.
    Answer(Answer),
    /// An answer that was too long to be kept.
    TooLong,
}

/// How a call was answered. It may hold secrets, such as a key that is shown once.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers that belong to the answer and not to its connection, in their order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Bytes,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// What a stored outcome begins with; the body follows after a line break.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Head {
    Answer { status: u16, headers: Vec<(String, Vec<u8>)> },
    TooLong,
}

impl Outcome {
    /// The outcome as bytes, for stores.
    ///
    /// # Errors
    /// None that is known; the form of the head could not be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let (head, body) = match self {
            Self::Answer(Answer { status, headers, body }) => {
                (Head::Answer { status: *status, headers: headers.clone() }, body.clone())
            }
            Self::TooLong => (Head::TooLong, Bytes::new()),
        };
        let mut bytes = serde_json::to_vec(&head)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// For bytes that are no outcome.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let (head, body) = bytes.split_at(end);
        Ok(match serde_json::from_slice(head)? {
            Head::Answer { status, headers } => {
                let body = Bytes::copy_from_slice(body.get(1..).unwrap_or_default());
                Self::Answer(Answer { status, headers, body })
            }
            Head::TooLong => Self::TooLong,
        })
    }
}

/// Hashes parts so that no part can pass for the end of the one before.
fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> sha2::digest::Output<Sha256> {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        access::{Action, Role, Scopes},
        testing::samples,
    };

    #[test]
    fn a_key_is_visible_ascii_of_a_bounded_length() {
        let is_key = |text: &str| text.parse::<IdempotencyKey>().is_ok();
        assert!(["k", "\"8e03\"", "!~", &"k".repeat(255)].into_iter().all(is_key));
        assert!(!["", " ", "a b", "a\n", "\u{e4}", "\u{7f}", &"k".repeat(256)].into_iter().any(is_key));
    }

    #[test]
    fn every_part_of_a_name_and_a_fingerprint_counts() {
        let name = |user, role, key: &str| {
            CallName { caller: samples::caller(user, role), key: key.parse().unwrap() }.digest()
        };
        let names = [
            name("ada", Role::Admin, "k"),
            name("ad", Role::Admin, "ak"),
            name("ada", Role::Observer, "k"),
            name("ada", Role::Admin, "K"),
            CallName {
                caller: samples::caller("ada", Role::Admin).with_scopes(Scopes::Only([Action::Read].into())),
                key: "k".parse().unwrap(),
            }
            .digest(),
        ];
        let prints = [
            Fingerprint::of("POST", "/api/x/", b"{}"),
            Fingerprint::of("POST", "/api/x/?a", b"{}"),
            Fingerprint::of("PUT", "/api/x/", b"{}"),
            Fingerprint::of("POST", "/api/x/{", b"}"),
        ];
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert_eq!(prints.iter().map(Fingerprint::as_bytes).collect::<BTreeSet<_>>().len(), prints.len());
    }

    #[test]
    fn an_outcome_survives_as_bytes() {
        let headers = vec![("location".to_owned(), b"/a\xff".to_vec())];
        let answer = Answer { status: 201, headers, body: Bytes::from_static(b"a\n\n\0b") };
        for outcome in [Outcome::Answer(answer), Outcome::TooLong] {
            assert_eq!(Outcome::from_bytes(&outcome.to_bytes().unwrap()).unwrap(), outcome);
        }
        assert!(Outcome::from_bytes(b"").is_err());
    }

    #[test]
    fn what_may_be_secret_is_not_shown() {
        let answer = Answer { status: 201, headers: Vec::new(), body: Bytes::from_static(b"afk_secret") };
        assert!(!format!("{answer:?}").contains("secret"));
        assert_eq!(format!("{:?}", Fingerprint::of("POST", "/", b"")), "Fingerprint(***)");
    }
}
