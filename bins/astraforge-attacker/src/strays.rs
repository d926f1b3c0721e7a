//! Processes that want to outlive their command, or to be in the way of its end.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use crate::{
    Attack, say,
    sys::{self, call_with},
};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("stray", stray),
    ("zombies", zombies),
    ("signal-all", signal_all),
    ("signal-pid", signal_pid),
    ("kill-init", kill_init),
    ("exit-with", exit_with),
    ("die-by", die_by),
];

/// Leaves processes that have left their session, are deaf to signals and hold on in every way, then does as it is told.
///
/// Argument: what comes then, `exit` (with code 7) or `stay`.
fn stray(args: &[String]) {
    let Ok((mut ours, mut theirs)) = UnixStream::pair() else { return say::open("no socket pair") };
    for kind in ["deaf", "closed", "holding", "stopped"] {
        let _ = sys::fork(|| {
            let _ = call_with(libc::SYS_setsid, &[]);
            let _ = sys::fork(|| {
                sys::ignore_signals();
                let _ = call_with(libc::SYS_setsid, &[]);
                let _ = call_with(libc::SYS_chdir, &[c"/".as_ptr() as i64]);
                let _ = theirs.write_all(b"x");
                match kind {
                    "closed" => drop(call_with(libc::SYS_close_range, &[0, i64::from(u32::MAX), 0])),
                    "stopped" => drop(sys::kill(own_pid(), libc::SIGSTOP)),
                    _ => {}
                }
                sys::pause();
            });
            sys::exit(0);
        })
        .map(sys::wait);
    }
    let _ = ours.read_exact(&mut [0; 4]);
    say::ready();
    if args.first().is_some_and(|it| it == "exit") {
        say::end();
        sys::exit(7);
    }
    sys::pause();
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(0)
}

/// Leaves children that nobody waits for, and orphans that end at once.
///
/// Argument: how many of each.
fn zombies(args: &[String]) {
    let most: u32 = args.first().and_then(|it| it.parse().ok()).unwrap_or(100);
    let mut n_orphans = 0;
    for _ in 0..most {
        let made = sys::fork(|| {
            let _ = sys::fork(|| sys::exit(0));
            sys::exit(0);
        });
        n_orphans += u32::from(made.map(sys::wait).is_ok());
    }
    let n_zombies = (0..most).take_while(|_| sys::fork(|| sys::exit(0)).is_ok()).count();
    say::note("orphans", n_orphans);
    say::note("zombies", n_zombies);
    say::ready_and_stay();
}

/// Sends a signal to all that it may, the first process and its own parent included.
///
/// Argument: the number of the signal.
fn signal_all(args: &[String]) {
    let signal = args.first().and_then(|it| it.parse().ok()).unwrap_or(libc::SIGKILL);
    say::ready();
    let parent = i32::try_from(call_with(libc::SYS_getppid, &[]).unwrap_or(0)).unwrap_or(0);
    for pid in [1, parent, -1] {
        let _ = sys::kill(pid, signal);
    }
}

/// Signals processes by the numbers that they have outside.
fn signal_pid(args: &[String]) {
    for pid in args.iter().filter_map(|it| it.parse::<i32>().ok()) {
        for signal in [libc::SIGKILL, libc::SIGSTOP] {
            match sys::kill(pid, signal) {
                Ok(()) => say::note("signalled", pid),
                Err(error) => say::held(format_args!("{pid}: {error}")),
            }
        }
        if let Ok(handle) = call_with(libc::SYS_pidfd_open, &[pid.into(), 0]) {
            let _ = call_with(libc::SYS_pidfd_send_signal, &[handle, libc::SIGKILL.into(), 0, 0]);
            say::note("signalled", pid);
        }
    }
}

/// Does all that could end the first process.
fn kill_init(_: &[String]) {
    say::ready();
    for signal in (1..=64).chain([libc::SIGKILL]) {
        let _ = sys::kill(1, signal);
    }
    if let Ok(handle) = call_with(libc::SYS_pidfd_open, &[1, 0]) {
        let _ = call_with(libc::SYS_pidfd_send_signal, &[handle, libc::SIGKILL.into(), 0, 0]);
    }
    if let Ok(Some(_)) = sys::fork(|| {
        let _ = call_with(libc::SYS_ptrace, &[16, 1]);
    })
    .map(sys::wait)
    {
        say::held("the first process lives");
    }
}

fn exit_with(args: &[String]) {
    sys::exit(args.first().and_then(|it| it.parse().ok()).unwrap_or(0));
}

fn die_by(args: &[String]) {
    let signal = args.first().and_then(|it| it.parse().ok()).unwrap_or(libc::SIGKILL);
    sys::heed(signal);
    let _ = sys::kill(own_pid(), signal);
}
