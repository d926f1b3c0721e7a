//! What a sandbox uses, measured from the host.

use std::time::Duration;

use astraforge_core::session::{ByteSize, Command, Limit, SandboxSpec, Workspace};
use astraforge_sandbox::driver::{Enforcement, SandboxDriver};

use super::Fixture;

#[tokio::test]
async fn processes_their_time_memory_and_files_are_measured() {
    let disk = Workspace::Disk { size: Limit::best_effort(ByteSize::mib(64)) };
    let fixture = Fixture::with(SandboxSpec::default().with_workspace(disk)).await;
    let id = fixture.session.id();
    let before = fixture.native.usage(id).await.unwrap();
    let sleepers =
        fixture.session.exec(Command::shell("for i in 1 2 3; do sleep 60 & done; echo; wait")).await.unwrap();
    fixture.shell("timeout 1 sh -c 'while :; do :; done'; head -c 5000000 /dev/zero > file").await;
    let after = fixture.native.usage(id).await.unwrap();
    drop(sleepers);
    assert!(after.processes.unwrap() >= before.processes.unwrap() + 3, "{before:?} {after:?}");
    assert!(after.cpu.unwrap() > before.cpu.unwrap() + Duration::from_millis(20), "{before:?} {after:?}");
    let grown = after.disk.unwrap().as_bytes() - before.disk.unwrap().as_bytes();
    assert!((5_000_000..6_000_000).contains(&grown), "{before:?} {after:?}");
    let counted = fixture.native.capabilities().memory == Enforcement::Hard;
    assert_eq!((after.memory.is_some(), after.memory_peak.is_some()), (counted, counted), "{after:?}");
    fixture.end().await;
}

#[tokio::test]
async fn a_workspace_in_memory_takes_no_disk() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.native.usage(fixture.session.id()).await.unwrap().disk, None);
    fixture.end().await;
}
