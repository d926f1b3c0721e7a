//! Rules about limits: they hold, and what they end is told.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "these functions are tests")]

use astraforge_core::session::{ByteSize, Command, Exit, Limit, Limits, SandboxSpec};

use super::Fixture;
use crate::driver::{DynSandboxDriver, Enforcement};

/// A command that the limit on memory ended says so; one that somebody killed does not. The sandbox goes on.
pub async fn a_command_without_memory_is_told_from_a_killed_one(driver: DynSandboxDriver) {
    if driver.capabilities().memory != Enforcement::Hard {
        eprintln!("skipped: this driver cannot limit memory here");
        return;
    }
    let limits = Limits { memory: Limit::required(ByteSize::mib(64)), ..Limits::default() };
    let sandbox = Fixture::with(driver.clone(), SandboxSpec::default().with_limits(limits), Vec::new()).await;
    if driver.oom_kills(sandbox.session.id()).await.is_none() {
        eprintln!("skipped: this driver cannot tell what was killed for want of memory");
        return sandbox.end().await;
    }
    // It waits for the end of a line that never comes, and keeps what it read.
    let greedy = "head -c 400000000 /dev/zero | tail -n 1 > /dev/null";
    assert_eq!(sandbox.shell("kill -9 $$").await.exit, Exit::Signaled { signal: 9 });
    assert_eq!(sandbox.shell(greedy).await.exit, Exit::OutOfMemory);
    assert_eq!(sandbox.run(Command::new(["tail", "-n", "1", "/dev/zero"])).await.exit, Exit::OutOfMemory);
    assert_eq!(sandbox.shell("kill -9 $$").await.exit, Exit::Signaled { signal: 9 });
    assert_eq!(sandbox.shell("exit 137").await.exit, Exit::Exited { code: 137 });
    sandbox.end().await;
}
