//! The shim: a small process between the daemon and a command, which owns the command's process tree.
//!
//! It is a fork of the daemon that executes nothing. It makes itself the reaper of its descendants, so whatever they
//! do (double fork, `setsid`, ignoring signals) they stay beneath it; when the command ends, or is to end, it kills
//! them until the kernel says that it has no child left. A shim serves one command. The next one's is forked
//! while this one's runs, so a command waits for no fork of the daemon.

mod process;

use std::{collections::BTreeMap, io, os::fd::OwnedFd, os::unix::net::UnixStream as StdUnixStream, path::PathBuf};

use astraforge_core::session::Exit;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::oneshot,
};

use super::{
    children::Children,
    relay::{Pipes, Streams},
};

/// What a shim is to run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) argv: Vec<String>,
    pub(super) cwd: PathBuf,
    pub(super) env: BTreeMap<String, String>,
    /// The terminal that its streams are.
    pub(super) tty: Option<String>,
}

impl Job {
    /// JSON after its length, in one piece: the shim wakes up once.
    pub(super) fn to_wire(&self) -> io::Result<Vec<u8>> {
        let mut wire = vec![0; 4];
        serde_json::to_writer(&mut wire, self)?;
        let length = u32::try_from(wire.len() - 4).map_err(io::Error::other)?;
        wire[..4].copy_from_slice(&length.to_be_bytes());
        Ok(wire)
    }
}

/// What a shim can be told while its command runs, in one byte each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Order {
    Interrupt = b'I',
    Terminate = b'T',
    /// Kill the whole tree.
    Kill = b'K',
}

/// What a shim tells: a kind and a number, five bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Report {
    /// The job is understood: from here on the command may run.
    Taken,
    Started,
    /// So many bytes of reason follow.
    SpawnFailed(usize),
    Ended(Exit),
}

impl Report {
    fn to_wire(self) -> [u8; 5] {
        let (kind, number) = match self {
            Self::Taken => (b'T', 0),
            Self::Started => (b'S', 0),
            Self::SpawnFailed(n_bytes) => (b'F', i32::try_from(n_bytes).unwrap_or(0)),
            Self::Ended(Exit::Signaled { signal }) => (b'G', signal),
            Self::Ended(exit) => (b'E', exit.code()),
        };
        let [a, b, c, d] = number.to_be_bytes();
        [kind, a, b, c, d]
    }

    fn from_wire([kind, a, b, c, d]: [u8; 5]) -> Option<Self> {
        let number = i32::from_be_bytes([a, b, c, d]);
        match kind {
            b'T' => Some(Self::Taken),
            b'S' => Some(Self::Started),
            b'F' => usize::try_from(number).ok().map(Self::SpawnFailed),
            b'G' => Some(Self::Ended(Exit::Signaled { signal: number })),
            b'E' => Some(Self::Ended(Exit::Exited { code: number })),
            _ => None,
        }
    }
}

/// The daemon's end of a shim. Dropping it kills the shim's whole tree.
#[derive(Debug)]
pub(super) struct Shim {
    pub(super) pid: i32,
    pub(super) streams: Streams,
    pub(super) reports: Reports,
    pub(super) orders: Orders,
    /// Closes when the shim itself is dead.
    pub(super) death: oneshot::Receiver<()>,
}

/// Reads what a shim tells.
#[derive(Debug)]
pub(super) struct Reports(OwnedReadHalf);

/// Tells a shim what to do.
#[derive(Debug)]
pub(super) struct Orders(OwnedWriteHalf);

impl Shim {
    /// Forks a shim, which waits for its job.
    pub(super) fn fork(children: &Children) -> io::Result<Self> {
        let (stdin, to_stdin) = pipe_with(PipeFlags::CLOEXEC)?;
        let (from_stdout, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (from_stderr, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let (control, shim_control) = StdUnixStream::pair()?;
        control.set_nonblocking(true)?;
        let streams = Streams::relay(children, Pipes { stdin: to_stdin, stdout: from_stdout, stderr: from_stderr })?;
        let ends = process::Ends { stdin, stdout, stderr, control: OwnedFd::from(shim_control) };
        let pid = process::fork(ends)?;
        let death = children.adopt(pid);
        let (reports, orders) = UnixStream::from_std(control)?.into_split();
        Ok(Self { pid, streams, reports: Reports(reports), orders: Orders(orders), death })
    }

    /// Starts the command of a [`Job`] on the wire.
    ///
    /// # Errors
    /// The shim died before it took the job. The inner result is the command's: the reason why it can't start.
    pub(super) async fn start(&mut self, job: &[u8]) -> io::Result<Result<(), String>> {
        self.orders.0.write_all(job).await?;
        if self.reports.next().await? != Report::Taken {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match self.reports.next().await {
            // A command may be so quick to kill its shim that nothing says that it started; it must not run twice.
            Ok(Report::Started) | Err(_) => Ok(Ok(())),
            Ok(Report::SpawnFailed(n_bytes)) => {
                let mut reason = String::new();
                (&mut self.reports.0).take(n_bytes as u64).read_to_string(&mut reason).await?;
                Ok(Err(reason))
            }
            Ok(Report::Taken | Report::Ended(_)) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Reports {
    async fn next(&mut self) -> io::Result<Report> {
        let mut wire = [0; 5];
        self.0.read_exact(&mut wire).await?;
        Report::from_wire(wire).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Returns how the command ended, once its tree is gone; `None` when the shim died first.
    pub(super) async fn end(&mut self) -> Option<Exit> {
        match self.next().await {
            Ok(Report::Ended(exit)) => Some(exit),
            _ => None,
        }
    }
}

impl Orders {
    /// Gives an order. A shim that is done takes no more, and needs none.
    pub(super) fn give(&self, order: Order) {
        drop(self.0.try_write(&[order as u8]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_the_wire() {
        for report in [
            Report::Taken,
            Report::Started,
            Report::SpawnFailed(300),
            Report::Ended(Exit::Exited { code: 255 }),
            Report::Ended(Exit::Signaled { signal: 9 }),
        ] {
            assert_eq!(Report::from_wire(report.to_wire()), Some(report));
        }
        assert_eq!(Report::from_wire([0; 5]), None);
    }
}
