//! What only this driver promises: what its pods are from inside, and what becomes of those that cannot run.

use std::time::Duration;

use astraforge_core::{
    id::SandboxId,
    session::{ByteSize, Command, Limit, Limits, SandboxSpec, Workspace},
};
use astraforge_sandbox::{
    driver::{DriverError, SandboxDriver},
    kubernetes::{K8sConfig, KubernetesDriver},
};

use super::{Fixture, chain, config};

#[tokio::test]
async fn a_sandbox_has_no_right_it_does_not_need() {
    let sandbox = Fixture::new(config().await, SandboxSpec::default()).await;
    assert!(sandbox.shell("id -u").await.parse::<u64>().unwrap() >= 1 << 20, "a user of its own");
    assert_eq!(
        sandbox
            .shell("grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | grep -cv 0000000000000000 || true")
            .await,
        "0"
    );
    assert_eq!(sandbox.shell("grep -c '^NoNewPrivs:.1' /proc/self/status").await, "1");
    assert_eq!(sandbox.shell("grep -c '^Seccomp:.2' /proc/self/status").await, "1");
    assert_eq!(sandbox.shell("ls /var/run/secrets /run/secrets 2>/dev/null | wc -l").await, "0");
    assert_eq!(sandbox.shell("env | grep -c -E 'KUBERNETES|ASTRAFORGE' || true").await, "0");
    assert_eq!(sandbox.shell("touch /etc/x /bin/x /x /.astraforge/x 2>&1 | grep -c 'Read-only'").await, "4");
    sandbox.shell("touch /workspace/x /tmp/x \"$HOME/x\"").await;
    assert_eq!(
        sandbox.shell("cat /.astraforge/astraforge-guest 2>&1 >/dev/null | grep -c 'Permission denied'").await,
        "1"
    );
    sandbox.end().await;
}

#[tokio::test]
async fn a_workspace_may_lie_on_the_nodes_disk() {
    let disk = Workspace::Disk { size: Limit::best_effort(ByteSize::gib(1)) };
    let sandbox = Fixture::new(config().await, SandboxSpec::default().with_workspace(disk)).await;
    assert_eq!(sandbox.shell("grep -c ' /workspace tmpfs' /proc/mounts || true").await, "0");
    assert_eq!(sandbox.shell("grep -c ' /tmp tmpfs' /proc/mounts").await, "1");
    sandbox.end().await;
}

#[tokio::test]
async fn what_uses_up_the_memory_is_ended_and_the_sandbox_works_on() {
    let limits = Limits { memory: Limit::required(ByteSize::mib(96)), ..Limits::default() };
    let spec = SandboxSpec::default().with_limits(limits);
    let sandbox = Fixture::new(config().await, spec).await;
    let glutton = Command::new(["bash", "-c", "x=y; while :; do x=$x$x; done"]);
    let output = sandbox.session.exec(glutton).await.unwrap().collect(1 << 20).await.unwrap();
    assert_eq!(output.exit.code(), 137, "{}", output.exit);
    sandbox.shell("true").await;
    sandbox.end().await;
}

/// Asserts that no sandbox comes to be, with the reason, and that no pod is left.
async fn check_fails(config: K8sConfig, spec: SandboxSpec, expected: &str) {
    let driver = KubernetesDriver::connect(config).await.unwrap();
    let error = driver.create(SandboxId::random(), &spec, &[]).await.unwrap_err();
    assert!(matches!(error, DriverError::Backend { .. }), "{error:?}");
    assert!(chain(&error).contains(expected), "{}", chain(&error));
    assert_eq!(driver.list().await.unwrap(), []);
}

#[tokio::test]
async fn an_image_that_is_nowhere_is_told() {
    let spec = SandboxSpec::default().with_image("astraforge/no-such-image:1".parse().unwrap());
    check_fails(config().await, spec, "check the image's name").await;
}

#[tokio::test]
async fn an_image_without_the_guest_is_told() {
    let config = config().await;
    let image = config.image.to_string();
    check_fails(config.with_guest_image(image), SandboxSpec::default(), "container `guest`").await;
}

#[tokio::test]
async fn a_runtime_class_that_the_cluster_lacks_is_told() {
    check_fails(config().await.with_runtime_class("no-such-class"), SandboxSpec::default(), "a runtime class").await;
}

#[tokio::test]
async fn a_sandbox_that_no_node_has_room_for_is_told() {
    let limits = Limits { memory: Limit::required(ByteSize::gib(1 << 20)), ..Limits::default() };
    let config = config().await.with_schedule_timeout(Duration::from_secs(2));
    check_fails(config, SandboxSpec::default().with_limits(limits), "no node has room for it").await;
}
