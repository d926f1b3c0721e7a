//! System calls as an attacker makes them: by number, with any arguments.
#![expect(unsafe_code, reason = "an attacker does not go through a safe wrapper")]

use std::{fmt, io};

use libc::c_long;

/// What the kernel answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl Errno {
    /// Whether the call was refused, rather than let through and found wrong.
    pub(crate) fn is_refusal(self) -> bool {
        [libc::EPERM, libc::EACCES, libc::ENOSYS].contains(&self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

/// Makes system call `number`.
pub(crate) fn call(number: c_long, args: [c_long; 6]) -> Result<c_long, Errno> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: none is promised. Calls that change memory are given memory that is theirs; others are tried in a process
    // that may be lost.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 { Err(last()) } else { Ok(result) }
}

/// Makes a call whose arguments are the first ones given.
pub(crate) fn call_with(number: c_long, args: &[c_long]) -> Result<c_long, Errno> {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    call(number, all)
}

/// The error of the last call.
pub(crate) fn last() -> Errno {
    Errno(io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// The address of something, as an argument.
pub(crate) fn address<T: ?Sized>(of: &T) -> c_long {
    (&raw const *of).cast::<u8>() as c_long
}

/// The address of something that the kernel writes to, as an argument.
pub(crate) fn place<T: ?Sized>(of: &mut T) -> c_long {
    (&raw mut *of).cast::<u8>() as c_long
}

/// Starts a process that runs `child` and ends; returns its id.
pub(crate) fn fork(child: impl FnOnce()) -> Result<i32, Errno> {
    // SAFETY: this program has one thread when it forks, or its child does nothing but make system calls.
    match unsafe { libc::fork() } {
        -1 => Err(last()),
        0 => {
            child();
            exit(0)
        }
        pid => Ok(pid),
    }
}

/// Ends this process at once.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// Waits for signals, for ever.
pub(crate) fn pause() -> ! {
    loop {
        // SAFETY: waits.
        unsafe { libc::pause() };
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Exited(i32),
    Signaled(i32),
}

/// Waits for a child; `None` when there is none.
pub(crate) fn wait(pid: i32) -> Option<End> {
    let mut status = 0;
    loop {
        // SAFETY: the kernel writes one number to the address that it is given.
        let found = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        if found == -1 && last().0 == libc::EINTR {
            continue;
        }
        return (found > 0).then(|| {
            if libc::WIFSIGNALED(status) {
                End::Signaled(libc::WTERMSIG(status))
            } else {
                End::Exited(libc::WEXITSTATUS(status))
            }
        });
    }
}

/// Ignores every signal that can be ignored.
pub(crate) fn ignore_signals() {
    for signal in 1..=64 {
        // SAFETY: changes what this process does about a signal.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Has a signal do what it does by itself; the language's own start has changed that for some.
pub(crate) fn heed(signal: i32) {
    // SAFETY: changes what this process does about a signal.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Ends this process when `seconds` have passed.
pub(crate) fn alarm(seconds: u32) {
    // SAFETY: sets a timer of this process.
    unsafe { libc::alarm(seconds) };
}

/// Sends a signal, by number.
pub(crate) fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    call_with(libc::SYS_kill, &[pid.into(), signal.into()]).map(drop)
}

/// Asks for the process id the way 32-bit programs do.
#[cfg(target_arch = "x86_64")]
pub(crate) fn old_getpid() -> i64 {
    let mut value: i64 = 20;
    // SAFETY: changes nothing but the named register.
    unsafe { std::arch::asm!("int 0x80", inout("rax") value, options(nostack)) };
    value
}

/// Memory of this process alone, or with a descriptor behind it; `None` when there is none to have.
pub(crate) fn map(n_bytes: usize, flags: i32, descriptor: i32) -> Option<&'static mut [u8]> {
    // SAFETY: asks for memory at no address in particular.
    let start =
        unsafe { libc::mmap(std::ptr::null_mut(), n_bytes, libc::PROT_READ | libc::PROT_WRITE, flags, descriptor, 0) };
    // SAFETY: the kernel just gave these bytes to this process, and nobody else here has them.
    (start != libc::MAP_FAILED).then(|| unsafe { std::slice::from_raw_parts_mut(start.cast(), n_bytes) })
}

/// Writes to every page, so that it is really there.
pub(crate) fn touch(memory: &mut [u8]) {
    for page in memory.chunks_mut(4096) {
        // SAFETY: the byte is in the slice.
        unsafe { std::ptr::write_volatile(page.as_mut_ptr(), 1) };
    }
}

/// Attaches a System V segment; `None` when it cannot be had.
pub(crate) fn attach_segment(id: i32, n_bytes: usize) -> Option<&'static mut [u8]> {
    // SAFETY: attaches at no address in particular.
    let start = unsafe { libc::shmat(id, std::ptr::null(), 0) };
    // SAFETY: the kernel just attached so many bytes, and nobody else here has them.
    (start.addr() != usize::MAX).then(|| unsafe { std::slice::from_raw_parts_mut(start.cast(), n_bytes) })
}
