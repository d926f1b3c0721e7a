//! Limits, priorities and time that a process may try to get more of.
#![expect(unsafe_code, reason = "an attacker does not go through a safe wrapper")]

use std::{
    io::Write,
    os::{fd::AsRawFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use crate::{
    Attack, say,
    sys::{self, address, call_with, place},
};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("raise-limits", raise_limits),
    ("core-dump", core_dump),
    ("priority", priority),
    ("spin", spin),
    ("victim", victim),
    ("starve-init", starve_init),
    ("lock-pipe", lock_pipe),
];

const LIMITS: [(&str, i64); 16] = [
    ("cpu", 0),
    ("file size", 1),
    ("data", 2),
    ("stack", 3),
    ("core dumps", 4),
    ("resident", 5),
    ("processes", 6),
    ("open files", 7),
    ("locked memory", 8),
    ("address space", 9),
    ("locks", 10),
    ("waiting signals", 11),
    ("message queues", 12),
    ("niceness", 13),
    ("real-time priority", 14),
    ("real-time time", 15),
];

/// Asks for more of everything than the hard limit, both ways.
fn raise_limits(_: &[String]) {
    for (name, resource) in LIMITS {
        let mut now = [0_u64; 2];
        let _ = call_with(libc::SYS_prlimit64, &[0, resource, 0, place(&mut now)]);
        if now[1] == u64::MAX {
            continue;
        }
        let more = [now[1] + 1, now[1] + 1];
        let _ = call_with(libc::SYS_prlimit64, &[0, resource, address(&more), 0]);
        let _ = call_with(libc::SYS_setrlimit, &[resource, address(&[u64::MAX, u64::MAX])]);
        let mut then = [0_u64; 2];
        let _ = call_with(libc::SYS_prlimit64, &[0, resource, 0, place(&mut then)]);
        if then[1] > now[1] {
            say::open(format_args!("{name}: a hard limit of {} became {}", now[1], then[1]));
        } else {
            say::held(format_args!("{name}: {}", now[1]));
        }
    }
}

/// Makes itself fit for a dump in every way, crashes a child, and stays to be looked at.
fn core_dump(_: &[String]) {
    let crashed = sys::fork(|| {
        let _ = call_with(libc::SYS_setrlimit, &[4, address(&[u64::MAX, u64::MAX])]);
        let _ = call_with(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE.into(), 1]);
        // SAFETY: ends this process.
        unsafe { libc::abort() };
    });
    say::note("crash", format_args!("{:?}", crashed.map(sys::wait)));
    // A limit of one byte is what keeps the kernel from starting a host's program that takes dumps; none would not.
    let _ = call_with(libc::SYS_setrlimit, &[4, address(&[0_u64, 0])]);
    let _ = call_with(libc::SYS_prlimit64, &[0, 4, address(&[0_u64, 0]), 0]);
    say::ready_and_stay();
}

/// Asks to go before others.
fn priority(_: &[String]) {
    let scheduling = [50_i32];
    for (name, result) in [
        ("setpriority(-20)", call_with(libc::SYS_setpriority, &[0, 0, -20])),
        ("SCHED_FIFO", call_with(libc::SYS_sched_setscheduler, &[0, 1, address(&scheduling)])),
        ("SCHED_RR", call_with(libc::SYS_sched_setscheduler, &[0, 2, address(&scheduling)])),
        ("SCHED_DEADLINE", call_with(libc::SYS_sched_setattr, &[0, address(&deadline()), 0])),
        ("real-time input and output", call_with(libc::SYS_ioprio_set, &[1, 0, 1 << 13])),
    ] {
        match result {
            Ok(_) => say::open(format_args!("{name} succeeds")),
            Err(error) => say::held(format_args!("{name}: {error}")),
        }
    }
    say::ready_and_stay();
}

fn deadline() -> [u64; 7] {
    [48 | 6 << 32, 0, 0, 10_000_000, 20_000_000, 30_000_000, 0]
}

/// Uses every processor, bound to each, for some seconds, and says how much it got.
///
/// Arguments: seconds, threads a processor.
fn spin(args: &[String]) {
    let number = |it: usize| args.get(it).and_then(|it| it.parse::<u64>().ok()).unwrap_or(1);
    let n_processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let end = Instant::now() + Duration::from_secs(number(0));
    say::ready();
    let spinners: Vec<_> = (0..n_processors * number(1))
        .map(|it| {
            std::thread::spawn(move || {
                let set = [1_u64 << (it % n_processors.min(64)), 0];
                let _ = call_with(libc::SYS_sched_setaffinity, &[0, 16, address(&set)]);
                while Instant::now() < end {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    for spinner in spinners {
        let _ = spinner.join();
    }
    // SAFETY: a struct of zeros is one, and the kernel writes one to the address that it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let millis = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000
        + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
    say::note("millis", millis);
}

/// Asks to be spared when memory runs out.
fn victim(_: &[String]) {
    for score in ["-1000", "0"] {
        let written = std::fs::write("/proc/self/oom_score_adj", score);
        say::note("asked", format_args!("{score}: {written:?}"));
    }
    say::ready_and_stay();
}

/// Takes from the first process what one process of a user may take from another.
fn starve_init(_: &[String]) {
    for resource in [libc::RLIMIT_NOFILE, libc::RLIMIT_AS, libc::RLIMIT_STACK, libc::RLIMIT_NPROC, libc::RLIMIT_FSIZE] {
        let _ = call_with(libc::SYS_prlimit64, &[1, resource.into(), address(&[0_u64; 2]), 0]);
    }
    let _ = call_with(libc::SYS_setpriority, &[0, 1, 19]);
    let _ = call_with(libc::SYS_sched_setaffinity, &[1, 8, address(&[1_u64])]);
    let _ = std::fs::write("/proc/1/oom_score_adj", "1000");
    for signal in 1..=64 {
        let _ = sys::kill(1, signal);
    }
    say::ready_and_stay();
}

/// Keeps its output or its input locked: what moves between a pipe and a socket that stands still is moved with the
/// pipe's lock held.
fn lock_pipe(arguments: &[String]) {
    static FLOOD: [u8; 1 << 18] = [b'x'; 1 << 18];
    let Ok((mut socket, _peer)) = UnixStream::pair() else { return };
    let fd = i64::from(socket.as_raw_fd());
    if arguments.first().is_some_and(|it| it == "output") {
        // Of a large pipe some is unread yet when the lock is taken, so that somebody wants to read.
        let _ = call_with(libc::SYS_fcntl, &[1, libc::F_SETPIPE_SZ.into(), 1 << 20]);
        for _ in 0..16 {
            let _ = std::io::stdout().write_all(&FLOOD);
        }
        let _ = call_with(libc::SYS_splice, &[fd, 0, 1, 0, 100, 0]);
    } else {
        let _ = socket.set_nonblocking(true);
        while socket.write(&FLOOD).is_ok() {}
        let _ = socket.set_nonblocking(false);
        let _ = call_with(libc::SYS_splice, &[0, 0, fd, 0, 1 << 20, 0]);
    }
}
