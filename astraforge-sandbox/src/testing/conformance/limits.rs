//! Rules about limits: they hold, and what they end is told.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "these functions are tests")]

use astraforge_core::{
    id::SandboxId,
    ports::sessions::{SessionError, Sessions},
    session::{ByteSize, Command, Exit, Limit, Limits, SandboxSpec, Workspace},
};

use super::Fixture;
use crate::{
    driver::{DynSandboxDriver, Enforcement},
    sandboxes::Sandboxes,
};

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

/// A required limit on a workspace on disk ends what goes beyond it and nothing else, or the sandbox is refused.
pub async fn a_required_limit_on_disk_holds_or_is_refused(driver: DynSandboxDriver) {
    let size = Limit::required(ByteSize::mib(32));
    let spec = SandboxSpec::default().with_workspace(Workspace::Disk { size });
    if driver.capabilities().disk != Enforcement::Hard {
        let sandboxes = Sandboxes::new(driver);
        let refused = sandboxes.create(SandboxId::random(), spec, Vec::new()).await;
        assert!(matches!(refused, Err(SessionError::Unsupported { .. })), "{refused:?}");
        return assert_eq!(sandboxes.list().await.unwrap(), []);
    }
    let sandbox = Fixture::with(driver, spec, Vec::new()).await;
    assert!(sandbox.shell("head -c 20000000 /dev/zero > /workspace/fits").await.exit.success());
    let output = sandbox.shell("head -c 40000000 /dev/zero > /workspace/more").await;
    assert!(!output.exit.success(), "a file went beyond the limit: {output:?}");
    assert!(sandbox.shell("rm /workspace/*; echo again > /workspace/small; echo 1 > /tmp/other").await.exit.success());
    sandbox.end().await;
}

/// An image that is not there is refused by its name, and leaves nothing.
pub async fn an_image_that_is_not_there_is_refused_by_name(driver: DynSandboxDriver) {
    let sandboxes = Sandboxes::new(driver);
    let spec = SandboxSpec::default().with_image("/nowhere/at/all".parse().unwrap());
    match sandboxes.create(SandboxId::random(), spec, Vec::new()).await {
        Err(SessionError::Unsupported { reason, .. }) => assert!(reason.contains("/nowhere/at/all"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(sandboxes.list().await.unwrap(), []);
}

/// What a sandbox uses is told: time of programs that have ended, memory where it is limited, files, processes.
pub async fn what_a_sandbox_uses_is_told(driver: DynSandboxDriver) {
    let limits_memory = driver.capabilities().memory == Enforcement::Hard;
    let sandbox = Fixture::new(driver).await;
    let spent = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
    assert!(sandbox.shell(spent).await.exit.success());
    let has_workspace = sandbox.shell("head -c 3000000 /dev/zero > /workspace/zeros").await.exit.success();
    let usage = sandbox.machine().await.usage().await.unwrap();
    assert!(usage.cpu.is_some_and(|it| it.as_millis() > 10), "{usage:?}");
    assert!(usage.processes.is_some_and(|it| it > 0), "{usage:?}");
    if limits_memory {
        assert!(usage.memory.is_some_and(|it| it > ByteSize::bytes(100_000)), "{usage:?}");
    }
    if has_workspace {
        assert!(usage.disk.is_some_and(|it| (ByteSize::mib(2)..ByteSize::mib(8)).contains(&it)), "{usage:?}");
    }
    sandbox.end().await;
}
