//! Processes that go on when nobody watches them: their table, their output, and who watches now.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use astraforge_core::{
    process::{Process, ProcessId, ProcessName, ProcessTag},
    session::{Command, Exit, Signal},
};
use futures::{SinkExt, Stream, StreamExt, stream};
use tokio::sync::{Notify, Semaphore, mpsc};

use super::{
    Daemon, FrameSink, Frames, answer,
    exec::{self, Running},
    journal::{Channel, Journal, Read},
};
use crate::guest::{
    frame::{Failure, GuestFrame, HostFrame, MAX_OUTPUT, Output, ProtocolError, STDIN_WINDOW},
    header::{ExecRequest, Keep},
};

/// Kept processes that may run at once.
const MAX_RUNNING: usize = 64;
/// Kept processes that have ended and are still told of.
const MAX_ENDED: usize = 32;
/// How much of a command is shown, in bytes.
const MAX_COMMAND: usize = 300;

/// All kept processes of the sandbox, by number.
#[derive(Default)]
pub(super) struct KeptProcesses {
    next: Cell<u64>,
    all: RefCell<BTreeMap<u64, Rc<Kept>>>,
}

/// One kept process.
struct Kept {
    id: ProcessId,
    tag: Option<ProcessTag>,
    command: String,
    started_at: chrono::DateTime<chrono::Utc>,
    pty: bool,
    journal: RefCell<Journal>,
    exit: Cell<Option<Exit>>,
    changed: Notify,
    input: mpsc::UnboundedSender<HostFrame>,
    /// Bytes of input that may still be on their way.
    room: Arc<Semaphore>,
}

impl KeptProcesses {
    fn find(&self, name: &ProcessName) -> Option<Rc<Kept>> {
        let all = self.all.borrow();
        match name {
            ProcessName::Id(id) => all.get(&id.0).cloned(),
            ProcessName::Tag(tag) => all.values().rev().find(|kept| kept.tag.as_ref() == Some(tag)).cloned(),
        }
    }

    fn n_running(&self) -> usize {
        self.all.borrow().values().filter(|kept| kept.exit.get().is_none()).count()
    }

    /// Forgets the oldest of those that ended.
    fn forget(&self) {
        let mut all = self.all.borrow_mut();
        let ended: Vec<u64> = all.iter().filter(|(_, kept)| kept.exit.get().is_some()).map(|(id, _)| *id).collect();
        for id in ended.iter().take(ended.len().saturating_sub(MAX_ENDED)) {
            all.remove(id);
        }
    }

    /// Tells of all, oldest first.
    pub(super) fn list(&self) -> Vec<Process> {
        self.all.borrow().values().map(|kept| kept.told()).collect()
    }

    /// Sends a signal. One that has ended needs none.
    pub(super) fn signal(&self, name: &ProcessName, signal: Signal) -> Result<(), Failure> {
        let kept = self.find(name).ok_or(Failure::NoSuchProcess)?;
        let _ = kept.input.send(HostFrame::Signal(signal));
        Ok(())
    }
}

impl Kept {
    fn told(&self) -> Process {
        let journal = self.journal.borrow();
        Process {
            id: self.id,
            tag: self.tag.clone(),
            command: self.command.clone(),
            started_at: self.started_at,
            exit: self.exit.get(),
            first_sequence: journal.first(),
            next_sequence: journal.next(),
            pty: self.pty,
        }
    }

    /// Hands on what a host sends; waits while the process reads slowly.
    async fn take(&self, frame: HostFrame) {
        if let HostFrame::Stdin(bytes) = &frame {
            let wanted = u32::try_from(bytes.len().min(STDIN_WINDOW)).unwrap_or(0);
            if let Ok(permit) = self.room.acquire_many(wanted).await {
                permit.forget();
            }
        }
        let _ = self.input.send(frame);
    }
}

/// Starts a process that is kept. The stream that starts it gives it its first input, and is done then.
pub(super) async fn start(
    daemon: &Rc<Daemon>,
    request: ExecRequest,
    keep: Keep,
    mut frames: Frames,
    mut sink: FrameSink,
) {
    if daemon.kept.n_running() >= MAX_RUNNING {
        let reason = format!("{MAX_RUNNING} processes run in the background already: end one first");
        return answer(&mut sink, GuestFrame::Failed(Failure::Spawn { reason })).await;
    }
    let mut command = Command::new(request.argv.iter().cloned()).to_string();
    command.truncate(command.floor_char_boundary(MAX_COMMAND));
    let (timeout, pty) = (request.timeout_ms.map(Duration::from_millis), request.pty.is_some());
    let running = match exec::start(daemon, request).await {
        Ok(running) => running,
        Err(reason) => return answer(&mut sink, GuestFrame::Failed(Failure::Spawn { reason })).await,
    };
    let id = ProcessId(daemon.kept.next.get() + 1);
    daemon.kept.next.set(id.0);
    let (input, orders) = mpsc::unbounded_channel();
    let kept = Rc::new(Kept {
        id,
        tag: keep.tag,
        command,
        started_at: chrono::Utc::now(),
        pty,
        journal: RefCell::default(),
        exit: Cell::new(None),
        changed: Notify::new(),
        input,
        room: Arc::new(Semaphore::new(STDIN_WINDOW)),
    });
    daemon.kept.all.borrow_mut().insert(id.0, Rc::clone(&kept));
    tokio::task::spawn_local(live(Rc::clone(daemon), Rc::clone(&kept), running, timeout, orders));
    if sink.send(GuestFrame::Started(id)).await.is_ok() {
        exec::prepare_next(Rc::clone(daemon)).await;
        give(&kept, &mut frames).await;
        answer(&mut sink, GuestFrame::Done).await;
    }
}

/// Keeps a process's output until it has ended, and then how it ended.
async fn live(
    daemon: Rc<Daemon>,
    kept: Rc<Kept>,
    running: Running,
    timeout: Option<Duration>,
    orders: mpsc::UnboundedReceiver<HostFrame>,
) {
    let (out, mut news) = mpsc::channel(2);
    let orders = Box::pin(stream::unfold(orders, |mut orders| async move {
        Some((Ok::<_, ProtocolError>(orders.recv().await?), orders))
    }));
    let keep = async {
        while let Some(frame) = news.recv().await {
            match frame {
                GuestFrame::Stdout(output) => kept.journal.borrow_mut().push(Channel::Stdout, output.bytes),
                GuestFrame::Stderr(output) => kept.journal.borrow_mut().push(Channel::Stderr, output.bytes),
                GuestFrame::StdinTaken(n_bytes) => kept.room.add_permits(n_bytes as usize),
                GuestFrame::Exited(exit) => {
                    kept.exit.set(Some(exit));
                    // Nobody waits any more for an input that is not taken.
                    kept.room.close();
                }
                _ => {}
            }
            kept.changed.notify_waiters();
        }
    };
    futures::join!(exec::attend(&daemon, running, timeout, orders, out), keep);
    daemon.kept.forget();
}

/// Hands the process what a host sends, until the host says that this was all, or goes.
async fn give(kept: &Kept, frames: &mut (impl Stream<Item = Result<HostFrame, ProtocolError>> + Unpin)) {
    while let Some(Ok(frame)) = frames.next().await {
        if frame == HostFrame::ContentsEnd {
            return;
        }
        kept.take(frame).await;
    }
}

/// Follows a process from byte `from` on. The host may go at any time; the process is left alone.
pub(super) async fn attach(daemon: &Daemon, name: ProcessName, from: u64, mut frames: Frames, mut sink: FrameSink) {
    let Some(kept) = daemon.kept.find(&name) else {
        return answer(&mut sink, GuestFrame::Failed(Failure::NoSuchProcess)).await;
    };
    let next = kept.journal.borrow().next();
    if from > next {
        let reason = format!("the process has written {next} bytes: it cannot be followed from byte {from} on");
        return answer(&mut sink, GuestFrame::Failed(Failure::Refused { reason })).await;
    }
    if sink.send(GuestFrame::Started(kept.id)).await.is_err() {
        return;
    }
    let input = async {
        while let Some(Ok(frame)) = frames.next().await {
            kept.take(frame).await;
        }
    };
    tokio::select! {
        () = input => {}
        () = tell(&kept, from, &mut sink) => {}
    }
    drop(sink.close().await);
}

async fn tell(kept: &Kept, mut position: u64, sink: &mut FrameSink) {
    loop {
        let changed = kept.changed.notified();
        let read = kept.journal.borrow().read(position, MAX_OUTPUT);
        let frame = match read {
            Read::Piece(channel, bytes) => {
                let output = Output { sequence: position, bytes };
                position += output.bytes.len() as u64;
                match channel {
                    Channel::Stdout => GuestFrame::Stdout(output),
                    Channel::Stderr => GuestFrame::Stderr(output),
                }
            }
            Read::Lost(n_bytes) => {
                position += n_bytes;
                GuestFrame::Lost(n_bytes)
            }
            Read::Nothing => match kept.exit.get() {
                Some(exit) => return answer(sink, GuestFrame::Exited(exit)).await,
                None => {
                    changed.await;
                    continue;
                }
            },
        };
        if sink.send(frame).await.is_err() {
            return;
        }
    }
}
