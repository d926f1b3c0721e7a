//! The file verbs: what can be asked about the files of a sandbox, and what is answered.
//!
//! Requests carry the roots that their caller may use. They are enforced where the files are, at every component of
//! the path, so that no link leads out of them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The folders that a caller may use; everything outside them is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Roots(pub Vec<String>);

impl Roots {
    /// Every path: for callers that stand for the sandbox itself.
    #[must_use]
    pub fn everywhere() -> Self {
        Self(vec!["/".to_owned()])
    }
}

impl Default for Roots {
    fn default() -> Self {
        Self(vec!["/workspace".to_owned(), "/tmp".to_owned()])
    }
}

/// A file verb and where it may work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRequest {
    /// Where it may work.
    pub roots: Roots,
    /// What is asked.
    pub verb: FileVerb,
}

/// What can be asked about files. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileVerb {
    /// Describes what is at a path, without following a link there: [`FileReply::Entry`].
    Stat {
        /// What is described.
        path: String,
    },
    /// Lists a folder, in order of name: [`FileReply::Entries`].
    List {
        /// The folder.
        path: String,
        /// How many levels below it are listed too; 1 is the folder's own entries.
        depth: u32,
        /// At most so many entries.
        limit: usize,
    },
    /// Reads lines of a text file: [`FileReply::Text`].
    ReadText {
        /// The file.
        path: String,
        /// How many lines are left out before the first.
        offset: u64,
        /// At most so many lines.
        limit: u64,
        /// At most so many bytes.
        max_bytes: usize,
    },
    /// Replaces text in a file, which stays whole at every moment: [`FileReply::Edited`].
    Edit {
        /// The file.
        path: String,
        /// The text to find, exactly; its line ends match the file's.
        old: String,
        /// What is put in its place.
        new: String,
        /// How many times it may be found.
        occurrences: Occurrences,
    },
    /// Finds regular files by name: [`FileReply::Paths`].
    Glob {
        /// `*.rs` at any depth, `src/**/*.rs` below the folder; braces and classes; leading dots are named.
        pattern: String,
        /// The folder.
        path: String,
        /// At most so many paths.
        limit: usize,
    },
    /// Finds lines by content: [`FileReply::Matches`] or [`FileReply::Counts`].
    Grep {
        /// What is looked for.
        pattern: Pattern,
        /// The file or folder.
        path: String,
        /// Only in files whose name matches.
        glob: Option<String>,
        /// What is answered.
        output: GrepOutput,
        /// At most so many lines or files.
        limit: usize,
    },
    /// Makes a folder, and those above it: [`FileReply::Done`].
    MakeDir {
        /// The folder.
        path: String,
    },
    /// Moves a file or folder: [`FileReply::Done`].
    Move {
        /// What is moved.
        from: String,
        /// Where to.
        to: String,
        /// What happens when something is there.
        existing: Existing,
    },
    /// Removes a file or folder: [`FileReply::Done`].
    Remove {
        /// What is removed.
        path: String,
        /// Whether a folder goes with all it holds.
        recursive: bool,
    },
}

/// How many times a text may be found for an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Occurrences {
    /// Exactly once.
    Unique,
    /// At least once; all are replaced.
    All,
}

/// What happens to what is already at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Existing {
    /// It is replaced.
    Replace,
    /// It is kept, and the call fails.
    Keep,
}

/// What is looked for in lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// This text.
    Literal(String),
    /// This regular expression.
    Regex(String),
}

/// What a search answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrepOutput {
    /// The lines.
    Lines,
    /// The number of lines in each file that has one.
    Counts,
}

/// The answer to a verb.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileReply {
    /// It is done.
    Done,
    /// One thing at a path.
    Entry(Entry),
    /// Things in a folder.
    Entries {
        /// In order of path.
        entries: Vec<Entry>,
        /// Whether there are more.
        truncated: bool,
    },
    /// Lines of a file.
    Text(TextWindow),
    /// An edit was made.
    Edited {
        /// How many times the text was found and replaced.
        n_replaced: u64,
    },
    /// Files by name.
    Paths {
        /// Absolute, in order.
        paths: Vec<String>,
        /// Whether there are more.
        truncated: bool,
    },
    /// Lines by content.
    Matches {
        /// In order of path and line.
        matches: Vec<LineMatch>,
        /// Whether there are more.
        truncated: bool,
    },
    /// Files by content.
    Counts {
        /// In order of path.
        counts: Vec<MatchCount>,
        /// Whether there are more.
        truncated: bool,
    },
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The absolute path. Bytes that are not UTF-8 are shown as `\u{FFFD}`.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes of a file.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// When its content changed last.
    pub modified_at: DateTime<Utc>,
    /// Where a link points.
    pub target: Option<String>,
}

/// What something at a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

/// Some lines of a text file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// A line that matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineMatch {
    /// The file.
    pub path: String,
    /// The number of the line, from 1.
    pub line: u64,
    /// The line without its end, cut when it is very long.
    pub text: String,
}

/// How many lines of a file match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchCount {
    /// The file.
    pub path: String,
    /// How many lines.
    pub n_lines: u64,
}

/// A file's bytes are asked for, as a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadRequest {
    /// Where it may be.
    pub roots: Roots,
    /// The file.
    pub path: String,
    /// How many bytes are left out before the first.
    pub offset: u64,
    /// At most so many bytes; `None` is all.
    pub limit: Option<u64>,
}

/// A file is to be written from a stream: whole, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRequest {
    /// Where it may be.
    pub roots: Roots,
    /// The file; folders above it are made.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// What happens to a file that is there.
    pub existing: Existing,
}

/// Changes below a folder are asked for, as they happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRequest {
    /// Where it may be.
    pub roots: Roots,
    /// The file or folder.
    pub path: String,
    /// Whether folders below it are watched too.
    pub recursive: bool,
}

/// Something changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEvent {
    /// What it happened to.
    pub path: String,
    /// What happened.
    pub change: FileChange,
}

/// What happened to a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileChange {
    /// The watch is in place; the first event of every watch.
    Watching,
    /// It came to be, or was moved here.
    Created,
    /// Its content or permissions changed.
    Modified,
    /// It is gone, or was moved away.
    Removed,
    /// More happened than could be kept; look again.
    Overflowed,
}

/// Why a file verb failed, for callers that act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileErrorKind {
    /// There is nothing at the path.
    NotFound,
    /// The sandbox's kernel says no.
    PermissionDenied,
    /// It is a folder.
    IsDirectory,
    /// Something on the way is not a folder.
    NotADirectory,
    /// It is neither a file nor a folder.
    NotAFile,
    /// Something is there already.
    AlreadyExists,
    /// The path leads out of the roots that the caller may use.
    OutsideRoots,
    /// The path, pattern or other argument cannot be meant.
    InvalidArgument,
    /// The file is not text.
    NotText,
    /// The text to replace is not there.
    NoMatch,
    /// The text to replace is there more than once.
    ManyMatches,
    /// It is larger than this verb takes.
    TooLarge,
    /// The disk or the limit of the sandbox is full.
    NoSpace,
    /// Anything else; the reason says what.
    Other,
}
