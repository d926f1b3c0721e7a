//! One case of the suite, and how it ends.

use std::fmt;

use astraforge_core::{error::chain, ports::sessions::SessionError};
use futures::future::BoxFuture;

use super::Target;

/// Something that a hostile program tries, and how it is judged.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Case {
    /// Its name, for reports and `docs/security.md`.
    pub id: &'static str,
    /// What holds when it passes.
    pub title: &'static str,
    /// What it is about.
    pub group: Group,
    pub(super) run: for<'a> fn(&'a Target) -> BoxFuture<'a, Judged>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("id", &self.id).field("group", &self.group).finish_non_exhaustive()
    }
}

/// What a case is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Processes: how many, how they end, whom they reach.
    Processes,
    /// Memory, disk, time, and what the kernel counts.
    Resources,
    /// System calls, rights, and what the kernel shows.
    Kernel,
    /// Files, names, links and archives.
    Files,
    /// Input and output.
    Streams,
    /// Ways out.
    Network,
    /// Beginning and end of sandboxes.
    Lifecycle,
}

impl Group {
    /// Its name, as options take it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Processes => "processes",
            Self::Resources => "resources",
            Self::Kernel => "kernel",
            Self::Files => "files",
            Self::Streams => "streams",
            Self::Network => "network",
            Self::Lifecycle => "lifecycle",
        }
    }
}

/// How a case ends: with what shows that it holds, or not.
pub(super) type Judged = Result<String, Stop>;

/// Why a case does not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// The attack achieved something.
    Breach(String),
    /// The isolation tier or a capability that the driver says it lacks excuses it.
    Excused(String),
    /// It could not be carried out; nothing was shown, so it counts as failed.
    Trouble(String),
}

impl Stop {
    pub(super) fn trouble(text: impl fmt::Display) -> Self {
        Self::Trouble(text.to_string())
    }

    pub(super) fn breach(text: impl fmt::Display) -> Self {
        Self::Breach(text.to_string())
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Breach(text) | Self::Excused(text) => f.write_str(text),
            Self::Trouble(text) => write!(f, "could not be carried out: {text}"),
        }
    }
}

/// What a driver says it cannot give excuses a case; anything else that fails shows nothing.
impl From<SessionError> for Stop {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Unsupported { what, reason } => Self::Excused(format!("{what} is not supported: {reason}")),
            error => Self::Trouble(chain(&error)),
        }
    }
}

impl From<astraforge_core::sandbox::LifetimeError> for Stop {
    fn from(error: astraforge_core::sandbox::LifetimeError) -> Self {
        Self::Trouble(chain(&error))
    }
}

impl From<astraforge_core::error::ForgeError> for Stop {
    fn from(error: astraforge_core::error::ForgeError) -> Self {
        Self::Trouble(chain(&error))
    }
}

/// Fails the case with what was achieved, unless `holds`.
macro_rules! hold {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err($crate::attack::case::Stop::Breach(format!($($text)+)));
        }
    };
}
pub(super) use hold;

/// Makes the table of a group's cases: id, title, and the function that carries it out.
macro_rules! table {
    ($group:ident: $($id:literal $title:literal $target:ident => $run:expr;)+) => {
        pub(in $crate::attack) const CASES: &[$crate::attack::Case] = &[$($crate::attack::Case {
            id: $id,
            title: $title,
            group: $crate::attack::Group::$group,
            run: |$target| Box::pin($run),
        }),+];
    };
}
pub(super) use table;
