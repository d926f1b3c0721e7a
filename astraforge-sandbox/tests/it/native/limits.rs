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

use super::{Fixture, Native, attacks};

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
async fn one_sandbox_at_its_limit_takes_no_processes_from_another() {
    let spec = || limited(|it| it.processes = Limit::required(40));
    let (one, two) = (Fixture::with(spec()).await, Fixture::with(spec()).await);
    let full = one.session.exec(Command::shell("for i in $(seq 30); do sleep 60 & done; echo; wait")).await.unwrap();
    two.shell("for i in $(seq 30); do sleep 0.1 & done; wait").await;
    drop(full);
    one.end().await;
    two.end().await;
}

#[tokio::test]
async fn a_workspace_in_memory_is_full_at_its_size() {
    let spec = SandboxSpec::default().with_workspace(Workspace::Tmpfs { size: ByteSize::mib(8) });
    let fixture = Fixture::with(spec).await;
    let output = fixture.run(Command::shell("head -c 20000000 /dev/zero > big")).await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{output:?}");
    let size: u64 = fixture.shell("stat -c %s big").await.parse().unwrap();
    assert!(size <= 8 << 20, "{size}");
    // Empty files take no bytes, so their number is limited too.
    let output = fixture.run(Command::shell("rm big; seq 1000000 | xargs touch 2>&1 | tail -1")).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("No space left"), "{output:?}");
    for folder in ["/run", "/dev/shm"] {
        let output = fixture.run(Command::shell(format!("head -c 200000000 /dev/zero > {folder}/big"))).await;
        assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{output:?}");
    }
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
async fn what_lies_in_sockets_counts_as_memory() {
    if Native::new().capabilities().memory != Enforcement::Hard {
        eprintln!("skipped: the limit on memory is not enforced here, and the driver says so");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let spec = limited(|it| it.memory = Limit::required(ByteSize::mib(96))).with_folder(program, attacks::PROGRAM);
    let fixture = Fixture::with(spec).await;
    let output = fixture.run(attacks::command("memory_is_held_by_sockets")).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for kind in ["network=", "local="] {
        // It may have been killed before it could say how much it had.
        let held: u64 = text.lines().find_map(|it| it.split_once(kind)?.1.parse().ok()).unwrap_or(0);
        assert!(held <= 96 << 20, "{kind}{held} bytes were held under a limit of 96 MiB");
    }
    fixture.end().await;
}

#[tokio::test]
async fn a_sandbox_that_fills_its_memory_for_good_dies_alone() {
    if Native::new().capabilities().memory != Enforcement::Hard {
        eprintln!("skipped: the limit on memory is not enforced here, and the driver says so");
        return;
    }
    let other = Fixture::new().await;
    let spec = limited(|it| it.memory = Limit::required(ByteSize::mib(64)));
    let fixture = Fixture::with(spec).await;
    let footprint = fixture.footprint();
    let fill = "for it in /workspace /tmp /home/agent; do head -c 400000000 /dev/zero > $it/big & done; wait";
    let started = fixture.session.exec(Command::shell(fill)).await.unwrap();
    // Whether it can still say how it ended depends on whom the kernel killed.
    let _ = tokio::time::timeout(super::PATIENCE, started.collect(1 << 16)).await.expect("an end");
    fixture.sandboxes.destroy(fixture.session.id()).await.unwrap();
    footprint.assert_gone();
    assert_eq!(other.shell("echo alive").await, "alive");
    other.end().await;
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
async fn processor_time_stops_at_its_limit() {
    if Native::new().capabilities().cpu != Enforcement::Hard {
        eprintln!("skipped: the limit on processor time is not enforced here, and the driver says so");
        return;
    }
    let fixture = Fixture::with(limited(|it| it.cpu_millis = Some(Limit::required(200)))).await;
    let used = fixture.shell("timeout 2 sh -c 'while :; do :; done'; times | tail -1").await;
    let seconds: f64 = used.split(['m', 's']).nth(1).unwrap().parse().unwrap();
    assert!(seconds < 1.0, "of 2 seconds {seconds} were used under a limit of a fifth");
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
