//! Running a command: what the host sends, and what it makes of the answers.

use std::sync::Arc;

use astraforge_core::{
    ports::sessions::{ExecControl, Execution, SessionError},
    process::{Process, ProcessId, ProcessName, ProcessTag},
    session::{Command, ExecEvent, PtySize, Signal, StdinEnd},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Call, FrameSink, Frames, GuestClient, Held, next, printable,
    transfer::{Deed, ask},
    violation,
};
use crate::guest::{
    frame::{Failure, GuestFrame, HostFrame, MAX_PAYLOAD, Output, ProtocolError, STDIN_WINDOW},
    header::{ExecRequest, Keep, Operation},
};

/// Starts `command`; returns once the guest says that it runs.
pub(super) async fn start(client: &GuestClient, command: Command) -> Result<Execution, SessionError> {
    let (stdin, stdin_end) = (command.stdin.clone(), command.stdin_end);
    let (call, _) = begin(client, command, None).await?;
    Ok(follow(call, Start { stdin, stdin_end, from: 0, credit: 0 }))
}

/// Starts `command` so that it goes on without a watcher; returns once it has its first input.
pub(super) async fn spawn(
    client: &GuestClient,
    command: Command,
    tag: Option<ProcessTag>,
) -> Result<Process, SessionError> {
    let (mut stdin, stdin_end) = (command.stdin.clone(), command.stdin_end);
    let (mut call, id) = begin(client, command, Some(Keep { tag })).await?;
    let sending = async {
        while !stdin.is_empty() {
            call.sink.send(HostFrame::Stdin(stdin.split_to(stdin.len().min(MAX_PAYLOAD)))).await?;
        }
        if stdin_end == StdinEnd::AtOnce {
            call.sink.send(HostFrame::StdinEnd).await?;
        }
        call.sink.send(HostFrame::ContentsEnd).await
    };
    sending.await.map_err(violation)?;
    match call.next().await? {
        GuestFrame::Done => {}
        _ => return Err(violation(ProtocolError::Unexpected("answer to a process's input"))),
    }
    processes(client).await?.into_iter().find(|process| process.id == id).ok_or(SessionError::Lost)
}

/// Lists kept processes.
pub(super) async fn processes(client: &GuestClient) -> Result<Vec<Process>, SessionError> {
    ask(client, &Operation::Processes {}, Deed::new("list", "processes")).await
}

/// Follows a kept process from byte `from` of its output on.
pub(super) async fn attach(client: &GuestClient, name: ProcessName, from: u64) -> Result<Execution, SessionError> {
    let mut call = client.call(&Operation::Attach { process: name.clone(), from }).await?;
    match call.next().await? {
        // How much input it may be sent is the guest's to say by reading: others may send some too.
        GuestFrame::Started(_) => {
            let start = Start { stdin: Bytes::new(), stdin_end: StdinEnd::WhenClosed, from, credit: u64::MAX / 2 };
            Ok(follow(call, start))
        }
        GuestFrame::Failed(Failure::NoSuchProcess) => Err(SessionError::NoSuchProcess { name }),
        GuestFrame::Failed(Failure::Refused { reason }) => {
            Err(SessionError::Unsupported { what: format!("byte {from}"), reason: printable(&reason) })
        }
        _ => Err(violation(ProtocolError::Unexpected("first answer to an attachment"))),
    }
}

/// Sends a signal to a kept process.
pub(super) async fn signal(client: &GuestClient, name: ProcessName, signal: Signal) -> Result<(), SessionError> {
    let mut call = client.call(&Operation::Signal { process: name.clone(), signal }).await?;
    match call.next().await? {
        GuestFrame::Done => Ok(()),
        GuestFrame::Failed(Failure::NoSuchProcess) => Err(SessionError::NoSuchProcess { name }),
        _ => Err(violation(ProtocolError::Unexpected("answer to a signal"))),
    }
}

async fn begin(client: &GuestClient, command: Command, keep: Option<Keep>) -> Result<(Call, ProcessId), SessionError> {
    let program = command.argv.first().cloned().unwrap_or_default();
    let operation = Operation::Exec(ExecRequest {
        argv: command.argv,
        cwd: command.cwd,
        env: command.env,
        pty: command.pty,
        keep,
        timeout_ms: command.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
    });
    let mut call = client.call(&operation).await.map_err(|error| too_long(error, &program))?;
    match call.next().await? {
        GuestFrame::Started(id) => Ok((call, id)),
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

/// Where a command is met.
struct Start {
    stdin: Bytes,
    stdin_end: StdinEnd,
    from: u64,
    credit: u64,
}

fn follow(call: Call, start: Start) -> Execution {
    let cancel = CancellationToken::new();
    let (taken, credit) = watch::channel(start.credit);
    let (orders, obeyed) = mpsc::channel(4);
    let (writes, written) = mpsc::channel(1);
    let open = start.stdin_end == StdinEnd::WhenClosed;
    let input = Input {
        sink: call.sink,
        pending: start.stdin,
        done: None,
        end: (!open).then_some(HostFrame::StdinEnd),
        credit,
        orders: obeyed,
        writes: written,
        sent: 0,
    };
    let stop = cancel.clone();
    tokio::spawn(async move {
        // Dropping the input resets the stream, upon which the guest kills the command, unless it is kept.
        let _ = stop.run_until_cancelled(input.send()).await;
    });
    let events = Events {
        frames: call.frames,
        written: start.from,
        taken,
        ended: false,
        _cancel: cancel.drop_guard(),
        _held: call.held,
    };
    Execution {
        events: stream::unfold(events, |mut events| async move { Some((events.next().await?, events)) }).boxed(),
        control: Arc::new(Control { orders, writes: open.then_some(writes) }),
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
            GuestFrame::Lost(n_bytes) => {
                self.written = self.written.saturating_add(n_bytes);
                Ok(Some(ExecEvent::Lost(n_bytes)))
            }
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
    /// Input that waits for room.
    pending: Bytes,
    /// Who waits for it to be sent.
    done: Option<oneshot::Sender<()>>,
    /// What is sent after it.
    end: Option<HostFrame>,
    credit: watch::Receiver<u64>,
    orders: mpsc::Receiver<Order>,
    writes: mpsc::Receiver<Write>,
    sent: u64,
}

/// What else a command's control sends.
struct Order {
    frame: HostFrame,
    done: oneshot::Sender<()>,
}

/// Input from a command's control; without bytes it is the end.
struct Write {
    bytes: Option<Bytes>,
    done: oneshot::Sender<()>,
}

impl Input {
    /// Sends all input, and orders as they come. The stream stays open until the command ended: closing it kills.
    async fn send(mut self) -> Result<(), ProtocolError> {
        loop {
            let room = self.room();
            if self.pending.is_empty() {
                if let Some(done) = self.done.take() {
                    let _ = done.send(());
                }
                if let Some(end) = self.end.take() {
                    self.sink.send(end).await?;
                }
            } else if room > 0 {
                let piece = self.pending.split_to(self.pending.len().min(room));
                self.sent = self.sent.saturating_add(piece.len() as u64);
                self.sink.send(HostFrame::Stdin(piece)).await?;
                while let Ok(order) = self.orders.try_recv() {
                    self.obey(order).await?;
                }
                continue;
            }
            tokio::select! {
                Some(order) = self.orders.recv() => self.obey(order).await?,
                Some(write) = self.writes.recv(), if self.pending.is_empty() => {
                    match write.bytes {
                        Some(bytes) => self.pending = bytes,
                        None => self.end = Some(HostFrame::StdinEnd),
                    }
                    self.done = Some(write.done);
                }
                changed = self.credit.changed() => changed.map_err(|_| ProtocolError::Ended)?,
            }
        }
    }

    async fn obey(&mut self, order: Order) -> Result<(), ProtocolError> {
        self.sink.send(order.frame).await?;
        let _ = order.done.send(());
        Ok(())
    }

    /// Returns how many bytes may be sent now.
    fn room(&mut self) -> usize {
        let allowed = self.credit.borrow_and_update().saturating_add(STDIN_WINDOW as u64);
        usize::try_from(allowed.saturating_sub(self.sent)).map_or(MAX_PAYLOAD, |room| room.min(MAX_PAYLOAD))
    }
}

/// What has ended takes no more, and needs none: all of its methods succeed then.
struct Control {
    orders: mpsc::Sender<Order>,
    writes: Option<mpsc::Sender<Write>>,
}

impl Control {
    /// Returns when the order is sent, so that it is not lost when its execution is dropped right after.
    async fn order(&self, frame: HostFrame) -> Result<(), SessionError> {
        let (done, sent) = oneshot::channel();
        if self.orders.send(Order { frame, done }).await.is_ok() {
            tokio::select! {
                _ = sent => {}
                () = self.orders.closed() => {}
            }
        }
        Ok(())
    }

    async fn write(&self, bytes: Option<Bytes>) -> Result<(), SessionError> {
        let Some(writes) = &self.writes else {
            let reason = "its standard input was not left open when it was started".to_owned();
            return Err(SessionError::Unsupported { what: "more input for this command".to_owned(), reason });
        };
        let (done, sent) = oneshot::channel();
        if writes.send(Write { bytes, done }).await.is_ok() {
            // What is sent in the moment when its receiver goes stays in the channel, and nobody answers.
            tokio::select! {
                _ = sent => {}
                () = writes.closed() => {}
            }
        }
        Ok(())
    }
}

#[async_trait]
impl ExecControl for Control {
    async fn signal(&self, signal: Signal) -> Result<(), SessionError> {
        self.order(HostFrame::Signal(signal)).await
    }

    async fn write_stdin(&self, bytes: Bytes) -> Result<(), SessionError> {
        self.write(Some(bytes)).await
    }

    async fn close_stdin(&self) -> Result<(), SessionError> {
        self.write(None).await
    }

    async fn resize(&self, size: PtySize) -> Result<(), SessionError> {
        self.order(HostFrame::Resize(size)).await
    }
}
