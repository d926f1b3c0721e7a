//! The daemon: answers hosts on a unix socket, from inside the sandbox.
//!
//! It is one process with one thread, and stays so: every command is a fork away, and only a process with a single
//! thread may do as it likes after `fork`. So there is no fork server and no passing of descriptors. The price is that
//! file verbs run on that thread too, in pieces of 64 KiB between which everything else gets its turn; the files are
//! in memory or on a local disk, and opening never waits (see `files`).
//!
//! Each command runs beneath a shim that owns its process tree, and its streams come by way of a relay, so that no
//! program can hold the daemon up (see `relay`). What escapes a shim, because the agent
//! killed it, ends up as a child of the daemon and is killed there (see `children`).

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    os::unix::net::UnixListener,
    rc::Rc,
    time::Duration,
};

use tokio::{
    net::UnixStream,
    sync::{Notify, RwLock, Semaphore},
    task::{JoinSet, LocalSet, spawn_local},
};
use tokio_util::{compat::TokioAsyncReadCompatExt, sync::CancellationToken};

use self::{children::Children, kept::KeptProcesses, oom::Kills, services::Hosts, shim::Shim};
use super::{
    GuestConfig,
    frame::{Failure, FrameCodec, GuestFrame, HostFrame, MAX_PAYLOAD},
    header::{MAX_OPERATION, Operation, read_header},
    hello::greet_host,
    mux::{Mode, Stream, multiplex},
};

mod archives;
mod children;
mod errand;
mod exec;
mod files;
mod fork;
mod journal;
mod kept;
mod oom;
mod peer;
mod process_table;
mod pty;
mod relay;
mod services;
mod shim;
mod spawn;
mod usage;

#[cfg(feature = "testing")]
pub(crate) use self::files::fuzz as files_fuzz;

/// Connections that may be open at once.
const MAX_CONNECTIONS: usize = 64;

/// How long a guest in stock waits for the server that keeps it.
const STOCK: Duration = Duration::from_secs(10);

/// How long a guest waits for its first host at least: its container may have to become ready first, and its server to
/// hear of that.
const FIRST_HOST: Duration = Duration::from_secs(60);

/// How long what hosts asked for may take to end with them, before the rest is killed.
const GRACE: Duration = Duration::from_secs(2);

type Frames =
    tokio_util::codec::FramedRead<tokio_util::compat::Compat<futures::io::ReadHalf<Stream>>, FrameCodec<HostFrame>>;
type FrameSink =
    tokio_util::codec::FramedWrite<tokio_util::compat::Compat<futures::io::WriteHalf<Stream>>, FrameCodec<GuestFrame>>;

/// Serves hosts until the sandbox is to end: told so by a host, or without one for the orphan timeout, which begins with
/// the first host; a minute passes until there has to be one.
///
/// Blocks the calling thread, which must be the process's only one, and is the sandbox's init: it reaps every orphan.
/// Where it is not pid 1 it makes itself the reaper of its descendants. When it returns, all of them are gone.
///
/// # Errors
/// When the listener, a service port or the runtime cannot be set up.
pub fn run(listener: UnixListener, config: GuestConfig) -> io::Result<()> {
    serve_hosts(listener, config, Cell::new(true))
}

/// Waits to be told whom it serves; from then on it is like [`run`]. One that nobody keeps in stock any more ends soon.
///
/// # Errors
/// Those of [`run`].
pub fn run_spare(listener: UnixListener) -> io::Result<()> {
    let config = GuestConfig { service_ports: Vec::new(), env: BTreeMap::new(), orphan_timeout: STOCK };
    serve_hosts(listener, config, Cell::new(false))
}

fn serve_hosts(listener: UnixListener, config: GuestConfig, begun: Cell<bool>) -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let daemon = Rc::new(Daemon::new(config, begun)?);
        services::listen(&daemon.config.borrow().service_ports, &daemon.hosts)?;
        if !daemon.begun.get() {
            // Whoever gets it wants its first command at once.
            daemon.prepare_shim();
        }
        tokio::select! {
            () = accept(&daemon, &listener) => {}
            () = orphaned(&daemon) => tracing::info!("no host for too long: the sandbox ends"),
            () = daemon.end.cancelled() => {}
        }
        // Hosts first, so that what is killed now is told to none of them as a command's own end.
        daemon.end.cancel();
        drop(tokio::time::timeout(GRACE, disconnected(&daemon)).await);
        daemon.children.kill_all().await;
        Ok(())
    })
}

/// What all connections share.
struct Daemon {
    config: RefCell<GuestConfig>,
    /// Whether it was told whom it serves.
    begun: Cell<bool>,
    /// Whether a host was ever connected.
    met: Cell<bool>,
    children: Rc<Children>,
    hosts: Rc<Hosts>,
    kills: Kills,
    /// The shim of the next command.
    spare: RefCell<Option<Shim>>,
    kept: KeptProcesses,
    /// Room for watches of files.
    watches: Semaphore,
    /// Held by whatever packs, and alone by what replaces files.
    archives: RwLock<()>,
    connections: Cell<usize>,
    connections_changed: Notify,
    /// Cancelled when the sandbox is to end.
    end: CancellationToken,
}

impl Daemon {
    fn new(config: GuestConfig, begun: Cell<bool>) -> io::Result<Self> {
        Ok(Self {
            config: RefCell::new(config),
            begun,
            met: Cell::new(false),
            children: Children::watch()?,
            hosts: Rc::default(),
            kills: Kills::find(),
            spare: RefCell::default(),
            kept: KeptProcesses::default(),
            watches: Semaphore::new(files::watch::MAX_WATCHES),
            archives: RwLock::default(),
            connections: Cell::new(0),
            connections_changed: Notify::new(),
            end: CancellationToken::new(),
        })
    }

    /// The environment that a command starts from.
    fn environment(&self) -> BTreeMap<String, String> {
        let defaults = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/home/agent"),
            ("USER", "agent"),
            ("LANG", "C.UTF-8"),
        ];
        let mut env: BTreeMap<_, _> = defaults.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        env.extend(self.config.borrow().env.clone());
        env
    }

    /// Learns whom it serves.
    fn begin(&self, config: GuestConfig) -> Result<(), Failure> {
        if self.begun.replace(true) {
            return Err(Failure::Refused { reason: "it has begun already".to_owned() });
        }
        services::listen(&config.service_ports, &self.hosts)
            .map_err(|error| Failure::Refused { reason: format!("a service port cannot be had: {error}") })?;
        *self.config.borrow_mut() = config;
        // Whoever waits for hosts learns how long to wait.
        self.connections_changed.notify_waiters();
        Ok(())
    }

    /// Returns a shim that waits for its job.
    fn take_shim(&self) -> io::Result<Shim> {
        let spare = self.spare.borrow_mut().take();
        spare.map_or_else(|| Shim::fork(&self.children), Ok)
    }

    /// Makes the shim of the next command ahead of time. Without one it is made in time.
    fn prepare_shim(&self) {
        if self.spare.borrow().is_none() {
            *self.spare.borrow_mut() = Shim::fork(&self.children).ok();
        }
    }

    /// How long it goes on without a host. The time that it was given begins with the first.
    fn orphan_timeout(&self) -> Duration {
        let timeout = self.config.borrow().orphan_timeout;
        if self.begun.get() && !self.met.get() { timeout.max(FIRST_HOST) } else { timeout }
    }

    /// Counts one more connection, until the returned guard goes.
    fn connected(self: &Rc<Self>) -> Connected {
        self.met.set(true);
        self.count(self.connections.get() + 1);
        Connected(Rc::clone(self))
    }

    fn count(&self, connections: usize) {
        self.connections.set(connections);
        self.connections_changed.notify_waiters();
    }
}

struct Connected(Rc<Daemon>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.count(self.0.connections.get() - 1);
    }
}

/// Returns once no host is connected and what hosts asked for is cleaned up.
async fn disconnected(daemon: &Daemon) {
    loop {
        let changed = daemon.connections_changed.notified();
        if daemon.connections.get() == 0 {
            return;
        }
        changed.await;
    }
}

/// Returns once no host was connected for the orphan timeout.
async fn orphaned(daemon: &Daemon) {
    loop {
        let changed = daemon.connections_changed.notified();
        if daemon.connections.get() > 0 {
            changed.await;
        } else if tokio::time::timeout(daemon.orphan_timeout(), changed).await.is_err() {
            return;
        }
    }
}

async fn accept(daemon: &Rc<Daemon>, listener: &tokio::net::UnixListener) {
    let room = std::sync::Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = std::sync::Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) if peer::is_host(&socket) => {
                let daemon = Rc::clone(daemon);
                spawn_local(async move {
                    serve(daemon, socket).await;
                    drop(permit);
                });
            }
            Ok(_) => tracing::warn!("a process of the sandbox posed as its host"),
            // Out of descriptors or memory: what holds them may let go.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Serves one host until it goes; what it asked for goes with it.
async fn serve(daemon: Rc<Daemon>, socket: UnixStream) {
    let mut socket = socket.compat();
    let greeting = match greet_host(&mut socket).await {
        Ok(greeting) => greeting,
        Err(error) => return tracing::warn!(%error, "a host was turned away"),
    };
    let _connected = daemon.connected();
    let (opener, mut inbound, connection) = multiplex(socket, Mode::Server);
    let _serving = greeting.serves.then(|| daemon.hosts.add(opener.clone()));
    let mut operations = JoinSet::new();
    let accept = async {
        loop {
            tokio::select! {
                Some(stream) = inbound.recv() => {
                    operations.spawn_local(operate(Rc::clone(&daemon), stream));
                }
                Some(_) = operations.join_next() => {}
                else => return,
            }
        }
    };
    tokio::select! {
        () = connection => {}
        () = daemon.end.cancelled() => {}
        () = accept => {}
    }
    // With the connection its streams are dead: each operation finds its host gone and cleans up behind itself.
    while operations.join_next().await.is_some() {}
    drop(opener);
}

/// Carries out what one stream asks.
async fn operate(daemon: Rc<Daemon>, mut stream: Stream) {
    let operation = read_header::<Operation>(&mut stream, MAX_OPERATION).await;
    let (reader, writer) = futures::io::AsyncReadExt::split(stream);
    let frames = Frames::new(tokio_util::compat::FuturesAsyncReadCompatExt::compat(reader), FrameCodec::new());
    let mut sink =
        FrameSink::new(tokio_util::compat::FuturesAsyncWriteCompatExt::compat_write(writer), FrameCodec::new());
    match operation {
        Ok(Operation::Exec(mut request)) => match request.keep.take() {
            Some(keep) => kept::start(&daemon, request, keep, frames, sink).await,
            None => exec::run(&daemon, request, frames, sink).await,
        },
        Ok(Operation::Attach { process, from }) => kept::attach(&daemon, process, from, frames, sink).await,
        Ok(Operation::Processes {}) => tell(&mut sink, &daemon.kept.list()).await,
        Ok(Operation::Signal { process, signal }) => {
            let signaled = daemon.kept.signal(&process, signal);
            answer(&mut sink, signaled.map_or_else(GuestFrame::Failed, |()| GuestFrame::Done)).await;
        }
        Ok(Operation::File(request)) => files::verb(&daemon, request, frames, sink).await,
        Ok(Operation::Watch(request)) => files::watch::follow(&daemon, request, frames, sink).await,
        Ok(Operation::Download(request)) => files::read(&request, &mut sink).await,
        Ok(Operation::Upload(request)) => files::write(&request, frames, &mut sink).await,
        Ok(Operation::Begin(config)) => {
            answer(&mut sink, daemon.begin(config).map_or_else(GuestFrame::Failed, |()| GuestFrame::Done)).await;
        }
        Ok(Operation::Shutdown {}) => {
            answer(&mut sink, GuestFrame::Done).await;
            // The answer is on its way once the connection had its turn.
            tokio::time::sleep(Duration::from_millis(5)).await;
            daemon.end.cancel();
        }
        Ok(Operation::Pack(request)) => archives::pack(&daemon, request, frames, sink).await,
        Ok(Operation::Unpack(request)) => archives::unpack(&daemon, request, frames, sink).await,
        Ok(Operation::Compare(request)) => archives::compare(&daemon, request, frames, sink).await,
        Ok(Operation::Usage {}) => usage::measure(&daemon, frames, sink).await,
        Err(error) => answer(&mut sink, GuestFrame::Failed(Failure::Refused { reason: error.to_string() })).await,
    }
}

/// Answers with a value.
async fn tell(sink: &mut FrameSink, value: &impl serde::Serialize) {
    use futures::SinkExt;
    let json = serde_json::to_vec(value).unwrap_or_default();
    for piece in json.chunks(MAX_PAYLOAD) {
        if sink.send(GuestFrame::Contents(bytes::Bytes::copy_from_slice(piece))).await.is_err() {
            return; // nobody reads any more
        }
    }
    answer(sink, GuestFrame::Done).await;
}

/// Sends the last frame of an operation. A host that is gone needs none.
async fn answer(sink: &mut FrameSink, frame: GuestFrame) {
    use futures::SinkExt;
    drop(sink.send(frame).await);
    drop(sink.close().await);
}
