//! Running a command: what the host sends, and what it makes of the answers.

use std::sync::Arc;

use astraforge_core::{
    ports::sessions::{ExecControl, Execution, SessionError},
    process::PtySize,
    session::{Command, ExecEvent, Signal},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Call, FrameSink, Frames, GuestClient, Held, next, printable, violation};
use crate::guest::{
    frame::{Failure, GuestFrame, HostFrame, MAX_PAYLOAD, Output, ProtocolError, STDIN_WINDOW},
    header::{ExecRequest, Operation},
};

/// Starts `command`; returns once the guest says that it runs.
pub(super) async fn start(client: &GuestClient, command: Command) -> Result<Execution, SessionError> {
    let program = command.argv.first().cloned().unwrap_or_default();
    let operation = Operation::Exec(ExecRequest {
        argv: command.argv,
        cwd: command.cwd,
        env: command.env,
        pty: None,
        keep: None,
        timeout_ms: command.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
    });
    let mut call = client.call(&operation).await.map_err(|error| too_long(error, &program))?;
    match call.next().await? {
        GuestFrame::Started(_) => Ok(follow(call, command.stdin)),
        GuestFrame::Failed(Failure::Spawn { reason } | Failure::Refused { reason }) => {
            Err(SessionError::Spawn { program, reason: printable(&reason) })
        }
        _ => Err(violation(ProtocolError::Unexpected("first answer to a command"))),
    }
}

/// A command that does not fit a header cannot be started, by any kernel.
fn too_long(error: SessionError, program: &str) -> SessionError {
    match error {
        SessionError::Backend { source, .. } => {
            SessionError::Spawn { program: program.to_owned(), reason: source.to_string() }
        }
        error => error,
    }
}

fn follow(call: Call, stdin: Bytes) -> Execution {
    let cancel = CancellationToken::new();
    let (taken, credit) = watch::channel(0);
    let (control, signals) = mpsc::channel(4);
    let input = Input { sink: call.sink, stdin, credit, signals };
    let stop = cancel.clone();
    tokio::spawn(async move {
        // Dropping the input resets the stream, upon which the guest kills the command.
        let _ = stop.run_until_cancelled(input.send()).await;
    });
    let events =
        Events { frames: call.frames, written: 0, taken, ended: false, _cancel: cancel.drop_guard(), _held: call.held };
    Execution {
        events: stream::unfold(events, |mut events| async move { Some((events.next().await?, events)) }).boxed(),
        control: Arc::new(Control(control)),
    }
}

/// What the guest tells of a running command.
struct Events {
    frames: Frames,
    /// Bytes of output so far; the guest's count must agree.
    written: u64,
    taken: watch::Sender<u64>,
    ended: bool,
    _cancel: DropGuard,
    _held: Held,
}

impl Events {
    async fn next(&mut self) -> Option<Result<ExecEvent, SessionError>> {
        while !self.ended {
            let event = match next(&mut self.frames).await {
                Ok(frame) => self.understand(frame).map_err(violation),
                Err(error) => Err(error),
            };
            self.ended = matches!(event, Err(_) | Ok(Some(ExecEvent::Exited(_))));
            if let Some(event) = event.transpose() {
                return Some(event);
            }
        }
        None
    }

    fn understand(&mut self, frame: GuestFrame) -> Result<Option<ExecEvent>, ProtocolError> {
        match frame {
            GuestFrame::Stdout(output) => Ok(Some(ExecEvent::Stdout(self.in_sequence(output)?))),
            GuestFrame::Stderr(output) => Ok(Some(ExecEvent::Stderr(self.in_sequence(output)?))),
            GuestFrame::Exited(exit) => Ok(Some(ExecEvent::Exited(exit))),
            GuestFrame::StdinTaken(n_bytes) => {
                self.taken.send_modify(|taken| *taken = taken.saturating_add(n_bytes.into()));
                Ok(None)
            }
            _ => Err(ProtocolError::Unexpected("answer to a running command")),
        }
    }

    fn in_sequence(&mut self, output: Output) -> Result<Bytes, ProtocolError> {
        if output.sequence != self.written {
            return Err(ProtocolError::Unexpected("output out of sequence"));
        }
        self.written = self.written.saturating_add(output.bytes.len() as u64);
        Ok(output.bytes)
    }
}

/// What the host sends to a running command.
struct Input {
    sink: FrameSink,
    stdin: Bytes,
    credit: watch::Receiver<u64>,
    signals: mpsc::Receiver<Signal>,
}

impl Input {
    /// Sends all input, and signals as they come. The stream stays open until the command ended: closing it kills.
    async fn send(mut self) -> Result<(), ProtocolError> {
        let mut sent = 0;
        while !self.stdin.is_empty() {
            let room = self.room(sent);
            if room == 0 {
                tokio::select! {
                    Some(signal) = self.signals.recv() => self.sink.send(HostFrame::Signal(signal)).await?,
                    changed = self.credit.changed() => changed.map_err(|_| ProtocolError::Ended)?,
                }
                continue;
            }
            let piece = self.stdin.split_to(self.stdin.len().min(room));
            sent += piece.len() as u64;
            self.sink.send(HostFrame::Stdin(piece)).await?;
            while let Ok(signal) = self.signals.try_recv() {
                self.sink.send(HostFrame::Signal(signal)).await?;
            }
        }
        self.sink.send(HostFrame::StdinEnd).await?;
        while let Some(signal) = self.signals.recv().await {
            self.sink.send(HostFrame::Signal(signal)).await?;
        }
        std::future::pending().await
    }

    /// Returns how many bytes may be sent now, where `sent` went out before.
    fn room(&mut self, sent: u64) -> usize {
        let allowed = self.credit.borrow_and_update().saturating_add(STDIN_WINDOW as u64);
        usize::try_from(allowed.saturating_sub(sent)).map_or(MAX_PAYLOAD, |room| room.min(MAX_PAYLOAD))
    }
}

struct Control(mpsc::Sender<Signal>);

#[async_trait]
impl ExecControl for Control {
    async fn signal(&self, signal: Signal) -> Result<(), SessionError> {
        // The receiver goes when the command has ended: then there is nothing to signal.
        let _ = self.0.send(signal).await;
        Ok(())
    }

    async fn write_stdin(&self, _: Bytes) -> Result<(), SessionError> {
        Err(not_yet("writing to a running command"))
    }

    async fn close_stdin(&self) -> Result<(), SessionError> {
        Err(not_yet("closing a running command's input"))
    }

    async fn resize(&self, _: PtySize) -> Result<(), SessionError> {
        Err(not_yet("a terminal"))
    }
}

fn not_yet(what: &str) -> SessionError {
    SessionError::Unsupported { what: what.to_owned(), reason: "this version has no such operation".to_owned() }
}
