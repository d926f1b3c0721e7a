//! Run events: all that a watcher of a request can see, in order.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use self::envelope::Envelope;
use crate::id::{RequestId, RunId};

mod envelope;

/// One event of a request's run log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEvent {
    /// Counts the events of the request from 1, without a gap.
    pub seq: u64,
    /// The request it belongs to.
    pub request_id: RequestId,
    /// The run it belongs to, if it belongs to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
    /// When it happened.
    pub created_at: DateTime<Utc>,
}

/// An event that has no place in the log yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// The request it belongs to.
    pub request: RequestId,
    /// The run it belongs to, if it belongs to one.
    pub run: Option<RunId>,
    /// What happened.
    pub kind: EventKind,
    /// When it happened.
    pub at: DateTime<Utc>,
}

/// What happened. The form on the wire is the contract's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// A person asked.
    UserPrompt {
        /// What they asked.
        message: String,
    },
    /// A person added something.
    UserMessage {
        /// What they added.
        message: String,
    },
    /// A step began or ended.
    Status {
        /// Which part of the work it belongs to, such as `clone` or `codex`.
        stage: String,
        /// What is being done.
        message: String,
    },
    /// A command is about to run.
    Command {
        /// The command as a shell would take it, secrets blanked.
        command: String,
        /// Its working directory.
        cwd: Option<String>,
    },
    /// A line of output.
    Log {
        /// The line.
        message: String,
    },
    /// Something failed. With stage `failed` the run is over.
    Error {
        /// Which part of the work it belongs to; `failed` ends the run.
        #[serde(skip_serializing_if = "Option::is_none")]
        stage: Option<String>,
        /// What failed.
        message: String,
        /// The output of the command that failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        output: Option<String>,
        /// The exit code of the command that failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
    },
    /// The agent's answer.
    AssistantMessage {
        /// Always `chat`.
        stage: String,
        /// The answer.
        message: String,
    },
    /// The run is over and did what it could.
    Completed {
        /// A sentence about it.
        message: String,
    },
    /// A person stopped the run; it is over.
    Cancelled {
        /// A sentence about it.
        message: String,
    },
}

impl EventKind {
    /// A step of `stage`.
    pub fn status(stage: &str, message: impl Into<String>) -> Self {
        Self::Status { stage: stage.to_owned(), message: message.into() }
    }

    /// A line of output.
    pub fn log(message: impl Into<String>) -> Self {
        Self::Log { message: message.into() }
    }

    /// The failure that ends a run.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Error { stage: Some("failed".to_owned()), message: message.into(), output: None, exit_code: None }
    }

    /// The agent's answer.
    pub fn assistant_message(message: impl Into<String>) -> Self {
        Self::AssistantMessage { stage: "chat".to_owned(), message: message.into() }
    }

    /// Tells whether this is the last event of its run.
    #[must_use]
    pub fn ends_run(&self) -> bool {
        match self {
            Self::Completed { .. } | Self::Cancelled { .. } => true,
            Self::Error { stage, .. } => stage.as_deref() == Some("failed"),
            _ => false,
        }
    }

    /// Applies `edit` to every text that came from outside.
    pub fn map_text(&mut self, edit: impl Fn(&mut String)) {
        match self {
            Self::UserPrompt { message }
            | Self::UserMessage { message }
            | Self::Status { message, .. }
            | Self::Log { message }
            | Self::AssistantMessage { message, .. }
            | Self::Completed { message }
            | Self::Cancelled { message } => edit(message),
            Self::Command { command, cwd } => {
                edit(command);
                cwd.iter_mut().for_each(edit);
            }
            Self::Error { message, output, .. } => {
                edit(message);
                output.iter_mut().for_each(edit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_contracts_form() {
        let event = RunEvent {
            seq: 7,
            request_id: RequestId::random(),
            run_id: Some(RunId::random()),
            kind: EventKind::status("clone", "Repository cloned"),
            created_at: "2026-03-01T10:15:00.130Z".parse().unwrap(),
        };
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!((&json["type"], &json["stage"], &json["seq"]), (&"status".into(), &"clone".into(), &7.into()));
        assert_eq!(serde_json::from_value::<RunEvent>(json).unwrap(), event);
    }

    #[test]
    fn only_the_last_event_of_a_run_ends_it() {
        assert!(EventKind::failed("x").ends_run());
        assert!(EventKind::Completed { message: "x".into() }.ends_run());
        assert!(EventKind::Cancelled { message: "x".into() }.ends_run());
        let tolerated = EventKind::Error { stage: None, message: "x".into(), output: None, exit_code: Some(1) };
        assert!(!tolerated.ends_run());
        assert!(!EventKind::log("x").ends_run());
    }
}
