//! Tells a command that used up its sandbox's memory from one that somebody killed.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use astraforge_core::{
    id::SandboxId,
    ports::sessions::{Execution, SessionError},
    session::{ExecEvent, Exit},
};
use futures::StreamExt;

use crate::driver::DynSandboxDriver;

/// What the kernel has killed in one sandbox for want of memory, and how much of it commands were told.
///
/// The kernel counts and names nobody. So a command was killed for want of memory when it, or a shell for a program of
/// it, ended as a killed one does, and the count has grown since it started by more than others were told of.
#[derive(Debug)]
pub(super) struct Kills {
    id: SandboxId,
    driver: DynSandboxDriver,
    told: Told,
}

impl Kills {
    pub(super) fn new(id: SandboxId, driver: DynSandboxDriver) -> Self {
        Self { id, driver, told: Told::default() }
    }

    /// Has an execution say when it ended for want of memory.
    pub(super) async fn watch(
        self: &Arc<Self>,
        starting: impl Future<Output = Result<Execution, SessionError>>,
    ) -> Result<Execution, SessionError> {
        // Counted before anything is sent: polled first, and drivers answer at once.
        let (before, started) = futures::join!(self.count(), starting);
        let execution = started?;
        let Some(before) = before else { return Ok(execution) };
        let Execution { events, control } = execution;
        let kills = Arc::clone(self);
        let events = events.then(move |event| {
            let kills = Arc::clone(&kills);
            async move {
                match event {
                    Ok(ExecEvent::Exited(exit)) => Ok(ExecEvent::Exited(kills.explain(exit, before).await)),
                    event => event,
                }
            }
        });
        Ok(Execution { events: events.boxed(), control })
    }

    async fn count(&self) -> Option<u64> {
        self.driver.oom_kills(self.id).await
    }

    async fn explain(&self, exit: Exit, before: u64) -> Exit {
        let now = if is_kill(exit) { self.count().await.unwrap_or(before) } else { before };
        self.told.explain(exit, before, now)
    }
}

/// How many of the kernel's kills commands were told of.
#[derive(Debug, Default)]
struct Told(AtomicU64);

impl Told {
    /// Says how a command really ended that saw the count go from `before` to `now`.
    fn explain(&self, exit: Exit, before: u64, now: u64) -> Exit {
        if !is_kill(exit) {
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
fn is_kill(exit: Exit) -> bool {
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
}
