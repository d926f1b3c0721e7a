//! The relay: a process that moves bytes between the pipes of a command and the daemon.
//!
//! Whoever has an end of a pipe can lock it: a program that splices a silent socket into its output keeps the pipe
//! locked for as long as the socket is silent, and everybody else who reads or writes the pipe meanwhile waits in the
//! kernel, out of reach of any timeout and of SIGKILL. The daemon must never wait so: it is what ends a sandbox. So it
//! has sockets, which nobody but a relay shares with it, and the relay has the pipes. Who locks a pipe holds up the
//! streams of its own command, until that command's tree is killed.
//!
//! Each command has a relay of its own, forked with its shim. Nothing is passed to one that is there already: descriptors
//! on their way through a socket are counted by user, and the agent, who is the same user, may have used up all.

mod process;

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
};

use rustix::net::Shutdown;
use tokio::net::UnixStream;

use super::children::Children;

/// The daemon's ends of a command's streams. Dropping them ends the relay.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) stdin: UnixStream,
    pub(super) stdout: UnixStream,
    pub(super) stderr: UnixStream,
}

/// The far ends of a command's pipes.
pub(super) struct Pipes {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Streams {
    /// Forks a relay for the pipes of one command.
    pub(super) fn relay(children: &Children, pipes: Pipes) -> io::Result<Self> {
        let [stdin, stdout, stderr] = [(); 3].map(|()| StdUnixStream::pair());
        let [(stdin, its_stdin), (stdout, its_stdout), (stderr, its_stderr)] = [stdin?, stdout?, stderr?];
        let pid = process::fork([
            its_stdin.into(),
            pipes.stdin,
            pipes.stdout,
            its_stdout.into(),
            pipes.stderr,
            its_stderr.into(),
        ])?;
        // Known as the daemon's own, it is not taken for a stray. When it dies is told by the streams.
        drop(children.adopt(pid));
        Ok(Self { stdin: nonblocking(stdin)?, stdout: nonblocking(stdout)?, stderr: nonblocking(stderr)? })
    }
}

fn nonblocking(socket: StdUnixStream) -> io::Result<UnixStream> {
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// Says that no more is to come than what is on its way now.
pub(super) fn ask_for_the_rest(stream: &UnixStream) {
    // To a relay that is dead it need not be said.
    let _ = rustix::net::shutdown(stream, Shutdown::Write);
}
