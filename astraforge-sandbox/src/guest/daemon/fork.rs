//! Forks of the daemon: processes that go on in this program and never return into the daemon's code.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
};

use rustix::process::{Signal, getpid, getppid};

/// Forks; the child does `work`, in one thread and with all signals blocked, and ends. Returns its process id.
///
/// The child dies with the daemon. Its descriptors are the daemon's: it is to close what it does not need.
pub(super) fn fork(work: impl FnOnce() -> io::Result<()>) -> io::Result<i32> {
    let daemon = getpid();
    let live = || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() != Some(daemon) {
            return Ok(()); // it died before the line above
        }
        work()
    };
    // The daemon's signal handlers write into the daemon's runtime: in the child they must never run.
    let before = block_signals()?;
    #[expect(unsafe_code, reason = "the child goes on in this program")]
    // SAFETY: the daemon has one thread, so the child's memory is whole and no lock in it is held by anyone else.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // Whatever happens, this process ends here.
        let code = catch_unwind(AssertUnwindSafe(live)).map_or(101, |done| i32::from(done.is_err()));
        #[expect(unsafe_code, reason = "exit handlers belong to the daemon")]
        // SAFETY: `_exit` runs no code of this process.
        unsafe {
            libc::_exit(code)
        }
    }
    let forked = if pid > 0 { Ok(pid) } else { Err(io::Error::last_os_error()) };
    restore_signals(&before)?;
    forked
}

/// Moves descriptors of the daemon to `first` and the numbers that follow, and closes all others above, in a forked
/// child. Those that are not standard streams are closed on exec.
pub(super) fn keep_only<const N: usize>(kept: [&OwnedFd; N], first: RawFd) -> io::Result<[OwnedFd; N]> {
    /// Above all targets: one of the descriptors may sit where another belongs.
    const AWAY: RawFd = 16;
    let mut moved = Vec::with_capacity(N);
    for source in kept {
        moved.push(rustix::io::fcntl_dupfd_cloexec(source, AWAY)?);
    }
    for (source, target) in moved.iter().zip(first..) {
        let flags = if target > libc::STDERR_FILENO { libc::O_CLOEXEC } else { 0 };
        #[expect(unsafe_code, reason = "the target is a number, not a descriptor that somebody owns")]
        // SAFETY: replaces descriptors that only the daemon's code knows, none of which runs in this process.
        if unsafe { libc::dup3(source.as_raw_fd(), target, flags) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // Closed with all others.
    moved.into_iter().for_each(std::mem::forget);
    close_from(first + RawFd::try_from(N).map_err(io::Error::other)?);
    let mut target = first;
    Ok(kept.map(|_| {
        #[expect(unsafe_code, reason = "the descriptors were made above, by number")]
        // SAFETY: nothing else in this process owns it.
        let placed = unsafe { OwnedFd::from_raw_fd(target) };
        target += 1;
        placed
    }))
}

/// Closes all descriptors from `first` on.
fn close_from(first: RawFd) {
    #[expect(unsafe_code, reason = "closes descriptors that the daemon's values own, none of which is used again")]
    // SAFETY: no code of the daemon runs in this process, so nobody uses the closed descriptors.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) != 0 {
            for fd in first..RawFd::try_from(libc::sysconf(libc::_SC_OPEN_MAX)).unwrap_or(65_536) {
                libc::close(fd);
            }
        }
    }
}

fn block_signals() -> io::Result<libc::sigset_t> {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    #[expect(unsafe_code, reason = "rustix has no signal masks")]
    // SAFETY: `all` is initialised before it is read, `before` by the call that succeeded.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        match libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) {
            0 => Ok(before.assume_init()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

fn restore_signals(before: &libc::sigset_t) -> io::Result<()> {
    #[expect(unsafe_code, reason = "rustix has no signal masks")]
    // SAFETY: `before` is an initialised mask.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
