//! Every system call by its number, with arguments that mean nothing, each in a process of its own.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use libc::c_long;

use crate::{
    Attack, say,
    sys::{self, call},
};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[("every-call", every_call)];

/// One past the largest number that is tried.
const NUMBERS: c_long = 512;

/// How long a call may take; those that wait are answered so.
const PATIENCE: Duration = Duration::from_millis(300);

/// Not tried: `vfork` shares the stack, and `sync` waits for the whole machine.
const LEFT_OUT: [c_long; 2] = [58, 162];

/// Says of each number how it was answered: an error's number, `ok`, `wait` or `killed`.
fn every_call(args: &[String]) {
    let beyond = if args.first().is_some_and(|it| it == "x32") { 0x4000_0000 } else { 0 };
    for number in (0..NUMBERS).filter(|it| !cfg!(target_arch = "x86_64") || !LEFT_OUT.contains(it)) {
        say::note(&number.to_string(), answer(number | beyond));
    }
}

fn answer(number: c_long) -> String {
    let Ok((mut ours, mut theirs)) = UnixStream::pair() else { return "trouble".to_owned() };
    let _ = ours.set_read_timeout(Some(PATIENCE));
    let started = sys::fork(|| {
        let own = std::process::id();
        let result = call(number, [-1; 6]);
        // A call may have made a second process; one answer is enough.
        if std::process::id() == own {
            let text = result.map_or_else(|error| error.0.to_string(), |_| "ok".to_owned());
            let _ = theirs.write_all(text.as_bytes());
        }
    });
    drop(theirs);
    let Ok(pid) = started else { return "trouble".to_owned() };
    let mut text = String::new();
    let heard = ours.read_to_string(&mut text);
    let _ = sys::kill(pid, libc::SIGKILL);
    sys::wait(pid);
    match heard {
        Ok(0) => "killed".to_owned(),
        Ok(_) => text,
        Err(_) => "wait".to_owned(),
    }
}
