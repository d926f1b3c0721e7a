//! Processes that go on in a sandbox when nobody watches them.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::session::Exit;

/// A name that a caller gives a process: letters, digits, `-`, `_`, `.`, at most 64 of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProcessTag(String);

/// A text that is not a process's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a tag: use 1 to 64 letters, digits, `-`, `_` and `.`, not a number alone")]
pub struct ParseProcessTagError(String);

impl ProcessTag {
    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProcessTag {
    type Err = ParseProcessTagError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let number = text.bytes().all(|byte| byte.is_ascii_digit());
        if (1..=64).contains(&text.len()) && text.chars().all(plain) && !number {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseProcessTagError(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for ProcessTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ProcessTag {
    type Error = ParseProcessTagError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ProcessTag> for String {
    fn from(tag: ProcessTag) -> Self {
        tag.0
    }
}

/// Names a process of one sandbox; never used twice in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessId(pub u64);

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Which process is meant: by its id, or the one that was started last with a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessName {
    /// The process of that id.
    Id(ProcessId),
    /// The youngest process of that tag.
    Tag(ProcessTag),
}

impl fmt::Display for ProcessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => fmt::Display::fmt(id, f),
            Self::Tag(tag) => fmt::Display::fmt(tag, f),
        }
    }
}

impl FromStr for ProcessName {
    type Err = ParseProcessTagError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(|id| Self::Id(ProcessId(id))).or_else(|_| text.parse().map(Self::Tag))
    }
}

/// A process that goes on when nobody watches, or went on until it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub id: ProcessId,
    /// The name its caller gave it.
    pub tag: Option<ProcessTag>,
    /// The command, as a shell would take it; shortened when it is long.
    pub command: String,
    /// When it was started, by the sandbox's clock.
    pub started_at: DateTime<Utc>,
    /// How it ended; `None` while it runs.
    pub exit: Option<Exit>,
    /// The first byte of output that can still be read, counted over both streams.
    pub first_sequence: u64,
    /// The number of bytes written so far, to both streams together.
    pub next_sequence: u64,
    /// Whether it has a terminal.
    pub pty: bool,
}
