//! A workspace on disk outlives a sandbox that died by itself, and nothing else does.

use std::{fs, sync::Arc, time::Duration};

use astraforge_core::{
    id::SandboxId,
    ports::machines::WorkspaceOrigin,
    session::{ByteSize, Command, Limit, SandboxSpec, Workspace},
};
use astraforge_sandbox::{
    driver::{DriverError, DynSandboxDriver, SandboxDriver},
    native::NativeDriver,
    sandboxes::Sandboxes,
};
use rustix::process::{Pid, Signal, kill_process};

use super::{Footprint, Native, PATIENCE, config};

pub(super) fn on_disk() -> SandboxSpec {
    SandboxSpec::default().with_workspace(Workspace::Disk { size: Limit::best_effort(ByteSize::mib(64)) })
}

/// A sandbox on disk in which `line` ran.
pub(super) async fn made(native: &Arc<Native>, spec: &SandboxSpec, line: &str) -> (SandboxId, Footprint) {
    let id = SandboxId::random();
    assert_eq!(native.create(id, spec, &[]).await.unwrap(), WorkspaceOrigin::Fresh);
    run(native, id, line).await;
    (id, Footprint::of(&native.state.path().join(id.to_string())))
}

pub(super) async fn run(native: &Arc<Native>, id: SandboxId, line: &str) -> String {
    let sandboxes = Sandboxes::new(Arc::clone(native) as DynSandboxDriver);
    let session = sandboxes.attach(id, Vec::new()).await.unwrap();
    let output = session.exec(Command::shell(line)).await.unwrap().collect(1 << 16).await.unwrap();
    assert!(output.exit.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub(super) fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Waits until neither launcher nor first process is left.
pub(super) async fn wait_for_death(footprint: &Footprint) {
    let wait = async {
        while super::alive(footprint.keeper) || super::alive(footprint.init) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the sandbox dies");
}

/// The rest of every story: the workspace is told of, taken over with all that is in it, and removed in the end.
pub(super) async fn check_kept(native: &Arc<Native>, id: SandboxId, footprint: &Footprint, spec: &SandboxSpec) {
    wait_for_death(footprint).await;
    assert_eq!(native.left().await.unwrap(), [id]);
    assert_eq!(native.list().await.unwrap(), [], "what is kept is not live");
    assert!(matches!(native.connect(id).await, Err(DriverError::NotFound { .. })));
    assert!(matches!(native.usage(id).await, Err(DriverError::NotFound { .. })));
    assert_eq!(native.create(id, spec, &[]).await.unwrap(), WorkspaceOrigin::Kept);
    assert_eq!(native.list().await.unwrap(), [id]);
    assert_eq!(native.left().await.unwrap(), []);
    assert_eq!(run(native, id, "cat note && echo more >> note && ls -ld note | cut -d' ' -f3").await, "mine\nagent\n");
    native.destroy(id).await.unwrap();
    footprint.assert_gone();
    assert_eq!(native.create(id, spec, &[]).await.unwrap(), WorkspaceOrigin::Fresh);
    assert_eq!(run(native, id, "ls").await, "");
    native.destroy(id).await.unwrap();
}

#[tokio::test]
async fn a_workspace_outlives_the_first_process() {
    let native = Arc::new(Native::new());
    let (id, footprint) = made(&native, &on_disk(), "echo mine > note").await;
    kill(footprint.init);
    check_kept(&native, id, &footprint, &on_disk()).await;
}

#[tokio::test]
async fn a_workspace_outlives_the_launcher() {
    let native = Arc::new(Native::new());
    let (id, footprint) = made(&native, &on_disk(), "echo mine > note").await;
    kill(footprint.keeper);
    check_kept(&native, id, &footprint, &on_disk()).await;
}

#[tokio::test]
async fn a_workspace_outlives_the_wait_for_a_server() {
    let native = Arc::new(Native::new());
    let spec = on_disk().with_orphan_timeout(Duration::from_millis(500));
    let (id, footprint) = made(&native, &spec, "echo mine > note").await;
    check_kept(&native, id, &footprint, &on_disk()).await;
}

#[tokio::test]
async fn a_workspace_that_its_agent_closed_is_open_to_the_next() {
    let native = Arc::new(Native::new());
    let (id, footprint) = made(&native, &on_disk(), "echo mine > note; chmod 0 .").await;
    kill(footprint.init);
    check_kept(&native, id, &footprint, &on_disk()).await;
}

#[tokio::test]
async fn the_next_server_keeps_workspaces_and_removes_what_was_in_memory() {
    let native = Arc::new(Native::new());
    let (id, footprint) = made(&native, &on_disk(), "echo mine > note").await;
    let (_, in_memory) = made(&native, &SandboxSpec::default(), "true").await;
    kill(footprint.keeper);
    kill(in_memory.keeper);
    wait_for_death(&footprint).await;
    wait_for_death(&in_memory).await;
    drop(NativeDriver::new(config(native.state.path())).unwrap());
    in_memory.assert_gone();
    assert!(footprint.cgroups.iter().all(|it| !it.exists()), "{footprint:?}");
    check_kept(&native, id, &footprint, &on_disk()).await;
}

/// As after a restart of the machine: the record speaks of processes of an earlier boot.
#[tokio::test]
async fn a_workspace_outlives_the_machine() {
    let native = Arc::new(Native::new());
    let (id, footprint) = made(&native, &on_disk(), "echo mine > note").await;
    let record = footprint.folder.join("record.json");
    let mut earlier: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    earlier["boot"] = "an earlier one".into();
    kill(footprint.keeper);
    wait_for_death(&footprint).await;
    fs::write(&record, earlier.to_string()).unwrap();
    for cgroup in &footprint.cgroups {
        fs::remove_dir(cgroup).unwrap();
    }
    drop(NativeDriver::new(config(native.state.path())).unwrap());
    assert!(!record.exists());
    check_kept(&native, id, &footprint, &on_disk()).await;
}

#[tokio::test]
async fn a_kept_workspace_survives_a_creation_that_fails_and_one_in_memory() {
    let native = Arc::new(Native::new());
    let (id, footprint) = made(&native, &on_disk(), "echo mine > note").await;
    kill(footprint.init);
    wait_for_death(&footprint).await;
    let broken = on_disk().with_folder("/nowhere/at/all", "/opt/x");
    assert!(matches!(native.create(id, &broken, &[]).await, Err(DriverError::Backend { .. })));
    assert_eq!(native.create(id, &SandboxSpec::default(), &[]).await.unwrap(), WorkspaceOrigin::Fresh);
    let second = Footprint::of(&footprint.folder);
    assert_eq!(run(&native, id, "ls").await, "");
    kill(second.init);
    wait_for_death(&second).await;
    check_kept(&native, id, &footprint, &on_disk()).await;
}

#[tokio::test]
async fn a_first_creation_that_fails_keeps_nothing() {
    let native = Arc::new(Native::new());
    let id = SandboxId::random();
    let broken = on_disk().with_folder("/nowhere/at/all", "/opt/x");
    assert!(matches!(native.create(id, &broken, &[]).await, Err(DriverError::Backend { .. })));
    assert!(!native.state.path().join(id.to_string()).exists());
}

#[tokio::test]
async fn a_kept_workspace_is_removed_without_being_used_again() {
    let native = Arc::new(Native::new());
    let (id, footprint) = made(&native, &on_disk(), "echo mine > note").await;
    kill(footprint.init);
    wait_for_death(&footprint).await;
    native.destroy(id).await.unwrap();
    footprint.assert_gone();
}

/// One taker gets the workspace, however many try; a failure among them takes nothing from the one that succeeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_workspace_has_one_heir() {
    let native = Arc::new(Native::new());
    for _ in 0..5 {
        let (id, footprint) = made(&native, &on_disk(), "echo mine > note").await;
        kill(footprint.init);
        wait_for_death(&footprint).await;
        let broken = || on_disk().with_folder("/nowhere/at/all", "/opt/x");
        let tries: Vec<_> = (0..8)
            .map(|i| {
                let native = Arc::clone(&native);
                let spec = if i % 2 == 0 { on_disk() } else { broken() };
                tokio::spawn(async move { native.create(id, &spec, &[]).await })
            })
            .collect();
        let mut n_made = 0;
        for it in tries {
            match it.await.unwrap() {
                Ok(origin) => {
                    assert_eq!(origin, WorkspaceOrigin::Kept);
                    n_made += 1;
                }
                Err(DriverError::AlreadyExists { .. } | DriverError::Backend { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        assert!(n_made <= 1, "{n_made} sandboxes share a workspace");
        if n_made == 0 {
            assert_eq!(native.create(id, &on_disk(), &[]).await.unwrap(), WorkspaceOrigin::Kept);
        }
        assert_eq!(run(&native, id, "cat note").await, "mine\n");
        native.destroy(id).await.unwrap();
    }
}
