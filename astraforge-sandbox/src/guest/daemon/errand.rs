//! Errands: long work on files, done by a child of the daemon so that nobody else waits for it.
//!
//! The child is a fork that executes nothing. It reads what the host sends as a plain stream of bytes, and writes frames.
//! It ends with the daemon, and is killed when its host goes away.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Write},
    os::fd::{AsFd, BorrowedFd, RawFd},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{
    io::AsyncWriteExt,
    net::unix::pipe::{Receiver, Sender},
    sync::oneshot::{self, error::TryRecvError},
    time::timeout,
};
use tokio_util::codec::{Encoder, FramedRead};

use super::{Daemon, FrameSink, Frames, answer, fork, process_table::send_signal};
use crate::guest::frame::{Failure, FrameCodec, GuestFrame, HostFrame, MAX_PAYLOAD};

/// How long a child may take to clean up when its host is gone.
const GRACE: Duration = Duration::from_secs(5);

/// Where the descriptors of an errand begin.
const FIRST: RawFd = 3;

/// What an errand answers, beside the bytes it sends.
pub(super) type Outcome = Result<Option<Vec<u8>>, Failure>;

/// Does `work` in a child: its input is what the host sends as contents, its output goes to the host as contents. At its
/// end what it returns follows, as contents, or its failure.
pub(super) async fn run(
    daemon: &Daemon,
    frames: Frames,
    mut sink: FrameSink,
    work: impl FnOnce(&mut Input, &mut Reply) -> Outcome,
) {
    let mut errand = match Errand::start(daemon, work) {
        Ok(errand) => errand,
        Err(error) => {
            let reason = format!("the sandbox cannot fork: {error}");
            return answer(&mut sink, GuestFrame::Failed(Failure::Refused { reason })).await;
        }
    };
    let input = errand.input.take();
    let last = tokio::select! {
        last = relay(&mut errand.output, &mut sink) => last,
        () = feed(frames, input) => None,
    };
    match last {
        Some(last) => {
            drop(errand);
            answer(&mut sink, last).await;
        }
        None => errand.dismiss().await,
    }
}

/// The daemon's ends of a child at work; dropped, the child is killed.
struct Errand {
    pid: i32,
    death: oneshot::Receiver<()>,
    input: Option<Sender>,
    output: Option<FramedRead<Receiver, FrameCodec<GuestFrame>>>,
}

impl Errand {
    fn start(daemon: &Daemon, work: impl FnOnce(&mut Input, &mut Reply) -> Outcome) -> io::Result<Self> {
        let (input, to_input) = pipe_with(PipeFlags::CLOEXEC)?;
        let (from_output, output) = pipe_with(PipeFlags::CLOEXEC)?;
        let pid = fork::fork(|| {
            let [input, output] = fork::keep_only([&input, &output], FIRST)?;
            let mut input = Input::new(input.into());
            let mut reply = Reply(BufWriter::with_capacity(MAX_PAYLOAD, output.into()));
            match work(&mut input, &mut reply) {
                Ok(result) => {
                    reply.contents(&result.unwrap_or_default())?;
                    reply.frame(GuestFrame::Done)?;
                }
                Err(failure) => reply.frame(GuestFrame::Failed(failure))?,
            }
            reply.0.flush()
        })?;
        Ok(Self {
            pid,
            // Known as the daemon's own, it is not taken for a stray.
            death: daemon.children.adopt(pid),
            input: Some(Sender::from_owned_fd(to_input)?),
            output: Some(FramedRead::new(Receiver::from_owned_fd(from_output)?, FrameCodec::new())),
        })
    }
}

impl Errand {
    /// Lets the child clean up: it finds that its input has no end and that nobody reads what it writes.
    async fn dismiss(mut self) {
        self.input = None;
        self.output = None;
        drop(timeout(GRACE, &mut self.death).await);
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        // Once it was reaped its number may be another's.
        if self.death.try_recv() == Err(TryRecvError::Empty) {
            send_signal(self.pid, rustix::process::Signal::KILL);
        }
    }
}

/// Where an errand writes: bytes become frames.
pub(super) struct Reply(BufWriter<File>);

impl Reply {
    /// Sends bytes of a file.
    pub(super) fn contents(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes.chunks(MAX_PAYLOAD).try_for_each(|piece| self.frame(GuestFrame::Contents(Bytes::copy_from_slice(piece))))
    }

    /// Sends one of many answers, once it is flushed.
    pub(super) fn item(&mut self, json: &[u8]) -> io::Result<()> {
        self.frame(GuestFrame::Item(Bytes::copy_from_slice(json)))
    }

    fn frame(&mut self, frame: GuestFrame) -> io::Result<()> {
        let mut wire = BytesMut::new();
        FrameCodec::new().encode(frame, &mut wire).map_err(io::Error::other)?;
        self.0.write_all(&wire)
    }
}

impl Write for Reply {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(MAX_PAYLOAD)];
        self.contents(piece)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Sends the host what the child says; returns the last frame, if the host is still there for it.
async fn relay(
    output: &mut Option<FramedRead<Receiver, FrameCodec<GuestFrame>>>,
    sink: &mut FrameSink,
) -> Option<GuestFrame> {
    let output = output.as_mut()?;
    loop {
        match output.next().await {
            Some(Ok(frame @ (GuestFrame::Contents(_) | GuestFrame::Item(_)))) => sink.send(frame).await.ok()?,
            Some(Ok(last @ (GuestFrame::Done | GuestFrame::Failed(_)))) => return Some(last),
            // The agent runs with the same user id as this child, and may have killed it.
            _ => {
                let reason = "the process that did it was killed".to_owned();
                return Some(GuestFrame::Failed(Failure::Refused { reason }));
            }
        }
    }
}

/// Gives the child what the host sends. Returns when the host is gone or breaks the protocol.
async fn feed(mut frames: Frames, mut input: Option<Sender>) {
    loop {
        match frames.next().await {
            Some(Ok(HostFrame::Contents(bytes))) => {
                if let Some(pipe) = &mut input
                    && give(pipe, &bytes).await.is_err()
                {
                    // The child takes no more, and will say why.
                    input = None;
                }
            }
            Some(Ok(HostFrame::ContentsEnd)) => {
                if let Some(mut pipe) = input.take() {
                    drop(pipe.write_all(&0_u32.to_be_bytes()).await);
                }
            }
            _ => return,
        }
    }
}

/// Hands on a piece, after its length: only so the end of all is told from a host that went away.
async fn give(pipe: &mut Sender, bytes: &[u8]) -> io::Result<()> {
    let Ok(length) = u32::try_from(bytes.len()) else { return Err(io::ErrorKind::InvalidInput.into()) };
    if length > 0 {
        pipe.write_all(&length.to_be_bytes()).await?;
        pipe.write_all(bytes).await?;
    }
    Ok(())
}

/// What the host sends, as the child reads it: its end is an error unless the host said that it is the end.
pub(super) struct Input {
    pipe: File,
    left: usize,
    ended: bool,
}

impl Input {
    fn new(pipe: File) -> Self {
        Self { pipe, left: 0, ended: false }
    }
}

impl AsFd for Input {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.ended {
            let mut length = [0; 4];
            self.pipe.read_exact(&mut length)?;
            self.left = u32::from_be_bytes(length) as usize;
            self.ended = self.left == 0;
        }
        let room = buffer.len().min(self.left);
        if room == 0 {
            return Ok(0);
        }
        let n_bytes = self.pipe.read(&mut buffer[..room])?;
        if n_bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n_bytes;
        Ok(n_bytes)
    }
}
