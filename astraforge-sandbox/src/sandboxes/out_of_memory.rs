//! Tells a command that used up its sandbox's memory from one that somebody killed.

use std::sync::Arc;

use astraforge_core::{
    id::SandboxId,
    ports::sessions::{Execution, SessionError},
    session::{ExecEvent, Exit},
};
use futures::StreamExt;

use crate::{
    driver::DynSandboxDriver,
    oom::{self, Told},
};

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
        let now =
            if oom::is_kill(exit) || exit == Exit::OutOfMemory { self.count().await.unwrap_or(before) } else { before };
        self.told.explain(exit, before, now)
    }
}
