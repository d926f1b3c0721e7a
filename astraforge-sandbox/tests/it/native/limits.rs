//! What a sandbox may use up, and that no more is to be had.

use astraforge_core::{
    id::SandboxId,
    ports::sessions::{SessionError, Sessions},
    session::{ByteSize, Command, Limit, Limits, SandboxSpec, Workspace},
};
use astraforge_sandbox::{
    driver::{DynSandboxDriver, Enforcement, SandboxDriver},
    sandboxes::Sandboxes,
};

use super::{Fixture, Native};

fn limited(change: impl FnOnce(&mut Limits)) -> SandboxSpec {
    let mut limits = Limits::default();
    change(&mut limits);
    SandboxSpec::default().with_limits(limits)
}

#[tokio::test]
async fn processes_stop_at_their_limit_and_the_sandbox_lives_on() {
    let fixture = Fixture::with(limited(|it| it.processes = Limit::required(24))).await;
    let output = fixture.run(Command::shell("for i in $(seq 100); do sleep 60 & done; wait")).await;
    assert!(!output.exit.success(), "a hundred processes were started under a limit of 24");
    assert_eq!(fixture.shell("echo alive").await, "alive");
    fixture.end().await;
}

#[tokio::test]
async fn memory_stops_at_its_limit_and_the_sandbox_lives_on() {
    if Native::new().capabilities().memory != Enforcement::Hard {
        eprintln!("skipped: the limit on memory is not enforced here, and the driver says so");
        return;
    }
    let fixture = Fixture::with(limited(|it| it.memory = Limit::required(ByteSize::mib(96)))).await;
    let output = fixture.run(Command::shell("head -c 400000000 /dev/zero | tail -c 399999999 | wc -c")).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("399999999"), "400 MB were held under a limit of 96: {output:?}");
    // Files in memory count as well, so there is less room for them than was asked for.
    let output = fixture.run(Command::shell("head -c 400000000 /dev/zero > /workspace/big")).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{output:?}");
    fixture.shell("rm /workspace/big").await;
    assert_eq!(fixture.shell("echo alive").await, "alive");
    fixture.end().await;
}

#[tokio::test]
async fn a_sandbox_goes_before_its_server_when_the_host_is_out_of_memory() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.shell("cat /proc/self/oom_score_adj").await, "500");
    let init = fixture.footprint().init;
    assert_eq!(std::fs::read_to_string(format!("/proc/{init}/oom_score_adj")).unwrap(), "500\n");
    // What was set without this capability anyone may take back.
    let held = rustix::thread::capabilities(None).unwrap().effective;
    if held.contains(rustix::thread::CapabilitySet::SYS_RESOURCE) {
        let output = fixture.run(Command::shell("echo 0 > /proc/self/oom_score_adj")).await;
        assert!(!output.exit.success(), "a sandbox may make the server the victim");
    }
    fixture.end().await;
}

#[tokio::test]
async fn open_files_stop_at_their_limit() {
    let fixture = Fixture::with(limited(|it| it.open_files = 64)).await;
    assert_eq!(fixture.shell("ulimit -Hn; ulimit -Sn; ulimit -Hc").await, "64\n64\n0");
    fixture.end().await;
}

/// A required limit is given, or the sandbox refused by name.
#[tokio::test]
async fn a_required_limit_is_never_dropped_in_silence() {
    let native = std::sync::Arc::new(Native::new());
    let capabilities = native.capabilities();
    let disk = Workspace::Disk { size: Limit::required(ByteSize::mib(64)) };
    let sandboxes = Sandboxes::new(native as DynSandboxDriver);
    for (enforcement, spec, name) in [
        (capabilities.memory, limited(|it| it.memory = Limit::required(ByteSize::gib(1))), "memory"),
        (capabilities.cpu, limited(|it| it.cpu_millis = Some(Limit::required(1000))), "processor time"),
        (capabilities.processes, limited(|it| it.processes = Limit::required(99)), "processes"),
        (capabilities.disk, SandboxSpec::default().with_workspace(disk), "on disk"),
    ] {
        let id = SandboxId::random();
        match (enforcement, sandboxes.create(id, spec, Vec::new()).await) {
            (Enforcement::Hard, Ok(_)) => sandboxes.destroy(id).await.unwrap(),
            (Enforcement::None | Enforcement::Soft, Err(SessionError::Unsupported { what, .. })) => {
                assert!(what.contains(name), "{what}")
            }
            (enforcement, made) => panic!("{name}: {enforcement:?}, yet {made:?}"),
        }
    }
}
