//! What Codex says about its work, translated into run events. Pure: lines in, events out.

use std::collections::BTreeSet;

use astraforge_core::{
    event::EventKind,
    run::{FailureCause, RunFailure},
};
use serde::Deserialize;

use super::{
    bench::OutputReader,
    lines::{Line, Lines, Tail},
};

/// The longest line of the event stream that is read.
const LONGEST_EVENT: usize = 16 * 1024 * 1024;
/// The longest line of standard error that is kept.
const LONGEST_LINE: usize = 16 * 1024;
/// How many lines of one command's output are shown.
const SHOWN_LINES: usize = 400;
/// How much of the last message is kept, in bytes.
const LONGEST_MESSAGE: usize = 1024 * 1024;
/// The stage of all that the agent does.
const STAGE: &str = "codex";

/// Reads the event stream of `codex exec --json`.
#[derive(Debug)]
pub(super) struct Transcript {
    stdout: Lines,
    stderr: Lines,
    tail: Tail,
    seen: Seen,
}

/// What was seen of a turn.
#[derive(Debug, Default)]
struct Seen {
    thread: Option<String>,
    last_message: Option<String>,
    failure: Option<String>,
    completed: bool,
    warnings: BTreeSet<String>,
}

impl Transcript {
    pub(super) fn new() -> Self {
        Self {
            stdout: Lines::new(LONGEST_EVENT),
            stderr: Lines::new(LONGEST_LINE),
            tail: Tail::new(4 * 1024),
            seen: Seen::default(),
        }
    }

    /// The thread's id, if it has the form of one: it becomes part of a path and of a command.
    pub(super) fn thread(&self) -> Option<&str> {
        self.seen.thread.as_deref().filter(|id| is_thread_id(id))
    }

    /// What the agent said last.
    pub(super) fn last_message(&self) -> Option<&str> {
        self.seen.last_message.as_deref()
    }

    /// Whether the turn came to its end.
    pub(super) fn completed(&self) -> bool {
        self.seen.completed
    }

    /// The end of what Codex wrote to standard error.
    pub(super) fn stderr_tail(&self) -> String {
        self.tail.text()
    }

    /// Why the turn failed, if it did.
    pub(super) fn failure(&self) -> Option<RunFailure> {
        self.seen.failure.as_deref().map(turn_failure)
    }
}

/// Tells whether a text can be a thread's id: hexadecimal digits and hyphens.
pub(super) fn is_thread_id(text: &str) -> bool {
    (8..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

impl OutputReader for Transcript {
    fn stdout(&mut self, bytes: &[u8]) -> Vec<EventKind> {
        self.stdout.push(bytes).iter().flat_map(|line| self.seen.line(line)).collect()
    }

    fn stderr(&mut self, bytes: &[u8]) -> Vec<EventKind> {
        self.tail.push(bytes);
        self.stderr.push(bytes).iter().filter_map(shown).collect()
    }

    fn end(&mut self) -> Vec<EventKind> {
        let mut events: Vec<_> = self.stdout.end().iter().flat_map(|line| self.seen.line(line)).collect();
        events.extend(self.stderr.end().as_ref().and_then(shown));
        events
    }
}

fn shown(line: &Line) -> Option<EventKind> {
    let text = line.text();
    // Said at every start, and no news.
    let routine = text.trim().is_empty() || text.starts_with("Reading prompt from stdin");
    (!routine).then(|| EventKind::log(text))
}

impl Seen {
    fn line(&mut self, line: &Line) -> Vec<EventKind> {
        if line.left_out > 0 {
            let bytes = line.bytes.len() + line.left_out;
            return vec![EventKind::log(format!("[an event of {bytes} bytes was left out]"))];
        }
        match serde_json::from_slice::<CodexEvent>(&line.bytes) {
            Ok(event) => self.event(event),
            Err(_) if line.bytes.trim_ascii().is_empty() => Vec::new(),
            Err(_) => vec![EventKind::log(line.text())],
        }
    }

    fn event(&mut self, event: CodexEvent) -> Vec<EventKind> {
        match event {
            CodexEvent::ThreadStarted { thread_id } => self.thread = Some(thread_id),
            CodexEvent::TurnCompleted => self.completed = true,
            CodexEvent::TurnFailed { error } => self.failure = Some(error.message),
            CodexEvent::Error { message } => return self.warning(&message),
            CodexEvent::ItemStarted { item } => return started(item),
            CodexEvent::ItemUpdated { item: Item::TodoList { items } } => return vec![plan(&items)],
            CodexEvent::ItemCompleted { item } => return self.completed_item(item),
            CodexEvent::ItemUpdated { .. } | CodexEvent::Other => {}
        }
        Vec::new()
    }

    fn completed_item(&mut self, item: Item) -> Vec<EventKind> {
        match item {
            Item::AgentMessage { text } => {
                let text = text.trim();
                if text.is_empty() {
                    return Vec::new();
                }
                let end = text.floor_char_boundary(LONGEST_MESSAGE);
                self.last_message = Some(text[..end].to_owned());
                vec![status(text)]
            }
            Item::Reasoning { text } if !text.trim().is_empty() => vec![status(text.trim())],
            Item::CommandExecution { aggregated_output, exit_code, .. } => output(&aggregated_output, exit_code),
            Item::FileChange { changes, status: how } => vec![file_change(&changes, &how)],
            Item::McpToolCall { server, tool, error: Some(error), .. } => {
                vec![status(format!("Tool {server}.{tool} failed: {}", brief(&error.to_string())))]
            }
            Item::WebSearch { query } => vec![status(format!("Searched the web for: {query}"))],
            Item::TodoList { items } => vec![plan(&items)],
            Item::Error { message } => self.warning(&message),
            _ => Vec::new(),
        }
    }

    /// Codex repeats some warnings; once is enough.
    fn warning(&mut self, message: &str) -> Vec<EventKind> {
        const REMEMBERED: usize = 64;
        let text = plain_error(message);
        if self.warnings.contains(&text) {
            return Vec::new();
        }
        if self.warnings.len() < REMEMBERED {
            self.warnings.insert(text.clone());
        }
        vec![status(text)]
    }
}

fn status(text: impl Into<String>) -> EventKind {
    EventKind::status(STAGE, text)
}

fn started(item: Item) -> Vec<EventKind> {
    match item {
        Item::CommandExecution { command, .. } => vec![EventKind::Command { command, cwd: None }],
        Item::McpToolCall { server, tool, arguments, .. } => {
            vec![status(format!("Calling tool {server}.{tool} {}", brief(&arguments.to_string())))]
        }
        Item::CollabToolCall { tool } => vec![status(format!("Calling a second agent: {tool}"))],
        Item::TodoList { items } => vec![plan(&items)],
        _ => Vec::new(),
    }
}

fn output(text: &str, exit_code: Option<i32>) -> Vec<EventKind> {
    let lines: Vec<&str> = text.lines().collect();
    let log = |line: &&str| EventKind::log(*line);
    let mut events: Vec<EventKind> = if lines.len() <= SHOWN_LINES {
        lines.iter().map(log).collect()
    } else {
        let (head, tail) = (&lines[..SHOWN_LINES / 2], &lines[lines.len() - SHOWN_LINES / 2..]);
        let left_out = EventKind::log(format!("… [{} lines left out] …", lines.len() - SHOWN_LINES));
        head.iter().map(log).chain([left_out]).chain(tail.iter().map(log)).collect()
    };
    if let Some(code) = exit_code.filter(|code| *code != 0) {
        events.push(status(format!("Command ended with exit code {code}")));
    }
    events
}

fn file_change(changes: &[FileChange], how: &str) -> EventKind {
    const NAMED: usize = 20;
    let name = |change: &FileChange| {
        let verb = match change.kind.as_str() {
            "add" => "added",
            "delete" => "deleted",
            _ => "updated",
        };
        let path = change.path.strip_prefix("/workspace/").unwrap_or(&change.path);
        format!("{verb} {path}")
    };
    let mut names: Vec<_> = changes.iter().take(NAMED).map(name).collect();
    if changes.len() > NAMED {
        names.push(format!("{} more", changes.len() - NAMED));
    }
    let names = names.join(", ");
    match how {
        "completed" => status(format!("Changed files: {names}")),
        how => status(format!("Changing files came to nothing ({how}): {names}")),
    }
}

fn plan(items: &[Todo]) -> EventKind {
    let line = |item: &Todo| format!("[{}] {}", if item.completed { "x" } else { " " }, item.text);
    status(format!("Plan:\n{}", items.iter().map(line).collect::<Vec<_>>().join("\n")))
}

fn brief(text: &str) -> String {
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The message of an API error, out of what Codex shows: the raw JSON body, or that body within a sentence.
fn plain_error(message: &str) -> String {
    #[derive(Deserialize)]
    struct Body {
        error: ErrorMessage,
    }
    let Some(start) = message.find('{') else { return message.to_owned() };
    let mut bodies = serde_json::Deserializer::from_str(&message[start..]).into_iter::<Body>();
    match bodies.next() {
        Some(Ok(body)) => format!("{}{}", &message[..start], body.error.message),
        _ => message.to_owned(),
    }
}

/// A failed turn, in words, and whose fault it was.
fn turn_failure(message: &str) -> RunFailure {
    const OF_THE_MODEL: [&str; 12] = [
        "unexpected status",
        "stream disconnected",
        "exceeded retry limit",
        "high demand",
        "quota",
        "usage limit",
        "context window",
        "incomplete response",
        "connection failed",
        "\"error\"",
        "idle timeout",
        "overloaded",
    ];
    let lower = message.to_lowercase();
    let cause =
        if OF_THE_MODEL.iter().any(|sign| lower.contains(sign)) { FailureCause::Model } else { FailureCause::Agent };
    let who = if cause == FailureCause::Model { "The model gave no usable answer" } else { "Codex gave up" };
    RunFailure::new(cause, format!("{who}: {}", plain_error(message)))
}

/// One line of the event stream. What is not known is ignored: new versions bring new kinds.
#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
enum CodexEvent {
    #[serde(rename = "thread.started")]
    ThreadStarted { thread_id: String },
    #[serde(rename = "turn.completed")]
    TurnCompleted,
    #[serde(rename = "turn.failed")]
    TurnFailed { error: ErrorMessage },
    #[serde(rename = "error")]
    Error { message: String },
    #[serde(rename = "item.started")]
    ItemStarted { item: Item },
    #[serde(rename = "item.updated")]
    ItemUpdated { item: Item },
    #[serde(rename = "item.completed")]
    ItemCompleted { item: Item },
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
struct ErrorMessage {
    message: String,
}

/// One thing that the agent says or does. Its `id` is left out: the stream has items with two of them.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Item {
    AgentMessage {
        text: String,
    },
    Reasoning {
        text: String,
    },
    CommandExecution {
        command: String,
        #[serde(default)]
        aggregated_output: String,
        exit_code: Option<i32>,
    },
    FileChange {
        changes: Vec<FileChange>,
        #[serde(default)]
        status: String,
    },
    McpToolCall {
        server: String,
        tool: String,
        #[serde(default)]
        arguments: serde_json::Value,
        error: Option<serde_json::Value>,
    },
    CollabToolCall {
        tool: String,
    },
    WebSearch {
        #[serde(default)]
        query: String,
    },
    TodoList {
        items: Vec<Todo>,
    },
    Error {
        message: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
struct FileChange {
    path: String,
    #[serde(default)]
    kind: String,
}

#[derive(Debug, Deserialize)]
struct Todo {
    text: String,
    completed: bool,
}

#[cfg(test)]
mod tests;
