//! What runs inside a relay's process. It has one thread, and never returns into the daemon's code.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, ioctl_fionbio},
};

use crate::guest::daemon::fork;

/// What is moved at a time.
const PIECE: usize = 64 * 1024;
/// What may be left in a pipe when its last writer is dead.
const MAX_LEFTOVER: usize = 1024 * 1024;

/// Forks a relay that moves bytes from each first end to the second that follows it; returns its process id.
pub(super) fn fork(ends: [OwnedFd; 6]) -> io::Result<i32> {
    fork::fork(|| {
        let [stdin, to_stdin, stdout, to_stdout, stderr, to_stderr] = fork::keep_only(ends.each_ref(), 3)?;
        relay([Flow::new(stdin, to_stdin), Flow::new(stdout, to_stdout), Flow::new(stderr, to_stderr)]);
        Ok(())
    })
}

/// Moves bytes until all flows have ended.
fn relay(flows: [Flow; 3]) {
    let mut flows: Vec<Flow> = flows.into_iter().filter(|flow| flow.never_waits().is_ok()).collect();
    while !flows.is_empty() {
        let mut watched: Vec<PollFd<'_>> = flows.iter().flat_map(Flow::watched).collect();
        if poll(&mut watched, None).is_err_and(|error| error != Errno::INTR) {
            return;
        }
        let seen: Vec<(PollFlags, PollFlags)> =
            watched.chunks_exact(2).map(|ends| (ends[0].revents(), ends[1].revents())).collect();
        let mut seen = seen.into_iter();
        flows.retain_mut(|flow| seen.next().is_some_and(|(from, to)| flow.go_on(from, to)));
    }
}

/// Bytes on their way from one end to another. Dropped, both are closed.
struct Flow {
    from: OwnedFd,
    to: OwnedFd,
    /// What was read and is not written yet.
    held: Vec<u8>,
    /// How much may still be read; without a limit until the daemon asks for the rest.
    rest: Option<usize>,
}

impl Flow {
    fn new(from: OwnedFd, to: OwnedFd) -> Self {
        Self { from, to, held: Vec::new(), rest: None }
    }

    fn never_waits(&self) -> io::Result<()> {
        ioctl_fionbio(&self.from, true)?;
        Ok(ioctl_fionbio(&self.to, true)?)
    }

    /// What it waits for: something to read, or room to write what was read, and that nobody wants it any more.
    fn watched(&self) -> [PollFd<'_>; 2] {
        let asked = if self.rest.is_none() { PollFlags::RDHUP } else { PollFlags::empty() };
        let (from, to) = match self.held.is_empty() {
            true => (PollFlags::IN, PollFlags::empty()),
            false => (PollFlags::empty(), PollFlags::OUT),
        };
        [PollFd::from_borrowed_fd(self.from.as_fd(), from), PollFd::from_borrowed_fd(self.to.as_fd(), to | asked)]
    }

    /// Moves what can be moved; `false` when that was the last.
    fn go_on(&mut self, from: PollFlags, to: PollFlags) -> bool {
        if to.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
            return false;
        }
        if to.contains(PollFlags::RDHUP) && self.rest.is_none() {
            self.rest = Some(MAX_LEFTOVER);
        }
        let mut may_read = !from.is_empty() || self.rest.is_some();
        loop {
            if self.held.is_empty() && may_read && !self.read() {
                return false;
            }
            if !self.write() {
                return false;
            }
            // The rest is read without waiting for anything.
            may_read = self.rest.is_some();
            if !may_read || !self.held.is_empty() {
                return true;
            }
        }
    }

    /// Reads what is there. `false` when nothing more will come, or may.
    fn read(&mut self) -> bool {
        let room = self.rest.map_or(PIECE, |rest| rest.min(PIECE));
        self.held.resize(room, 0);
        let read = rustix::io::read(&self.from, &mut self.held);
        let n_bytes = *read.as_ref().unwrap_or(&0);
        self.held.truncate(n_bytes);
        self.rest = self.rest.map(|rest| rest - n_bytes);
        match read {
            Ok(n_bytes) => n_bytes > 0,
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => self.rest.is_none(),
            Err(_) => false,
        }
    }

    /// Writes what was read. `false` when nobody reads it.
    fn write(&mut self) -> bool {
        if self.held.is_empty() {
            return true;
        }
        match rustix::io::write(&self.to, &self.held) {
            Ok(n_bytes) => {
                self.held.drain(..n_bytes);
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::Shutdown,
        os::unix::net::UnixStream,
        thread,
    };

    use super::*;

    /// Streams of a command at work: what writes its output, and what the daemon reads it from.
    fn streams() -> (UnixStream, UnixStream, thread::JoinHandle<()>) {
        let (writer, stdout) = UnixStream::pair().unwrap();
        let (reader, its_stdout) = UnixStream::pair().unwrap();
        let ended = || Flow::new(UnixStream::pair().unwrap().0.into(), UnixStream::pair().unwrap().0.into());
        let flows = [ended(), Flow::new(stdout.into(), its_stdout.into()), ended()];
        (writer, reader, thread::spawn(move || relay(flows)))
    }

    fn bytes(n: u32) -> Vec<u8> {
        (0..n).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn all_arrives_and_so_does_its_end() {
        let (mut writer, mut reader, relay) = streams();
        let writing = thread::spawn(move || writer.write_all(&bytes(1_000_000)).unwrap());
        let mut arrived = Vec::new();
        reader.read_to_end(&mut arrived).unwrap();
        assert!(arrived == bytes(1_000_000));
        writing.join().unwrap();
        relay.join().unwrap();
    }

    #[test]
    fn the_rest_is_given_though_the_writer_lives_on() {
        let (mut writer, mut reader, relay) = streams();
        writer.write_all(&bytes(100_000)).unwrap();
        reader.shutdown(Shutdown::Write).unwrap();
        let mut arrived = Vec::new();
        reader.read_to_end(&mut arrived).unwrap();
        assert!(arrived == bytes(100_000));
        relay.join().unwrap();
        drop(writer);
    }

    #[test]
    fn a_writer_learns_that_nobody_reads() {
        let (mut writer, reader, relay) = streams();
        drop(reader);
        relay.join().unwrap();
        assert_eq!(writer.write_all(&bytes(1)).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
