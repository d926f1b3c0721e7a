//! The host's side of a connection to a guest.

use std::sync::Arc;

use astraforge_core::{
    BoxError,
    ports::{
        guest_service::{GuestStream, ServiceBinding},
        sessions::{Execution, SessionError},
    },
    process::{Process, ProcessName, ProcessTag},
    session::{Command, Signal},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tokio_util::{
    codec::{FramedRead, FramedWrite},
    compat::{Compat, FuturesAsyncReadCompatExt, FuturesAsyncWriteCompatExt},
};

use super::{
    GuestConfig,
    frame::{FrameCodec, GuestFrame, HostFrame, ProtocolError},
    header::{MAX_CALL, MAX_OPERATION, Operation, ServiceCall, read_header, write_header},
    hello::{HandshakeError, HostGreeting, greet_guest},
    mux::{Mode, Opener, Stream, multiplex},
};

mod exec;
mod files;
mod transfer;

/// Operations that may run at once on one connection; more wait.
const MAX_OPERATIONS: usize = 256;
/// Service connections that may be open at once; more are refused.
const MAX_SERVICE_CALLS: usize = 192;

type Frames = FramedRead<Compat<futures::io::ReadHalf<Stream>>, FrameCodec<GuestFrame>>;
type FrameSink = FramedWrite<Compat<futures::io::WriteHalf<Stream>>, FrameCodec<HostFrame>>;

/// A connection to the guest of one sandbox; clones share it, and the last one closes it.
///
/// Nothing the guest sends is trusted: a guest that breaks the protocol, or goes away, fails the calls that
/// wait for it and no others.
#[derive(Debug, Clone)]
pub struct GuestClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    opener: Opener,
    operations: Arc<Semaphore>,
    guest_version: String,
    tasks: [AbortHandle; 2],
}

impl Drop for Shared {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl GuestClient {
    /// Greets the guest at the other end of `stream`. With `services`, connections that programs in the sandbox
    /// make to them come here from now on, until a newer connection takes them over.
    ///
    /// Must be called within a tokio runtime, which also carries the connection.
    ///
    /// # Errors
    /// [`HandshakeError`] says whether the peer is no guest, a guest of another version, or silent.
    pub async fn connect(mut stream: GuestStream, services: Vec<ServiceBinding>) -> Result<Self, HandshakeError> {
        let serves = !services.is_empty();
        let greeting = greet_guest(&mut stream, &HostGreeting { serves }).await?;
        let (opener, inbound, connection) = multiplex(stream, Mode::Client);
        let tasks =
            [tokio::spawn(connection).abort_handle(), tokio::spawn(serve_calls(inbound, services)).abort_handle()];
        let operations = Arc::new(Semaphore::new(MAX_OPERATIONS));
        let guest_version = greeting.version;
        Ok(Self { shared: Arc::new(Shared { opener, operations, guest_version, tasks }) })
    }

    /// Returns the version of the guest's software, as the guest tells it.
    #[must_use]
    pub fn guest_version(&self) -> &str {
        &self.shared.guest_version
    }

    /// Tells whether the connection is gone.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.shared.opener.is_closed()
    }

    /// Returns once the connection is gone.
    pub async fn lost(&self) {
        self.shared.opener.closed().await;
    }

    /// Starts a command and returns once it runs.
    ///
    /// # Errors
    /// [`SessionError::Spawn`] when it cannot be started, [`SessionError::Lost`] when the connection ends first.
    ///
    /// # Cancel safety
    /// Dropping the future or the returned [`Execution`]'s events kills the command's whole process tree.
    pub async fn exec(&self, command: Command) -> Result<Execution, SessionError> {
        exec::start(self, command).await
    }

    /// Starts a command that goes on when nobody watches.
    ///
    /// # Errors
    /// [`SessionError::Spawn`] when it cannot be started, [`SessionError::Lost`] when the connection ends first.
    pub async fn spawn(&self, command: Command, tag: Option<ProcessTag>) -> Result<Process, SessionError> {
        exec::spawn(self, command, tag).await
    }

    /// Lists the processes that were started with [`spawn`](Self::spawn), oldest first.
    ///
    /// # Errors
    /// [`SessionError::Lost`].
    pub async fn processes(&self) -> Result<Vec<Process>, SessionError> {
        exec::processes(self).await
    }

    /// Follows a process from byte `from` of its output on. Dropping the execution leaves the process alone.
    ///
    /// # Errors
    /// [`SessionError::NoSuchProcess`], [`SessionError::Lost`].
    pub async fn attach(&self, process: ProcessName, from: u64) -> Result<Execution, SessionError> {
        exec::attach(self, process, from).await
    }

    /// Sends a signal to a process; one that has ended is `Ok(())`.
    ///
    /// # Errors
    /// [`SessionError::NoSuchProcess`], [`SessionError::Lost`].
    pub async fn signal(&self, process: ProcessName, signal: Signal) -> Result<(), SessionError> {
        exec::signal(self, process, signal).await
    }

    /// Tells a guest that was started ahead of time whom it serves.
    ///
    /// # Errors
    /// [`SessionError::Backend`] when it was told before, [`SessionError::Lost`] when it is gone.
    #[cfg_attr(not(feature = "native"), expect(dead_code, reason = "only the native driver has guests in stock"))]
    pub(crate) async fn begin(&self, config: GuestConfig) -> Result<(), SessionError> {
        let mut call = self.call(&Operation::Begin(config)).await?;
        match call.next().await? {
            GuestFrame::Done => Ok(()),
            _ => Err(violation(ProtocolError::Unexpected("answer to the beginning"))),
        }
    }

    /// Ends the guest and with it every process of the sandbox.
    ///
    /// # Errors
    /// [`SessionError::Lost`] when it is gone already.
    pub async fn shutdown(&self) -> Result<(), SessionError> {
        let mut call = self.call(&Operation::Shutdown {}).await?;
        match call.next().await? {
            GuestFrame::Done => Ok(()),
            _ => Err(violation(ProtocolError::Unexpected("answer to shutdown"))),
        }
    }

    /// Opens a stream for one operation.
    async fn call(&self, operation: &Operation) -> Result<Call, SessionError> {
        let permit = self.shared.operations.clone().acquire_owned().await.map_err(|_| SessionError::Lost)?;
        let mut stream = self.shared.opener.open().await.ok_or(SessionError::Lost)?;
        write_header(&mut stream, operation, MAX_OPERATION).await.map_err(violation)?;
        let (reader, writer) = futures::io::AsyncReadExt::split(stream);
        Ok(Call {
            frames: FramedRead::new(reader.compat(), FrameCodec::new()),
            sink: FramedWrite::new(writer.compat_write(), FrameCodec::new()),
            held: Held { _client: self.clone(), _permit: permit },
        })
    }
}

/// One operation under way.
struct Call {
    frames: Frames,
    sink: FrameSink,
    held: Held,
}

/// What an operation keeps alive: its connection, and its place among the operations that may run at once.
struct Held {
    _client: GuestClient,
    _permit: OwnedSemaphorePermit,
}

impl Call {
    async fn next(&mut self) -> Result<GuestFrame, SessionError> {
        next(&mut self.frames).await
    }
}

/// Reads a frame of an operation that is not done.
async fn next(frames: &mut Frames) -> Result<GuestFrame, SessionError> {
    match futures::StreamExt::next(frames).await {
        Some(Ok(frame)) => Ok(frame),
        Some(Err(error)) => Err(violation(error)),
        None => Err(SessionError::Lost),
    }
}

/// Tells a connection that ended from a guest that does not keep to the protocol.
fn violation(error: ProtocolError) -> SessionError {
    match error {
        ProtocolError::Io(_) | ProtocolError::Ended => SessionError::Lost,
        error => SessionError::Backend { operation: "understand the guest", source: BoxError::from(error) },
    }
}

/// Makes a text of the guest fit to be shown: short, on one line.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

/// Hands connections made inside the sandbox to the services they are meant for.
async fn serve_calls(mut inbound: mpsc::Receiver<Stream>, services: Vec<ServiceBinding>) {
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            stream = inbound.recv() => match stream {
                Some(stream) if calls.len() < MAX_SERVICE_CALLS => {
                    let services = services.clone();
                    calls.spawn(async move { serve_call(stream, &services).await });
                }
                Some(_) => tracing::warn!("a sandbox has too many connections to its services; one more is refused"),
                None => break,
            },
            Some(_) = calls.join_next() => {}
        }
    }
}

async fn serve_call(mut stream: Stream, services: &[ServiceBinding]) {
    let header = read_header::<ServiceCall>(&mut stream, MAX_CALL);
    match timeout(std::time::Duration::from_secs(10), header).await {
        Ok(Ok(call)) => match services.iter().find(|binding| binding.port == call.service) {
            Some(binding) => binding.service.serve(Box::pin(stream)).await,
            None => tracing::warn!(port = call.service, "a sandbox calls a service that it was not given"),
        },
        Ok(Err(error)) => tracing::warn!(%error, "a sandbox's service call is malformed"),
        Err(_) => tracing::warn!("a sandbox's service call names no service"),
    }
}
