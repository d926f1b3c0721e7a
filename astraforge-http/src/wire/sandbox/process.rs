//! Commands that go on in a sandbox when nobody watches them.

use std::collections::BTreeMap;

use astraforge_core::process::{Process, ProcessId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::exec::{CommandBody, Encoding, cause_of, exit_of};
use crate::wire::timestamp;

/// A command to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NewProcess {
    /// A line for a shell, or a program and its arguments.
    pub command: CommandBody,
    /// A name for it: letters, digits, `-`, `_`, `.`, at most 64 of them, not a number alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "dev-server")]
    pub tag: Option<String>,
    /// Its working directory; `/workspace` unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub cwd: Option<String>,
    /// Seconds after which it is ended with all it started; no limit but the sandbox's own unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1)]
    pub timeout_sec: Option<u64>,
    /// Its environment, on top of the sandbox's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    pub env: BTreeMap<String, String>,
    /// Whether it reads what is sent to its input later; unless set it reads nothing.
    #[schema(required = false)]
    pub open_stdin: bool,
    /// The size of the terminal that it runs in; none unless set. With one, its input is open, and all output is standard
    /// output.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub pty: Option<PtyBody>,
}

impl NewProcess {
    /// A line for a shell, with nothing else set.
    pub fn shell(line: impl Into<String>) -> Self {
        Self {
            command: CommandBody::Line(line.into()),
            tag: None,
            cwd: None,
            timeout_sec: None,
            env: BTreeMap::new(),
            open_stdin: false,
            pty: None,
        }
    }
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct PtyBody {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// A command that goes on, or went on until it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessView {
    /// Its id, never used twice in a sandbox.
    pub id: u64,
    /// The name that it was given.
    pub tag: Option<String>,
    /// The command, as a shell would take it; shortened when it is long.
    pub command: String,
    /// When it was started, by the sandbox's clock.
    #[serde(with = "timestamp::row")]
    pub started_at: DateTime<Utc>,
    /// Its exit code; null while it runs.
    pub exit_code: Option<i32>,
    /// How it ended: `exited`, `signaled`, `timed_out`, `out_of_memory`; null while it runs.
    #[schema(example = "exited")]
    pub cause: Option<String>,
    /// The first byte of output that can still be read, counted over both streams.
    pub first_sequence: u64,
    /// The number of bytes written so far, to both streams together.
    pub next_sequence: u64,
    /// Whether it has a terminal.
    pub pty: bool,
}

impl From<ProcessView> for Process {
    fn from(view: ProcessView) -> Self {
        let exit = view.exit_code.map(|code| exit_of(code, view.cause.as_deref().unwrap_or_default()));
        Self {
            id: ProcessId(view.id),
            // One that is no tag here is one of a later version, and can be named by its id.
            tag: view.tag.and_then(|tag| tag.parse().ok()),
            command: view.command,
            started_at: view.started_at,
            exit,
            first_sequence: view.first_sequence,
            next_sequence: view.next_sequence,
            pty: view.pty,
        }
    }
}

impl From<Process> for ProcessView {
    fn from(process: Process) -> Self {
        Self {
            id: process.id.0,
            tag: process.tag.map(String::from),
            command: process.command,
            started_at: process.started_at,
            exit_code: process.exit.map(|exit| exit.code()),
            cause: process.exit.map(|exit| cause_of(exit).to_owned()),
            first_sequence: process.first_sequence,
            next_sequence: process.next_sequence,
            pty: process.pty,
        }
    }
}

/// A signal to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SignalBody {
    /// `interrupt`, `terminate`, or `kill`, which ends all it started too.
    #[schema(example = "terminate")]
    pub signal: String,
}

/// What a running command does, as an event of a stream. Which fields there are depends on `type`.
///
/// The id of an event counts the bytes of output up to its end, over both streams: a stream that is resumed from it
/// goes on without a loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ProcessEvent {
    /// It wrote to standard output.
    Stdout {
        /// What it wrote.
        data: String,
        /// How `data` is written: as text where it is UTF-8.
        encoding: Encoding,
    },
    /// It wrote to standard error.
    Stderr {
        /// What it wrote.
        data: String,
        /// How `data` is written: as text where it is UTF-8.
        encoding: Encoding,
    },
    /// So many bytes were written here and are no longer kept.
    Lost {
        /// How many, of both streams together.
        n_bytes: u64,
    },
    /// It ended; always the last.
    Exited {
        /// Its exit code.
        exit_code: i32,
        /// How it ended: `exited`, `signaled`, `timed_out`, `out_of_memory`.
        cause: String,
    },
}
