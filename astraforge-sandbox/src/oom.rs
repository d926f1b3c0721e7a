//! What the kernel has killed for want of memory, and which command it was.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use astraforge_core::session::Exit;

/// What counts kills in a control group, of version 2 and version 1.
pub(crate) const COUNTERS: [&str; 2] = ["memory.events", "memory.oom_control"];

/// Reads one of the counters.
pub(crate) fn read(file: &Path) -> Option<u64> {
    parse(&fs::read_to_string(file).ok()?)
}

fn parse(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// How many of the kernel's kills commands were told of.
#[derive(Debug, Default)]
pub(crate) struct Told(AtomicU64);

impl Told {
    /// Says how a command really ended that saw the count go from `before` to `now`.
    pub(crate) fn explain(&self, exit: Exit, before: u64, now: u64) -> Exit {
        if !is_kill(exit) && exit != Exit::OutOfMemory {
            return exit;
        }
        let one_more = |told: u64| Some(told.max(before)).filter(|told| now > *told).map(|told| told + 1);
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Exit::OutOfMemory,
            Err(_) => exit,
        }
    }
}

/// Tells whether a command ended as one does that was killed, or whose shell saw its program killed.
pub(crate) fn is_kill(exit: Exit) -> bool {
    matches!(exit, Exit::Signaled { signal: libc::SIGKILL } | Exit::Exited { code: KILLED })
}

/// How a shell ends whose program was killed.
const KILLED: i32 = 128 + libc::SIGKILL;

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: Exit = Exit::Signaled { signal: libc::SIGKILL };
    const SHELL: Exit = Exit::Exited { code: 137 };

    #[track_caller]
    fn check(told: &Told, exit: Exit, before: u64, now: u64, expected: Exit) {
        assert_eq!(told.explain(exit, before, now), expected);
    }

    #[test]
    fn each_kill_for_want_of_memory_is_told_to_one_command() {
        let told = Told::default();
        check(&told, KILL, 0, 0, KILL);
        check(&told, Exit::TimedOut, 0, 2, Exit::TimedOut);
        check(&told, Exit::Exited { code: 1 }, 0, 2, Exit::Exited { code: 1 });
        check(&told, KILL, 2, 2, KILL);
        check(&told, SHELL, 2, 4, Exit::OutOfMemory);
        check(&told, KILL, 2, 4, Exit::OutOfMemory);
        check(&told, KILL, 2, 4, KILL);
    }

    #[test]
    fn kills_are_read_from_either_version() {
        assert_eq!(parse("low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n"), Some(3));
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"), Some(4));
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
