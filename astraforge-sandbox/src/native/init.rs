//! The sandbox's first process: shuts itself in, step by step, and becomes the guest daemon.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::Mode,
    process::Signal,
    thread::UnshareFlags,
};
use seccompiler::BpfProgram;

use super::{
    confine,
    launch_spec::{AtStep, Failure, LaunchSpec, Payload, Report},
    namespaces, posture,
    rootfs::Sources,
    seccomp,
};
use crate::guest;

/// What the launcher prepared while it still was a process of the host.
pub(super) struct Prepared<'a> {
    pub(super) spec: &'a LaunchSpec,
    pub(super) filters: [BpfProgram; 2],
    /// The name spaces that must be left behind.
    pub(super) host: Vec<String>,
    pub(super) listener: UnixListener,
    /// The workspace, where it is a file system of its own; mounted nowhere yet.
    pub(super) disk: Option<OwnedFd>,
    /// To the launcher, which holds the other end as long as it lives.
    pub(super) launcher: UnixStream,
}

/// Runs the sandbox to its end. The caller is its first process and has done nothing yet.
pub(super) fn run(prepared: Prepared<'_>) -> ! {
    let Prepared { spec, filters, host, listener, disk, mut launcher } = prepared;
    let closed = wait_for_release(&mut launcher)
        .and_then(|()| close_in(spec, disk, &filters, &host, [listener.as_raw_fd(), launcher.as_raw_fd()]))
        .and_then(|()| tie_to(&launcher));
    let failed = closed.is_err();
    let report = closed.map_or_else(Report::Failed, |()| Report::Ready);
    let told = serde_json::to_vec(&report).is_ok_and(|line| launcher.write_all(&line).is_ok());
    if failed || !told {
        exit(1);
    }
    drop(launcher);
    match &spec.payload {
        Payload::Trial => exit(0),
        Payload::Daemon(config) => exit(guest::daemon::run(listener, config.clone()).is_err().into()),
        Payload::Spare => exit(guest::daemon::run_spare(listener).is_err().into()),
    }
}

/// Waits until the ids are mapped; the launcher's death ends the wait as well.
fn wait_for_release(launcher: &mut UnixStream) -> Result<(), Failure> {
    launcher.read_exact(&mut [0]).at("wait for the launcher")
}

/// Shuts this process in. Each step may need what a later one takes away.
fn close_in(
    spec: &LaunchSpec,
    disk: Option<OwnedFd>,
    filters: &[BpfProgram],
    host: &[String],
    kept: [RawFd; 2],
) -> Result<(), Failure> {
    rustix::process::umask(Mode::empty());
    for cgroup in &spec.cgroups {
        cgroup.enter().at(format_args!("enter {}", cgroup.folder.display()))?;
    }
    // Only now, so that the sandbox's own control group is the root of what it sees.
    namespaces::leave(UnshareFlags::NEWCGROUP).at("make a control group name space")?;
    let sources = Sources::open(spec, disk)?;
    confine::become_agent(spec.host_id.is_some())?;
    sources.into_root(spec)?;
    rustix::system::sethostname(b"sandbox").at("set the host name")?;
    loopback_up().at("bring up the loopback network")?;
    replace_descriptors(kept)?;
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    confine::limit(spec)?;
    confine::drop_capabilities()?;
    confine::landlock()?;
    seccomp::load(filters)?;
    posture::check(host)
}

/// Sets the flag that makes `lo` answer, as `ip link set lo up` would.
fn loopback_up() -> std::io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    #[expect(unsafe_code, reason = "rustix has no call for interface flags")]
    // SAFETY: all zeros is a valid ifreq; the name and the flags are written in bounds, and the kernel only reads the
    // struct, which outlives the call.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Points the standard streams at the sandbox's own `/dev/null` and closes everything else but `kept`.
fn replace_descriptors(mut kept: [RawFd; 2]) -> Result<(), Failure> {
    let step = "close inherited descriptors";
    let null = File::options().read(true).write(true).open("/dev/null").at(step)?;
    rustix::stdio::dup2_stdin(&null).at(step)?;
    rustix::stdio::dup2_stdout(&null).at(step)?;
    rustix::stdio::dup2_stderr(&null).at(step)?;
    drop(null);
    kept.sort_unstable();
    let [low, high] = kept.map(RawFd::cast_unsigned);
    for (first, last) in [(3, low - 1), (low + 1, high - 1), (high + 1, u32::MAX)] {
        if first <= last {
            close_range(first, last).at(step)?;
        }
    }
    Ok(())
}

fn close_range(first: u32, last: u32) -> std::io::Result<()> {
    #[expect(unsafe_code, reason = "rustix leaves closing what others may own to libc")]
    // SAFETY: of the descriptors in this process only the two that are spared have owners that will use or close them:
    // it never returns to the launcher's code.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Makes the launcher's death this process's own.
fn tie_to(launcher: &UnixStream) -> Result<(), Failure> {
    let step = "stay with the launcher";
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).at(step)?;
    // It may have died just before that call.
    let mut ends = [PollFd::new(launcher, PollFlags::RDHUP)];
    match rustix::event::poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).at(step)? {
        0 => Ok(()),
        _ => Err("it is gone").at(step),
    }
}

/// Ends this process without running what the launcher registered for its own end.
fn exit(code: i32) -> ! {
    #[expect(unsafe_code, reason = "std's exit runs handlers that belong to the launcher")]
    // SAFETY: the process ends here; nothing of it is observed afterwards.
    unsafe {
        libc::_exit(code)
    }
}
