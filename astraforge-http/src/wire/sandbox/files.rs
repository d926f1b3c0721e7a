//! Files of a sandbox.

use astraforge_core::files::{self, Entry, EntryKind, LineMatch, MatchCount};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{exec::Encoding, failure::SandboxFailure};
use crate::wire::timestamp;

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct WriteBody {
    /// The file; folders above it are made.
    #[schema(example = "/workspace/main.py")]
    pub path: String,
    /// What it is to hold, to the last character.
    pub content: String,
    /// How `content` is written.
    #[schema(required = false)]
    pub encoding: Encoding,
}

/// How writing a file went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WriteView {
    /// 0 when it was written, 1 when it was not.
    pub exit_code: i32,
    /// Why it was not written, or empty.
    pub stdout: String,
    /// The same.
    pub stderr: String,
    /// The kind of what went wrong, as in `code` of other answers; additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "no_space")]
    pub code: Option<String>,
    /// What went wrong, in parts; additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub failure: Option<SandboxFailure>,
    /// How many bytes were written; additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub size_bytes: Option<u64>,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EntryView {
    /// The absolute path.
    pub path: String,
    /// What it is.
    #[schema(schema_with = crate::wire::schema::entry_kind)]
    pub kind: EntryKind,
    /// Bytes of a file.
    pub size: u64,
    /// Permission bits, in octal.
    #[schema(example = "644")]
    pub mode: String,
    /// When its content changed last.
    #[serde(with = "timestamp::row")]
    pub modified_at: DateTime<Utc>,
    /// Where a link points.
    pub target: Option<String>,
}

impl From<EntryView> for Entry {
    fn from(view: EntryView) -> Self {
        let EntryView { path, kind, size, mode, modified_at, target } = view;
        // One that is no number is of no version of this program, and opens nothing.
        Self { path, kind, size, mode: u32::from_str_radix(&mode, 8).unwrap_or(0), modified_at, target }
    }
}

impl From<Entry> for EntryView {
    fn from(entry: Entry) -> Self {
        let Entry { path, kind, size, mode, modified_at, target } = entry;
        Self { path, kind, size, mode: format!("{mode:o}"), modified_at, target }
    }
}

/// Things in a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EntryList {
    /// In order of path.
    pub entries: Vec<EntryView>,
    /// Whether there are more.
    pub truncated: bool,
}

/// Some lines of a text file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TextWindow {
    /// The lines, with their line ends.
    pub text: String,
    /// The number of the first line, from 1; 0 when there is none.
    pub first_line: u64,
    /// How many lines there are here.
    pub n_lines: u64,
    /// How many lines the whole file has.
    pub total_lines: u64,
    /// Whether the last line was cut at the limit on bytes.
    pub truncated: bool,
}

impl From<TextWindow> for files::TextWindow {
    fn from(window: TextWindow) -> Self {
        let TextWindow { text, first_line, n_lines, total_lines, truncated } = window;
        Self { text, first_line, n_lines, total_lines, truncated }
    }
}

impl From<files::TextWindow> for TextWindow {
    fn from(window: files::TextWindow) -> Self {
        let files::TextWindow { text, first_line, n_lines, total_lines, truncated } = window;
        Self { text, first_line, n_lines, total_lines, truncated }
    }
}

/// Files by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PathList {
    /// Absolute, in order.
    pub paths: Vec<String>,
    /// Whether there are more.
    pub truncated: bool,
}

/// Lines by content, or how many each file has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MatchList {
    /// In order of path and line; empty when lines were to be counted.
    pub matches: Vec<MatchView>,
    /// In order of path; empty when lines were asked for.
    pub counts: Vec<CountView>,
    /// Whether there are more.
    pub truncated: bool,
}

/// A line that matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MatchView {
    /// The file.
    pub path: String,
    /// The number of the line, from 1.
    pub line: u64,
    /// The line without its end, cut when it is very long.
    pub text: String,
}

impl From<MatchView> for LineMatch {
    fn from(view: MatchView) -> Self {
        let MatchView { path, line, text } = view;
        Self { path, line, text }
    }
}

impl From<LineMatch> for MatchView {
    fn from(found: LineMatch) -> Self {
        let LineMatch { path, line, text } = found;
        Self { path, line, text }
    }
}

/// How many lines of a file match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CountView {
    /// The file.
    pub path: String,
    /// How many lines.
    pub n_lines: u64,
}

impl From<CountView> for MatchCount {
    fn from(view: CountView) -> Self {
        let CountView { path, n_lines } = view;
        Self { path, n_lines }
    }
}

impl From<MatchCount> for CountView {
    fn from(count: MatchCount) -> Self {
        let MatchCount { path, n_lines } = count;
        Self { path, n_lines }
    }
}

/// Text to replace in a file, which stays whole at every moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct EditBody {
    /// The file.
    pub path: String,
    /// The text to find, exactly; its line ends match the file's.
    pub old: String,
    /// What is put in its place.
    pub new: String,
    /// Whether every occurrence is replaced; unless set there must be exactly one.
    #[schema(required = false)]
    pub replace_all: bool,
}

/// An edit was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EditView {
    /// How many times the text was found and replaced.
    pub occurrences: u64,
}

/// A folder to make, and those above it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct MakeDirBody {
    /// The folder.
    pub path: String,
}

/// A file or folder to move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct MoveBody {
    /// What is moved.
    pub from: String,
    /// Where to.
    pub to: String,
    /// Whether what is there is replaced; unless set the call fails then.
    #[schema(required = false)]
    pub replace: bool,
}

/// A file or folder to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RemoveBody {
    /// What is removed.
    pub path: String,
    /// Whether a folder goes with all it holds.
    #[schema(required = false)]
    pub recursive: bool,
}
