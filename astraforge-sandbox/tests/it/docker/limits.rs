//! Limits, and what is used of them.

use std::time::Duration;

use astraforge_core::{
    id::SandboxId,
    session::{ByteSize, Command, Exit, Limit, Limits, SandboxSpec, Workspace},
};
use astraforge_sandbox::driver::{DriverError, Enforcement, SandboxDriver};

use super::{Fixture, Tidy, config, engine};

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_given_to_the_engine_and_swap_adds_nothing() {
    let Some(config) = config() else { return };
    let limits = Limits {
        memory: Limit::required(ByteSize::mib(64)),
        processes: Limit::required(40),
        cpu_millis: Some(Limit::required(500)),
        ..Limits::default()
    };
    let sandbox = Fixture::new(config, SandboxSpec::default().with_limits(limits)).await;
    let container = engine().inspect_container(&format!("sandbox-{}", sandbox.session.id()), None).await.unwrap();
    let host = container.host_config.unwrap();
    assert_eq!((host.memory, host.memory_swap), (Some(64 << 20), Some(64 << 20)));
    assert_eq!((host.pids_limit, host.nano_cpus), (Some(40), Some(500_000_000)));
    let hungry = sandbox.shell("head -c 200000000 /dev/zero | tail; echo $?").await;
    assert!(hungry.contains("137") || hungry.contains("Killed"), "{hungry}");
    assert_eq!(sandbox.run(Command::new(["tail", "/dev/zero"])).await.exit, Exit::OutOfMemory);
    assert_eq!(sandbox.run(Command::shell("kill -9 $$")).await.exit, Exit::Signaled { signal: 9 }, "that was no want");
    assert_eq!(sandbox.shell("echo on").await, "on");
    sandbox.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_limit_on_disk_is_refused_and_a_soft_one_told() {
    let Some(config) = config() else { return };
    let driver = Tidy::new(config).await;
    assert_eq!(driver.capabilities().disk, Enforcement::Soft);
    let spec = SandboxSpec::default().with_workspace(Workspace::Disk { size: Limit::required(ByteSize::mib(1)) });
    let refused = driver.create(SandboxId::random(), &spec, &[]).await;
    assert!(matches!(refused, Err(DriverError::Unsupported { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sandbox_uses_is_measured() {
    let Some(config) = config() else { return };
    let driver = Tidy::new(config).await;
    let id = SandboxId::random();
    driver.create(id, &SandboxSpec::default(), &[]).await.unwrap();
    let usage = driver.usage(id).await.unwrap();
    assert!(usage.cpu > Some(Duration::ZERO), "{usage:?}");
    assert!(usage.memory > Some(ByteSize::bytes(0)), "{usage:?}");
    assert!(usage.processes >= Some(1), "{usage:?}");
    driver.destroy(id).await.unwrap();
    assert!(matches!(driver.usage(id).await, Err(DriverError::NotFound { .. })));
}
