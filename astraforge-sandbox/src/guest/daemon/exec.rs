//! Runs one command for a host.

use std::{cell::Cell, io, pin::pin, rc::Rc, time::Duration};

use astraforge_core::{
    process::ProcessId,
    session::{Exit, Signal},
};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, Stream, StreamExt};
use rustix::fd::{AsFd, OwnedFd};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::pipe::{Receiver, Sender},
    },
    sync::{mpsc, oneshot},
    task::{spawn_local, yield_now},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Daemon, FrameSink, Frames, answer,
    children::Children,
    process_table::send_signal,
    pty::{self, Pty},
    relay,
    shim::{Job, Order, Orders, Reports, Shim},
};
use crate::guest::{
    frame::{Failure, GuestFrame, HostFrame, MAX_OUTPUT, Output, ProtocolError, STDIN_WINDOW},
    header::ExecRequest,
};

/// How long a shim may take to kill its tree before the daemon does it, in a rougher way.
const GRACE: Duration = Duration::from_secs(5);
/// Ctrl-D.
const END_OF_TRANSMISSION: &[u8] = b"\x04";

/// Runs a command, from its start to the end of its whole process tree.
pub(super) async fn run(daemon: &Rc<Daemon>, request: ExecRequest, frames: Frames, mut sink: FrameSink) {
    let timeout = request.timeout_ms.map(Duration::from_millis);
    match start(daemon, request).await {
        Ok(running) => {
            if sink.send(GuestFrame::Started(ProcessId(0))).await.is_ok() {
                spawn_local(prepare_next(Rc::clone(daemon)));
                follow(daemon, running, timeout, frames, sink).await;
            } else {
                end_tree(&daemon.children, running.shim).await;
            }
        }
        Err(reason) => answer(&mut sink, GuestFrame::Failed(Failure::Spawn { reason })).await,
    }
}

/// Forks the next command's shim once the host was told that this one's command runs. Any later, and the fork would be
/// in the way of the news that it ended.
pub(super) async fn prepare_next(daemon: Rc<Daemon>) {
    yield_now().await;
    daemon.prepare_shim();
}

/// A command at work, and its terminal.
pub(super) struct Running {
    shim: Shim,
    terminal: Option<Pty>,
    /// How many the kernel had killed before it.
    n_killed: u64,
}

pub(super) async fn start(daemon: &Daemon, request: ExecRequest) -> Result<Running, String> {
    let mut env = daemon.environment();
    let pty = request.pty.map(Pty::open).transpose().map_err(|error| format!("no terminal to be had: {error}"))?;
    if pty.is_some() {
        env.insert("TERM".to_owned(), "xterm-256color".to_owned());
    }
    env.extend(request.env);
    let tty = pty.as_ref().map(|pty| pty.path.clone());
    let n_killed = daemon.kills.count();
    let shim = start_shim(daemon, Job { argv: request.argv, cwd: request.cwd, env, tty }).await?;
    Ok(Running { shim, terminal: pty, n_killed })
}

async fn start_shim(daemon: &Daemon, job: Job) -> Result<Shim, String> {
    let job = job.to_wire().map_err(|error| error.to_string())?;
    // The agent may have killed a shim that waited for a command; one made now has had no time to be found.
    for _ in 0..3 {
        let mut shim = daemon.take_shim().map_err(|error| format!("the sandbox cannot fork: {error}"))?;
        if let Ok(started) = shim.start(&job).await {
            return started.map(|()| shim);
        }
    }
    Err("its supervisor was killed".to_owned())
}

/// Why a command's tree has to go.
enum Cause {
    /// Its main process ended, and the shim saw to the rest.
    Ended(Exit),
    /// The shim is dead.
    Orphaned,
    TimedOut,
    /// The host went away, or breaks the protocol.
    Cancelled,
}

async fn follow(daemon: &Daemon, running: Running, timeout: Option<Duration>, frames: Frames, sink: FrameSink) {
    let (out, queue) = mpsc::channel(2);
    futures::join!(attend(daemon, running, timeout, frames, out), write(queue, sink));
}

/// Moves everything between the host and the command, until the command's tree is gone and its output is sent.
pub(super) async fn attend(
    daemon: &Daemon,
    Running { shim, terminal, n_killed }: Running,
    timeout: Option<Duration>,
    frames: impl Stream<Item = Result<HostFrame, ProtocolError>> + Unpin,
    out: mpsc::Sender<GuestFrame>,
) {
    let Shim { pid, streams, mut reports, orders, death } = shim;
    let (stdin, stdout, terminal) = match terminal {
        Some(Pty { input, output, master, .. }) => (Inlet::Terminal(input), Outlet::Terminal(output), Some(master)),
        None => (Inlet::Relay(streams.stdin), Outlet::Relay(streams.stdout), None),
    };
    let stderr = Outlet::Relay(streams.stderr);
    let ended = CancellationToken::new();
    let supervise = async {
        let cause = tokio::select! {
            biased;
            exit = reports.end() => exit.map_or(Cause::Orphaned, Cause::Ended),
            () = expire(timeout) => Cause::TimedOut,
            () = obey(frames, stdin, terminal, &orders, &out) => Cause::Cancelled,
        };
        let exit = finish(&daemon.children, cause, pid, &mut reports, &orders, death).await;
        ended.cancel();
        daemon.kills.explain(exit, n_killed)
    };
    let (exit, ()) = futures::join!(supervise, pump(stdout, stderr, &out, &ended));
    drop(out.send(GuestFrame::Exited(exit)).await);
}

/// Sees to it that the tree is gone.
async fn finish(
    children: &Children,
    cause: Cause,
    pid: i32,
    reports: &mut Reports,
    orders: &Orders,
    death: oneshot::Receiver<()>,
) -> Exit {
    let killed = Exit::Signaled { signal: libc::SIGKILL };
    let exit = match cause {
        Cause::Ended(exit) => return exit,
        Cause::Orphaned => killed,
        Cause::TimedOut | Cause::Cancelled => {
            orders.give(Order::Kill);
            let exit = if matches!(cause, Cause::TimedOut) { Exit::TimedOut } else { killed };
            match timeout(GRACE, reports.end()).await {
                Ok(Some(_)) => return exit,
                _ => exit,
            }
        }
    };
    send_signal(pid, rustix::process::Signal::KILL);
    // Its orphans are the daemon's children once it is reaped.
    drop(death.await);
    children.kill_strays().await;
    exit
}

async fn end_tree(children: &Children, shim: Shim) {
    let Shim { pid, mut reports, orders, death, .. } = shim;
    finish(children, Cause::Cancelled, pid, &mut reports, &orders, death).await;
}

async fn expire(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => sleep(timeout).await,
        None => std::future::pending().await,
    }
}

/// Does what the host says until it goes away.
async fn obey(
    mut frames: impl Stream<Item = Result<HostFrame, ProtocolError>> + Unpin,
    stdin: Inlet,
    terminal: Option<OwnedFd>,
    orders: &Orders,
    out: &mpsc::Sender<GuestFrame>,
) {
    let pending = Rc::new(Cell::new(0));
    // Unbounded, but what is in it is bounded by the window: input must not hold up a signal behind it.
    let (input, queue) = mpsc::unbounded_channel();
    let mut input = Some(input);
    let mut feed = pin!(feed(stdin, queue, Rc::clone(&pending), out.clone()));
    let mut fed = false;
    loop {
        let frame = tokio::select! {
            frame = frames.next() => frame,
            () = &mut feed, if !fed => {
                fed = true;
                continue;
            }
        };
        match frame {
            Some(Ok(HostFrame::Stdin(bytes))) if pending.get() + bytes.len() <= STDIN_WINDOW => {
                pending.set(pending.get() + bytes.len());
                // After the end of input nothing takes it.
                let _ = input.as_ref().map(|input| input.send(bytes));
            }
            // A terminal has no end: it is told with the character that stands for it.
            Some(Ok(HostFrame::StdinEnd)) if terminal.is_some() => {
                pending.set(pending.get() + END_OF_TRANSMISSION.len());
                let _ = input.as_ref().map(|input| input.send(Bytes::from_static(END_OF_TRANSMISSION)));
            }
            Some(Ok(HostFrame::StdinEnd)) => input = None,
            Some(Ok(HostFrame::Resize(size))) => {
                if let Some(Err(error)) = terminal.as_ref().map(|terminal| pty::resize(terminal, size)) {
                    tracing::debug!(%error, "a terminal keeps its size");
                }
            }
            Some(Ok(HostFrame::Signal(signal))) => orders.give(match signal {
                Signal::Interrupt => Order::Interrupt,
                Signal::Terminate => Order::Terminate,
                Signal::Kill => Order::Kill,
            }),
            _ => return,
        }
    }
}

/// Writes input to the command, and tells the host how much of it was taken. Input that nobody reads is taken too.
async fn feed(
    stdin: Inlet,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
    pending: Rc<Cell<usize>>,
    out: mpsc::Sender<GuestFrame>,
) {
    let mut stdin = Some(stdin);
    while let Some(bytes) = queue.recv().await {
        if let Some(inlet) = &mut stdin
            && inlet.write_all(&bytes).await.is_err()
        {
            stdin = None;
        }
        pending.set(pending.get() - bytes.len());
        let taken = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        drop(out.send(GuestFrame::StdinTaken(taken)).await);
    }
}

/// Sends all output, as fast as the host takes it. Once the tree is gone, what it has left is the last of it.
async fn pump(stdout: Outlet, stderr: Outlet, out: &mpsc::Sender<GuestFrame>, ended: &CancellationToken) {
    let mut written = 0;
    let (mut stdout, mut stderr) = (Source::new(stdout, GuestFrame::Stdout), Source::new(stderr, GuestFrame::Stderr));
    loop {
        let frame = tokio::select! {
            Some(bytes) = stdout.read() => stdout.frame(bytes, &mut written),
            Some(bytes) = stderr.read() => stderr.frame(bytes, &mut written),
            () = ended.cancelled() => break,
        };
        if out.send(frame).await.is_err() {
            return;
        }
    }
    stdout.ask_for_the_rest();
    stderr.ask_for_the_rest();
    for source in [&mut stdout, &mut stderr] {
        while let Some(bytes) = source.read_rest().await {
            if out.send(source.frame(bytes, &mut written)).await.is_err() {
                return;
            }
        }
    }
}

/// Where a command's input goes.
enum Inlet {
    Relay(UnixStream),
    Terminal(Sender),
}

impl Inlet {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Relay(socket) => socket.write_all(bytes).await,
            Self::Terminal(terminal) => terminal.write_all(bytes).await,
        }
    }
}

/// Where a command's output comes from.
enum Outlet {
    Relay(UnixStream),
    Terminal(Receiver),
}

/// One of a command's output streams.
struct Source {
    outlet: Option<Outlet>,
    buffer: BytesMut,
    make: fn(Output) -> GuestFrame,
}

impl Source {
    fn new(outlet: Outlet, make: fn(Output) -> GuestFrame) -> Self {
        Self { outlet: Some(outlet), buffer: BytesMut::new(), make }
    }

    /// Reads what there is; `None` at the end, from then on.
    async fn read(&mut self) -> Option<Bytes> {
        let outlet = self.outlet.as_mut()?;
        self.buffer.reserve(MAX_OUTPUT);
        let mut room = bytes::BufMut::limit(&mut self.buffer, MAX_OUTPUT);
        let read = match outlet {
            Outlet::Relay(socket) => socket.read_buf(&mut room).await,
            Outlet::Terminal(terminal) => terminal.read_buf(&mut room).await,
        };
        match read {
            Ok(n_bytes) if n_bytes > 0 => Some(self.buffer.split().freeze()),
            _ => {
                self.outlet = None;
                None
            }
        }
    }

    fn ask_for_the_rest(&self) {
        if let Some(Outlet::Relay(socket)) = &self.outlet {
            relay::ask_for_the_rest(socket);
        }
    }

    /// Reads what is left when the command's tree is gone.
    async fn read_rest(&mut self) -> Option<Bytes> {
        match self.outlet.as_ref()? {
            // Something beyond the tree may hold the pipe, and hold it up.
            Outlet::Relay(_) => timeout(GRACE, self.read()).await.ok()?,
            // The kernel itself is asked: the runtime may not have heard of the last bytes yet.
            Outlet::Terminal(terminal) => {
                let mut buffer = vec![0; MAX_OUTPUT];
                let n_bytes = rustix::io::read(terminal.as_fd(), &mut buffer).ok().filter(|n| *n > 0)?;
                buffer.truncate(n_bytes);
                Some(buffer.into())
            }
        }
    }

    fn frame(&self, bytes: Bytes, written: &mut u64) -> GuestFrame {
        let sequence = *written;
        *written += bytes.len() as u64;
        (self.make)(Output { sequence, bytes })
    }
}

async fn write(mut queue: mpsc::Receiver<GuestFrame>, mut sink: FrameSink) {
    while let Some(frame) = queue.recv().await {
        if sink.send(frame).await.is_err() {
            return;
        }
    }
    drop(sink.close().await);
}
