//! A sandbox at work: commands in it, written to the run log, and stopped when the run must stop.

use std::{sync::Arc, time::Duration};

use astraforge_core::{
    event::EventKind,
    ports::sessions::{Session, SessionError},
    run::{FailureCause, RunFailure},
    session::{Command, ExecEvent, Exit, Signal},
};
use bytes::Bytes;
use futures::StreamExt;
use tokio::time::{Instant, sleep_until};

use super::{
    lines::{Lines, Tail},
    log::Log,
    stop::{Stop, Stopped},
};

/// How long a command may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);
/// How long a command may take to end after it was killed.
const AFTER_KILL: Duration = Duration::from_secs(2);
/// How long a step may go on after the run must stop.
pub(super) const LAST_MOMENT: Duration = Duration::from_secs(9);
/// What is kept of a command's standard output for the runner itself.
const MAX_STDOUT: usize = 16 * 1024 * 1024;
/// What is kept of the end of a command's output for a person.
const MAX_TAIL: usize = 8 * 1024;
/// The longest line of output that is looked at.
const LONGEST_LINE: usize = 64 * 1024;

/// The sandbox of a run, with its log and its limits in time.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) session: Arc<dyn Session>,
    pub(super) log: Arc<Log>,
    pub(super) stop: Stop,
}

/// Reads the output of a command as it comes, and makes events of it.
pub(super) trait OutputReader: Send {
    fn stdout(&mut self, bytes: &[u8]) -> Vec<EventKind>;
    fn stderr(&mut self, bytes: &[u8]) -> Vec<EventKind>;
    fn end(&mut self) -> Vec<EventKind>;
}

/// What becomes of a command's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// It goes to the log, line by line.
    Shown,
    /// It is for the runner only.
    Kept,
}

/// How a command ended, and what it wrote.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) exit: Exit,
    pub(super) stdout: Vec<u8>,
    pub(super) tail: String,
}

impl Finished {
    /// Standard output as a text without white space around it.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

impl Bench {
    /// Runs a command, with the command itself in the log.
    ///
    /// # Errors
    /// A failure of the sandbox, or that the run must stop. A command that fails is no error.
    pub(super) async fn run(&self, command: Command, output: Output) -> Result<Finished, RunFailure> {
        let mut reader = Plain::new(output);
        let exit = self.drive(command, &mut reader).await?;
        Ok(Finished { exit, tail: reader.tail.text(), stdout: reader.stdout })
    }

    /// Runs a command that must succeed.
    ///
    /// # Errors
    /// As [`run`](Self::run); and `cause` with `what` and the end of the output when the command fails.
    pub(super) async fn must(&self, command: Command, cause: FailureCause, what: &str) -> Result<Finished, RunFailure> {
        let line = command.to_string();
        let finished = self.run(command, Output::Kept).await?;
        if finished.exit.success() {
            return Ok(finished);
        }
        self.log.emit(failed_command(&line, finished.exit, &finished.tail)).await;
        Err(RunFailure::new(
            cause,
            format!("{what}: `{}` ended with {}. {}", first_words(&line), finished.exit, finished.tail),
        ))
    }

    /// Runs a command, and hands its output to `reader` as it comes.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(super) async fn drive(&self, command: Command, reader: &mut dyn OutputReader) -> Result<Exit, RunFailure> {
        let shown = EventKind::Command { command: command.to_string(), cwd: Some(command.cwd.display().to_string()) };
        self.log.emit(shown).await;
        let mut execution = self.session.exec(command).await.map_err(session_failure)?;
        let mut called = std::pin::pin!(self.stop.called());
        let mut ending: Option<Ending> = None;
        loop {
            let end_by = ending.as_ref().map(|ending| ending.deadline);
            tokio::select! {
                event = execution.events.next() => match event {
                    Some(Ok(ExecEvent::Stdout(bytes))) => self.log.relay(reader.stdout(&bytes)).await,
                    Some(Ok(ExecEvent::Stderr(bytes))) => self.log.relay(reader.stderr(&bytes)).await,
                    // Only a kept process loses output, and this one is watched.
                    Some(Ok(ExecEvent::Lost(_))) => {}
                    Some(Ok(ExecEvent::Exited(exit))) => {
                        self.log.relay(reader.end()).await;
                        return ending.map_or(Ok(exit), |ending| Err(ending.why.into()));
                    }
                    Some(Err(error)) => return Err(ending.map_or_else(|| session_failure(error), |ending| ending.why.into())),
                    None => return Err(session_failure(SessionError::Lost)),
                },
                why = &mut called, if ending.is_none() => {
                    ending = Some(Ending { why, deadline: Instant::now() + GRACE, killed: false });
                    // One that can't be told is killed soon.
                    _ = execution.control.signal(Signal::Interrupt).await;
                }
                () = sleep_until(end_by.unwrap_or_else(Instant::now)), if end_by.is_some() => {
                    if let Some(ending) = &mut ending {
                        if ending.killed {
                            return Err(ending.why.into());
                        }
                        *ending = Ending { deadline: Instant::now() + AFTER_KILL, killed: true, ..*ending };
                        _ = execution.control.signal(Signal::Kill).await;
                    }
                }
            }
        }
    }

    /// Writes a file of the runner's own into the sandbox.
    pub(super) async fn write(&self, path: &str, contents: impl Into<Bytes>, mode: u32) -> Result<(), RunFailure> {
        self.session.write_file(path, contents.into(), mode).await.map_err(session_failure)
    }

    /// Reads a file that may not be there.
    pub(super) async fn read(&self, path: &str, max_bytes: u64) -> Result<Option<Bytes>, RunFailure> {
        match self.session.read_file(path, max_bytes).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(SessionError::FileNotFound { .. } | SessionError::TooLarge { .. } | SessionError::File { .. }) => {
                Ok(None)
            }
            Err(error) => Err(session_failure(error)),
        }
    }
}

/// A command that is being stopped.
struct Ending {
    why: Stopped,
    deadline: Instant,
    killed: bool,
}

/// Keeps the output, and shows it line by line if it is to be shown.
struct Plain {
    output: Output,
    lines: [Lines; 2],
    stdout: Vec<u8>,
    tail: Tail,
}

impl Plain {
    fn new(output: Output) -> Self {
        let lines = || Lines::new(LONGEST_LINE);
        Self { output, lines: [lines(), lines()], stdout: Vec::new(), tail: Tail::new(MAX_TAIL) }
    }

    fn read(&mut self, stream: usize, bytes: &[u8]) -> Vec<EventKind> {
        self.tail.push(bytes);
        match self.output {
            Output::Shown => self.lines[stream].push(bytes).iter().map(|line| EventKind::log(line.text())).collect(),
            Output::Kept => Vec::new(),
        }
    }
}

impl OutputReader for Plain {
    fn stdout(&mut self, bytes: &[u8]) -> Vec<EventKind> {
        let room = MAX_STDOUT.saturating_sub(self.stdout.len());
        self.stdout.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.read(0, bytes)
    }

    fn stderr(&mut self, bytes: &[u8]) -> Vec<EventKind> {
        self.read(1, bytes)
    }

    fn end(&mut self) -> Vec<EventKind> {
        self.lines.iter_mut().filter_map(Lines::end).map(|line| EventKind::log(line.text())).collect()
    }
}

/// The event of a command that failed.
pub(super) fn failed_command(line: &str, exit: Exit, tail: &str) -> EventKind {
    EventKind::Error {
        stage: None,
        message: format!("Command `{}` failed with {exit}", first_words(line)),
        output: Some(tail.to_owned()),
        exit_code: Some(exit.code()),
    }
}

/// The beginning of a command, enough to know it.
fn first_words(line: &str) -> String {
    let first = line.lines().next().unwrap_or_default();
    match first.char_indices().nth(160) {
        Some((end, _)) => format!("{}…", &first[..end]),
        None => first.to_owned(),
    }
}

/// A failure of the sandbox, in words.
pub(super) fn session_failure(error: SessionError) -> RunFailure {
    let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    let (cause, advice) = match &error {
        SessionError::Spawn { .. } => {
            (FailureCause::MissingProgram, " Install it on the machine or in the image that sandboxes are made of.")
        }
        SessionError::Lost => {
            (FailureCause::Sandbox, " It may have been out of memory, or removed; start the run again.")
        }
        SessionError::Unsupported { .. } => (FailureCause::Sandbox, ""),
        _ => (FailureCause::Sandbox, " Start the run again; if it fails again, look at the server's log."),
    };
    let text = error.to_string();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    RunFailure::new(cause, format!("{first}{}{source}.{advice}", letters.as_str()))
}
