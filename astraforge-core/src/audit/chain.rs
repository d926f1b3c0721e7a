//! The chain of a tenant's entries: how each is bound to the one before it, and how it is told that one is not as it was.

use std::{fmt, str::FromStr};

use chrono::{DateTime, SubsecRound as _, Utc};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::{Entry, NewEntry};
use crate::id::TenantId;

/// What hashes of entries begin with, so that no other text that the key signs can be taken for one.
const ENTRY: &[u8] = b"astraforge audit entry 1";
/// The same for the end of a chain.
const HEAD: &[u8] = b"astraforge audit head 1";
/// What an entry is bound to that was written after a head which did not hold.
const BROKEN: &str = "the head before this entry did not hold";

/// Makes the hashes of entries. Whoever has only the database can make none. Its `Debug` shows nothing.
#[derive(Clone)]
pub struct AuditKey([u8; 32]);

/// The end of a tenant's chain, as it is stored beside the entries: without it nobody would miss the last of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The sequence number of the last entry.
    pub seq: u64,
    /// Its hash.
    pub hash: String,
    /// That the server wrote both. Whoever did not keep it at the time cannot put the chain back to where it was.
    pub seal: String,
}

/// One entry and its hash, written `SEQ:HASH`: kept elsewhere, it tells later whether that entry is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The entry's sequence number.
    pub seq: u64,
    /// Its hash.
    pub hash: String,
}

/// A chain that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// How many entries it has.
    pub n_entries: u64,
    /// Its end; `None` while it has none.
    pub head: Option<Mark>,
}

/// What is wrong with a chain: the first thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A row is not what was written, or stands after another one than it was written after.
    #[error("entry {seq} is not as it was written: it was changed, moved, or put in")]
    Changed {
        /// Its sequence number.
        seq: u64,
    },
    /// Rows are not there.
    #[error("entries {first} to {last} are missing")]
    Missing {
        /// The first that is missing.
        first: u64,
        /// The last one of them.
        last: u64,
    },
    /// A row has a number that is not its turn.
    #[error("an entry has number {found} where {expected} has to come")]
    OutOfOrder {
        /// The number that has to come.
        expected: u64,
        /// The number that is there.
        found: u64,
    },
    /// When a row was written, the end of the chain was not as the server had left it.
    #[error("the end of the chain was changed before entry {seq} was written")]
    BrokenBefore {
        /// The row.
        seq: u64,
    },
    /// The end of the chain is not what the server wrote, or is missing.
    #[error("the end of the chain, after entry {last}, is not as it was written")]
    WrongHead {
        /// The last row that is there.
        last: u64,
    },
    /// The entry of a mark that was kept elsewhere is another one now.
    #[error("entry {seq} is another one than the one that was marked")]
    NotAsMarked {
        /// Its sequence number.
        seq: u64,
    },
    /// The entry of a mark that was kept elsewhere is not there.
    #[error("entry {seq} was marked, and the chain ends with entry {last}")]
    EndsBeforeMark {
        /// The sequence number of the mark.
        seq: u64,
        /// The last entry that is there.
        last: u64,
    },
}

impl AuditKey {
    /// A key made from one that has another purpose too; nothing that it makes tells of that one.
    #[must_use]
    pub fn derived_from(secret: &[u8; 32]) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap_or_else(|_| unreachable!("HMAC takes any key"));
        mac.update(b"astraforge key of the audit");
        Self(mac.finalize().into_bytes().into())
    }

    /// A key of 32 random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The entry that comes after `head`, and the head that it makes. One that comes after a head which the server did not
    /// write is bound to that fault, so that it can be told for ever.
    #[must_use]
    pub fn next(&self, head: Option<&Head>, new: &NewEntry, at: DateTime<Utc>) -> (Entry, Head) {
        let before = match head {
            None => "",
            Some(head) if self.seal(&new.tenant, head.seq, &head.hash) == head.seal => &head.hash,
            Some(_) => BROKEN,
        };
        let mut entry = Entry {
            tenant: new.tenant.clone(),
            seq: head.map_or(0, |head| head.seq) + 1,
            at: at.trunc_subsecs(6),
            user: new.actor.user.clone(),
            means: new.actor.means.to_string(),
            action: new.action.clone(),
            subject: new.subject.clone(),
            outcome: new.outcome.clone(),
            details: new.details_text(),
            call: new.call.clone(),
            hash: String::new(),
        };
        entry.hash = self.hash(&entry, before);
        let seal = self.seal(&entry.tenant, entry.seq, &entry.hash);
        let head = Head { seq: entry.seq, hash: entry.hash.clone(), seal };
        (entry, head)
    }

    /// The hash of an entry that stands after the one with hash `before`.
    fn hash(&self, entry: &Entry, before: &str) -> String {
        self.mac(
            ENTRY,
            &[
                before.as_bytes(),
                entry.tenant.as_str().as_bytes(),
                &entry.seq.to_be_bytes(),
                &entry.at.timestamp_micros().to_be_bytes(),
                entry.user.as_bytes(),
                entry.means.as_bytes(),
                entry.action.as_bytes(),
                entry.subject.as_bytes(),
                entry.outcome.as_bytes(),
                entry.details.as_bytes(),
                entry.call.as_bytes(),
            ],
        )
    }

    fn seal(&self, tenant: &TenantId, seq: u64, hash: &str) -> String {
        self.mac(HEAD, &[tenant.as_str().as_bytes(), &seq.to_be_bytes(), hash.as_bytes()])
    }

    /// Each part says how long it is, so that no two lists of parts are the same text.
    fn mac(&self, purpose: &[u8], parts: &[&[u8]]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| unreachable!("HMAC takes any key"));
        mac.update(purpose);
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        format!("{:x}", mac.finalize().into_bytes())
    }
}

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditKey(***)")
    }
}

/// Looks at the entries of one chain, one after the other.
#[derive(Debug)]
pub struct Verifier<'a> {
    key: &'a AuditKey,
    tenant: TenantId,
    expected: Option<Mark>,
    last: u64,
    hash: String,
}

impl<'a> Verifier<'a> {
    /// Begins before the first entry of a tenant; `expected` is what has to be among them.
    #[must_use]
    pub fn new(key: &'a AuditKey, tenant: TenantId, expected: Option<Mark>) -> Self {
        Self { key, tenant, expected, last: 0, hash: String::new() }
    }

    /// The sequence number of the last entry that was looked at.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Looks at the next entry.
    ///
    /// # Errors
    /// The [`Fault`] that it shows.
    pub fn take(&mut self, entry: &Entry) -> Result<(), Fault> {
        let (expected, found) = (self.last + 1, entry.seq);
        if found > expected {
            return Err(Fault::Missing { first: expected, last: found - 1 });
        }
        if found < expected {
            return Err(Fault::OutOfOrder { expected, found });
        }
        let holds = |before: &str| entry.tenant == self.tenant && entry.hash == self.key.hash(entry, before);
        if !holds(&self.hash) {
            return Err(if holds(BROKEN) { Fault::BrokenBefore { seq: found } } else { Fault::Changed { seq: found } });
        }
        if self.expected.as_ref().is_some_and(|mark| mark.seq == found && mark.hash != entry.hash) {
            return Err(Fault::NotAsMarked { seq: found });
        }
        self.last = found;
        self.hash.clone_from(&entry.hash);
        Ok(())
    }

    /// Ends after the last entry, with the chain's end as it is stored.
    ///
    /// # Errors
    /// The [`Fault`] that it shows.
    pub fn end(self, head: Option<&Head>) -> Result<Verified, Fault> {
        let last = self.last;
        match head {
            Some(head) if self.key.seal(&self.tenant, head.seq, &head.hash) != head.seal => {
                return Err(Fault::WrongHead { last });
            }
            Some(head) if head.seq > last => return Err(Fault::Missing { first: last + 1, last: head.seq }),
            Some(head) if head.seq < last || head.hash != self.hash => return Err(Fault::WrongHead { last }),
            None if last > 0 => return Err(Fault::WrongHead { last }),
            _ => {}
        }
        match self.expected {
            Some(mark) if mark.seq > last => Err(Fault::EndsBeforeMark { seq: mark.seq, last }),
            _ => Ok(Verified { n_entries: last, head: head.map(Head::mark) }),
        }
    }
}

/// Looks at all entries of a tenant's chain, and at its end as it is stored.
///
/// # Errors
/// The first [`Fault`] that was found.
pub fn verify<'e>(
    key: &AuditKey,
    tenant: &TenantId,
    entries: impl IntoIterator<Item = &'e Entry>,
    head: Option<&Head>,
    expected: Option<Mark>,
) -> Result<Verified, Fault> {
    let mut verifier = Verifier::new(key, tenant.clone(), expected);
    entries.into_iter().try_for_each(|entry| verifier.take(entry))?;
    verifier.end(head)
}

impl Head {
    /// What to keep of it elsewhere.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { seq: self.seq, hash: self.hash.clone() }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

/// A text that is no mark.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no mark of an entry: expected its number, a colon, and 64 hexadecimal digits, as `verify` prints it")]
pub struct ParseMarkError(String);

impl FromStr for Mark {
    type Err = ParseMarkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        let parsed = text.split_once(':').and_then(|(seq, hash)| {
            let seq = seq.parse().ok().filter(|seq| *seq > 0)?;
            (hash.len() == 64 && hash.bytes().all(hex)).then(|| Self { seq, hash: hash.to_owned() })
        });
        parsed.ok_or_else(|| ParseMarkError(text.chars().take(100).collect()))
    }
}

#[cfg(test)]
mod tests;
