//! A workspace on disk with a hard limit: it holds, it is kept as others are, and nothing of it is left on the host.

use std::{fs, path::Path, sync::Arc};

use astraforge_core::{
    id::SandboxId,
    ports::machines::WorkspaceOrigin,
    session::{ByteSize, Limit, SandboxSpec, Workspace},
};
use astraforge_sandbox::driver::{DriverError, Enforcement, SandboxDriver};

use super::{
    Fixture, Native,
    kept::{check_kept, kill, made, on_disk, run, wait_for_death},
};

fn limited(size: ByteSize) -> SandboxSpec {
    SandboxSpec::default().with_workspace(Workspace::Disk { size: Limit::required(size) })
}

/// A driver that can; `None` where none can, which is said.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn native() -> Option<Arc<Native>> {
    let native = Arc::new(Native::new());
    if native.capabilities().disk == Enforcement::Hard {
        return Some(native);
    }
    assert!(!super::is_root() || !Path::new("/dev/loop-control").exists(), "root with loop devices can");
    eprintln!("skipped: the limit on disk is not enforced here, and the driver says so");
    None
}

/// Neither a loop device nor a mount of the host knows the state folder.
#[track_caller]
fn assert_nothing_mounted(native: &Native) {
    let state = native.state.path().to_str().unwrap();
    let devices = fs::read_dir("/sys/block").unwrap().map(|it| it.unwrap().path().join("loop/backing_file"));
    let used: Vec<_> = devices.filter_map(|it| fs::read_to_string(it).ok()).filter(|it| it.contains(state)).collect();
    assert!(used.is_empty(), "{used:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("/dev/loop"), "{mounts}");
}

#[tokio::test]
async fn a_hard_limit_is_told_measured_and_takes_no_more_than_what_is_in_it() {
    let Some(native) = native() else { return };
    drop(native);
    let fixture = Fixture::with(limited(ByteSize::gib(1))).await;
    let file = fixture.footprint().folder.join("workspace.ext4");
    let on_host = || std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&file).unwrap()) * 512;
    assert!(on_host() < 64 << 20, "{} bytes for nothing", on_host());
    assert_eq!(fixture.shell("ls -A; stat -c '%U %a' .").await, "agent 755");
    fixture.shell("head -c 20000000 /dev/urandom > big; sync big").await;
    let used = fixture.native.usage(fixture.session.id()).await.unwrap().disk.unwrap().as_bytes();
    assert!((20_000_000..24_000_000).contains(&used), "{used}");
    assert_eq!(fixture.shell("mount | grep -c ' /workspace .*nosuid,nodev' || cat /proc/mounts").await, "1");
    fixture.shell("rm big").await;
    let native = Arc::clone(&fixture.native);
    fixture.end().await;
    assert_nothing_mounted(&native);
}

#[tokio::test]
async fn a_limited_workspace_outlives_whichever_of_its_processes_is_killed() {
    let Some(native) = native() else { return };
    for victim in ["init", "keeper"] {
        let (id, footprint) = made(&native, &limited(ByteSize::mib(16)), "echo mine > note").await;
        kill(if victim == "init" { footprint.init } else { footprint.keeper });
        check_kept(&native, id, &footprint, &limited(ByteSize::mib(16))).await;
        assert_nothing_mounted(&native);
    }
}

#[tokio::test]
async fn a_kept_workspace_is_not_taken_over_with_another_kind_of_limit() {
    let Some(native) = native() else { return };
    for (before, after) in [(limited(ByteSize::mib(16)), on_disk()), (on_disk(), limited(ByteSize::mib(16)))] {
        let (id, footprint) = made(&native, &before, "echo mine > note").await;
        kill(footprint.init);
        wait_for_death(&footprint).await;
        let refused = native.create(id, &after, &[]).await;
        assert!(matches!(refused, Err(DriverError::Backend { .. })), "{refused:?}");
        assert_eq!(native.create(id, &before, &[]).await.unwrap(), WorkspaceOrigin::Kept);
        assert_eq!(run(&native, id, "cat note").await, "mine\n");
        native.destroy(id).await.unwrap();
        footprint.assert_gone();
    }
}

#[tokio::test]
async fn a_size_that_no_file_system_has_is_refused() {
    let Some(native) = native() else { return };
    let refused = native.create(SandboxId::random(), &limited(ByteSize::mib(1)), &[]).await;
    assert!(matches!(refused, Err(DriverError::Unsupported { .. })), "{refused:?}");
}

#[tokio::test]
async fn many_limited_workspaces_live_at_once() {
    let Some(native) = native() else { return };
    let spec = limited(ByteSize::mib(8));
    let ids: Vec<_> = (0..12).map(|_| SandboxId::random()).collect();
    let made = futures::future::join_all(ids.iter().map(|id| native.create(*id, &spec, &[]))).await;
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    for id in ids {
        native.destroy(id).await.unwrap();
    }
    assert_nothing_mounted(&native);
}
