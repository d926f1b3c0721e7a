//! Typed ids: inside AstraForge an id is never a bare string.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not the id it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid {kind} id: expected a UUID such as {example}", example = Uuid::nil())]
pub struct ParseIdError {
    kind: &'static str,
    text: String,
}

macro_rules! uuid_id {
    ($($(#[$doc:meta])* $name:ident $kind:literal;)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Makes a fresh id; ids made later sort after ids made earlier.
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::now_v7())
            }

            /// When it was made, to the millisecond and by the clock of its maker; `None` for one that tells no time,
            /// as [`random`](Self::random) makes none.
            #[must_use]
            pub fn made_at(&self) -> Option<DateTime<Utc>> {
                let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
                DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
            }

            /// Returns the id as a UUID.
            #[must_use]
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self.0.as_hyphenated(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                // Only the hyphenated form: the other spellings of a UUID would give one row several addresses.
                match Uuid::try_parse(text) {
                    Ok(uuid) if text.len() == 36 => Ok(Self(uuid)),
                    _ => Err(ParseIdError { kind: $kind, text: text.chars().take(64).collect() }),
                }
            }
        }
    )* };
}

uuid_id! {
    /// Names one request, from prompt to merge request.
    RequestId "request";
    /// Names one run of an agent for a request.
    RunId "run";
    /// Names one message of a request's conversation.
    MessageId "message";
    /// Names one attachment of a request or message.
    AttachmentId "attachment";
    /// Names one change set: what a run wants to change.
    ChangeSetId "change set";
    /// Names one approval of a change set's digest.
    ApprovalId "approval";
    /// Names one merge request.
    MergeRequestId "merge request";
    /// Names one link between an owner and a repository.
    RepositoryLinkId "repository link";
    /// Names one API key (not the key itself).
    ApiKeyId "API key";
    /// Names one background job.
    JobId "job";
    /// Names one sandbox, and the session that lives in it.
    SandboxId "sandbox";
    /// Names one snapshot of a sandbox's files.
    SnapshotId "snapshot";
    /// Names one node: a data folder, and what is on its machine. It stays the same when its server restarts.
    NodeId "node";
    /// Names one file that was taken out of a sandbox.
    ArtifactId "artifact";
    /// Names one attempt to carry out a call.
    AttemptId "attempt";
    /// Names one archive of a part of a run log.
    LogArchiveId "log archive";
}

macro_rules! text_id {
    ($($(#[$doc:meta])* $name:ident $kind:literal;)*) => { $(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Wraps a name that was checked where it entered the system.
            pub fn new(name: impl Into<String>) -> Self {
                Self(name.into())
            }

            /// Returns the name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), self.0)
            }
        }
    )* };
}

text_id! {
    /// Names the tenant that owns a row.
    TenantId "tenant";
    /// Names the person or machine that acts.
    UserId "user";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_form() {
        let id = RequestId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn an_id_tells_when_it_was_made() {
        let id: RunId = "019331a4-8c00-7000-8000-000000000000".parse().unwrap();
        assert_eq!(id.made_at().unwrap().to_rfc3339(), "2024-11-15T21:04:47.616+00:00");
        assert_eq!(RunId::from(Uuid::new_v4()).made_at(), None);
        assert!(RunId::random().made_at().is_some());
    }

    #[test]
    fn other_spellings_of_a_uuid_are_refused() {
        let id = RequestId::random().to_string();
        for text in ["", "x", &id.replace('-', ""), &format!("{{{id}}}"), &format!("urn:uuid:{id}")] {
            assert!(text.parse::<RequestId>().is_err(), "{text}");
        }
    }
}
