//! What runs inside a shim's process. It has one thread, blocks, and never returns into the daemon's code.

use std::{
    collections::HashSet,
    fs,
    io::{self, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use astraforge_core::session::Exit;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Signal, WaitOptions, WaitStatus, getpid, wait},
};

use super::{Job, Order, Report};
use crate::guest::{
    daemon::{
        fork,
        process_table::{kill_descendants, signal_group},
        spawn,
    },
    header::MAX_OPERATION,
};

/// Rounds of killing after which processes are stopped first.
const QUICK_ROUNDS: usize = 3;
const MAX_REASON: usize = 2048;

/// The shim's ends of what connects it with the daemon.
pub(super) struct Ends {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) control: OwnedFd,
}

/// Forks a shim that waits for its job; returns its process id.
pub(super) fn fork(ends: Ends) -> io::Result<i32> {
    fork::fork(|| live(&ends))
}

fn live(ends: &Ends) -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::set_child_subreaper(Some(getpid()))?;
    let [stdin, stdout, stderr, control] =
        fork::keep_only([&ends.stdin, &ends.stdout, &ends.stderr, &ends.control], libc::STDIN_FILENO)?;
    let mut control = UnixStream::from(control);
    let deaths = watch_children()?;
    let Some(job) = read_job(&mut control)? else { return Ok(()) };
    control.write_all(&Report::Taken.to_wire())?;
    // When the sandbox is out of memory its commands are to go, not the guest. Where that may not be said the kernel decides.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    match start(&job) {
        Ok(pid) => {
            // The command alone holds its streams from here on, or its end would not be their end.
            drop((stdin, stdout, stderr));
            control.write_all(&Report::Started.to_wire())?;
            let exit = supervise(pid, &mut control, &deaths);
            control.write_all(&Report::Ended(exit).to_wire())
        }
        Err(mut reason) => {
            reason.truncate(reason.floor_char_boundary(MAX_REASON));
            control.write_all(&Report::SpawnFailed(reason.len()).to_wire())?;
            control.write_all(reason.as_bytes())
        }
    }
}

fn start(job: &Job) -> Result<i32, String> {
    std::env::set_current_dir(&job.cwd)
        .map_err(|error| format!("cannot enter the working directory `{}`: {error}", job.cwd.display()))?;
    spawn::start(&job.argv, &job.env, job.tty.as_deref())
}

fn read_job(control: &mut UnixStream) -> io::Result<Option<Job>> {
    let mut length = [0; 4];
    if control.read_exact(&mut length).is_err() {
        return Ok(None); // the daemon has no job for this shim any more
    }
    let length = u64::from(u32::from_be_bytes(length)).min(2 * MAX_OPERATION as u64);
    let mut json = Vec::new();
    control.take(length).read_to_end(&mut json)?;
    Ok(Some(serde_json::from_slice(&json)?))
}

/// Waits for the command to end, follows orders meanwhile, and leaves no descendant alive.
fn supervise(command: i32, control: &mut UnixStream, deaths: &OwnedFd) -> Exit {
    let mut tree = Tree { command, end: None };
    while tree.end.is_none() {
        wait_for_news(control, deaths);
        tree.reap();
        if tree.end.is_none() {
            match next_order(control) {
                Some(Order::Interrupt) => tree.signal(Signal::INT),
                Some(Order::Terminate) => tree.signal(Signal::TERM),
                Some(Order::Kill) => break,
                None => {}
            }
        }
    }
    tree.kill(deaths);
    tree.end.map_or(Exit::Signaled { signal: libc::SIGKILL }, exit_of)
}

/// The processes beneath this one.
struct Tree {
    command: i32,
    end: Option<WaitStatus>,
}

impl Tree {
    /// Reaps what is dead. Tells whether any child is left.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == self.command => self.end = Some(status),
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Signals the command's process group. Its number stays taken as long as it has a member.
    fn signal(&self, signal: Signal) {
        signal_group(self.command, signal);
    }

    fn kill(&mut self, deaths: &OwnedFd) {
        // Most trees are one group, and gone before the table is read.
        self.signal(Signal::KILL);
        let me = getpid().as_raw_nonzero().get();
        let mut pause = Duration::from_millis(1);
        for round in 0.. {
            if !self.reap() {
                return;
            }
            kill_descendants(me, &HashSet::new(), round >= QUICK_ROUNDS);
            wait_for_death(deaths, pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

fn exit_of(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Exited { code },
        (None, Some(signal)) => Exit::Signaled { signal },
        (None, None) => Exit::Signaled { signal: libc::SIGKILL },
    }
}

/// Reads an order if there is one. A daemon that went away means the end for everything beneath it.
fn next_order(control: &mut UnixStream) -> Option<Order> {
    let mut fds = [PollFd::new(control, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).ok().filter(|ready| *ready > 0)?;
    let mut order = [0];
    match control.read(&mut order) {
        Ok(1) if order == [Order::Interrupt as u8] => Some(Order::Interrupt),
        Ok(1) if order == [Order::Terminate as u8] => Some(Order::Terminate),
        _ => Some(Order::Kill),
    }
}

fn wait_for_news(control: &UnixStream, deaths: &OwnedFd) {
    let mut fds = [PollFd::new(control, PollFlags::IN), PollFd::new(deaths, PollFlags::IN)];
    let _ = poll(&mut fds, None);
    forget_deaths(deaths);
}

fn wait_for_death(deaths: &OwnedFd, at_most: Duration) {
    let at_most = Timespec { tv_sec: 0, tv_nsec: at_most.subsec_nanos().into() };
    let _ = poll(&mut [PollFd::new(deaths, PollFlags::IN)], Some(&at_most));
    forget_deaths(deaths);
}

/// Empties the signal descriptor, before children are reaped: then no death goes unnoticed.
fn forget_deaths(deaths: &OwnedFd) {
    let mut buffer = [0; size_of::<libc::signalfd_siginfo>()];
    while rustix::io::read(deaths, &mut buffer).is_ok_and(|n_bytes| n_bytes > 0) {}
}

/// Returns a descriptor that is readable when a child died. All signals are blocked in a shim.
fn watch_children() -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::uninit();
    #[expect(unsafe_code, reason = "rustix has no signalfd")]
    // SAFETY: `set` is initialised before it is read; a descriptor that is not negative is ours alone.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        match libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
