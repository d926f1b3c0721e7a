//! Commands in a sandbox.

use std::collections::BTreeMap;

use astraforge_core::session::Exit;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ExecBody {
    /// A line for a shell, or a program and its arguments.
    pub command: CommandBody,
    /// Its working directory; `/workspace` unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub cwd: Option<String>,
    /// Seconds after which it is ended with all it started; no limit but the sandbox's own unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1)]
    pub timeout_sec: Option<u64>,
    /// Whether its standard output is answered; true unless set.
    #[schema(required = false)]
    pub capture_stdout: bool,
    /// Whether its standard error is answered; true unless set.
    #[schema(required = false)]
    pub capture_stderr: bool,
    /// Its environment, on top of the sandbox's own; additive.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    pub env: BTreeMap<String, String>,
    /// What it reads; nothing unless set; additive.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    pub stdin: String,
    /// How output is written; additive.
    #[schema(required = false)]
    pub encoding: Encoding,
}

impl ExecBody {
    /// A command with nothing else set.
    pub fn new(command: CommandBody) -> Self {
        Self {
            command,
            cwd: None,
            timeout_sec: None,
            capture_stdout: true,
            capture_stderr: true,
            env: BTreeMap::new(),
            stdin: String::new(),
            encoding: Encoding::Utf8,
        }
    }

    /// A line for a shell.
    pub fn shell(line: impl Into<String>) -> Self {
        Self::new(CommandBody::Line(line.into()))
    }
}

/// A line for a shell, or a program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum CommandBody {
    /// A line for `/bin/sh`.
    Line(String),
    /// A program and its arguments.
    Words(Vec<String>),
}

/// How bytes are written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub enum Encoding {
    /// As UTF-8; what is not is shown as `\u{FFFD}`.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// In standard base64 with padding, byte for byte.
    #[serde(rename = "base64")]
    Base64,
}

impl Encoding {
    /// The encoding of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "utf-8" | "utf8" => Some(Self::Utf8),
            "base64" => Some(Self::Base64),
            _ => None,
        }
    }
}

/// How a command went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExecView {
    /// Its exit code: 124 when its time was over, 128 and the number when a signal ended it, 126 or 127 when it could not
    /// be started.
    pub exit_code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// How long it took, in seconds.
    pub duration_sec: f64,
    /// Whether bytes were left out because there were too many; additive.
    pub truncated: bool,
    /// How it ended: `exited`, `signaled`, `timed_out`, `out_of_memory`, `not_started`; additive.
    #[schema(example = "exited")]
    pub cause: String,
}

/// The name of the way in which a command ended.
#[must_use]
pub(crate) const fn cause_of(exit: Exit) -> &'static str {
    match exit {
        Exit::Exited { .. } => "exited",
        Exit::Signaled { .. } => "signaled",
        Exit::TimedOut => "timed_out",
        Exit::OutOfMemory => "out_of_memory",
    }
}

/// The way in which a command ended, from its exit code and the name that [`cause_of`] gives. A name of a later version
/// counts as an end by itself.
#[must_use]
pub(crate) fn exit_of(code: i32, cause: &str) -> Exit {
    match cause {
        "signaled" => Exit::Signaled { signal: code - 128 },
        "timed_out" => Exit::TimedOut,
        "out_of_memory" => Exit::OutOfMemory,
        _ => Exit::Exited { code },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_of_a_command_comes_back_as_itself() {
        for exit in [
            Exit::Exited { code: 0 },
            Exit::Exited { code: 137 },
            Exit::Signaled { signal: 9 },
            Exit::TimedOut,
            Exit::OutOfMemory,
        ] {
            assert_eq!(exit_of(exit.code(), cause_of(exit)), exit);
        }
    }
}
