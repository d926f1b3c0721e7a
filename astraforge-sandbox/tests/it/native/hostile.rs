//! Programs that use up, hold up or confuse what they can reach, judged by what the host sees of it.

use std::{
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

use astraforge_core::{
    ports::sessions::{Execution, Session, SessionError, Sessions},
    session::{Command, ExecEvent, ExecOutput, Exit, SandboxSpec},
};
use bytes::Bytes;
use futures::StreamExt;
use tokio::time::timeout;

use super::{Fixture, PATIENCE, attacks};

/// Lists the processes of the host that descend from `pid`.
fn descendants(pid: i32) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|it| it.unwrap().file_name().to_str()?.parse::<i32>().ok());
    let parent = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let parents: HashMap<i32, i32> = pids.filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let is_below = |start: i32| {
        std::iter::successors(parents.get(&start), |it| parents.get(it)).take(1000).any(|ancestor| *ancestor == pid)
    };
    parents.keys().copied().filter(|it| is_below(*it)).collect()
}

/// Memory of this process, in bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Reads what a program writes until it says `word`.
async fn hear(execution: &mut Execution, word: &str) -> String {
    let mut text = String::new();
    let listen = async {
        while !text.contains(word) {
            match execution.events.next().await.expect("it lives").unwrap() {
                ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
                ExecEvent::Exited(exit) => panic!("{exit}: {text}"),
                ExecEvent::Lost(n_bytes) => panic!("{n_bytes} bytes lost after {text}"),
            }
        }
    };
    timeout(PATIENCE, listen).await.expect("an answer");
    text
}

async fn works_on(fixture: Fixture) {
    assert_eq!(fixture.shell("echo alive").await, "alive");
    fixture.end().await;
}

#[tokio::test]
async fn a_gigabyte_of_output_takes_no_memory_of_the_host() {
    const GIGABYTE: u64 = 1 << 30;
    let fixture = Fixture::new().await;
    let flood = Command::shell(format!("yes | head -c {GIGABYTE}; exit 7"));
    let mut execution = fixture.session.exec(flood).await.unwrap();
    let (before, mut most, mut n_bytes, mut exit) = (resident(), 0, 0, None);
    while let Some(event) = timeout(PATIENCE, execution.events.next()).await.expect("output") {
        match event.unwrap() {
            ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => n_bytes += bytes.len() as u64,
            ExecEvent::Exited(ended) => exit = Some(ended),
            ExecEvent::Lost(n_bytes) => panic!("{n_bytes} bytes lost"),
        }
        if n_bytes % 512 == 0 {
            most = most.max(resident());
        }
    }
    assert_eq!((n_bytes, exit), (GIGABYTE, Some(Exit::Exited { code: 7 })));
    // Other tests of this process run meanwhile.
    assert!(most < before + (128 << 20), "{before} bytes became {most}");
    works_on(fixture).await;
}

#[tokio::test]
async fn a_reader_that_stands_still_holds_up_the_writer_and_nobody_else() {
    let fixture = Fixture::new().await;
    let mut floods = Vec::new();
    for _ in 0..8 {
        floods.push(fixture.session.exec(Command::shell("yes; echo never")).await.unwrap());
    }
    let before = resident();
    for _ in 0..10 {
        assert_eq!(fixture.shell("echo quick").await, "quick");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(resident() < before + (64 << 20), "{before} bytes became {}", resident());
    drop(floods);
    works_on(fixture).await;
}

#[tokio::test]
async fn a_million_tiny_lines_arrive_each_and_in_order() {
    let fixture = Fixture::new().await;
    let count = "i=0; while [ $i -lt 1000000 ]; do echo $i; i=$((i+1)); done";
    let mut execution = fixture.session.exec(Command::shell(count)).await.unwrap();
    let (mut text, mut exit) = (Vec::new(), None);
    while let Some(event) = timeout(PATIENCE, execution.events.next()).await.expect("output") {
        match event.unwrap() {
            ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => text.extend_from_slice(&bytes),
            ExecEvent::Exited(ended) => exit = Some(ended),
            ExecEvent::Lost(n_bytes) => panic!("{n_bytes} bytes lost"),
        }
    }
    assert_eq!(exit, Some(Exit::Exited { code: 0 }));
    let lines = text.split_inclusive(|it| *it == b'\n');
    assert_eq!(lines.zip(0..).filter(|(line, i)| *line == format!("{i}\n").as_bytes()).count(), 1_000_000);
    fixture.end().await;
}

#[tokio::test]
async fn a_storm_of_orphans_is_reaped() {
    let fixture = Fixture::new().await;
    let mut execution = fixture
        .session
        .exec(Command::shell("for i in $(seq 3000); do (true &) ; done; sleep 0.5; echo stormed; sleep 60"))
        .await
        .unwrap();
    hear(&mut execution, "stormed").await;
    let left = descendants(fixture.footprint().init);
    assert!(left.len() < 12, "zombies stay: {left:?}");
    drop(execution);
    works_on(fixture).await;
}

#[tokio::test]
async fn whoever_stops_or_kills_all_it_can_stops_and_kills_itself() {
    let fixture = Fixture::new().await;
    for signal in ["STOP", "KILL", "TSTP", "SEGV"] {
        let others = fixture.session.exec(Command::shell("while :; do sleep 1; done")).await.unwrap();
        for line in [format!("kill -{signal} -1; sleep 60"), format!("kill -{signal} $PPID; sleep 60")] {
            let command = Command::shell(line).with_timeout(Duration::from_secs(5));
            match timeout(PATIENCE, fixture.session.exec(command)).await.expect("an answer") {
                Ok(started) => {
                    let output = timeout(PATIENCE, started.collect(1 << 16)).await.expect("an end").unwrap();
                    assert!(!output.exit.success(), "{signal}: {output:?}");
                }
                Err(error) => assert!(matches!(error, SessionError::Spawn { .. }), "{signal}: {error}"),
            }
        }
        drop(others);
        assert_eq!(fixture.shell("echo alive").await, "alive", "after {signal}");
    }
    let left = descendants(fixture.footprint().init);
    assert!(left.len() < 4, "{left:?}");
    fixture.end().await;
}

#[tokio::test]
async fn a_storm_of_commands_leaves_no_descriptor_and_no_process() {
    let fixture = Fixture::new().await;
    fixture.shell("true").await;
    let init = fixture.footprint().init;
    // The daemon is closed to all but root.
    let descriptors = || fs::read_dir(format!("/proc/{init}/fd")).map_or(0, Iterator::count);
    let before = descriptors();
    let session = fixture.session.as_ref();
    for _ in 0..4 {
        let storm = (0..150).map(|i| async move {
            match i % 5 {
                0 => drop(outcome(session, Command::new(["/nonsense"])).await),
                1 => drop(session.exec(Command::shell("sleep 60")).await),
                2 => drop(session.read_file("/workspace/none", 10).await),
                3 => drop(session.write_file("/proc/none", Bytes::from_static(b"x"), 0o644).await),
                _ => {
                    let output = outcome(session, Command::new(["true"])).await.unwrap();
                    assert!(output.exit.success(), "{output:?}");
                }
            }
        });
        timeout(PATIENCE, futures::future::join_all(storm)).await.expect("an end");
    }
    let start = Instant::now();
    while descendants(init).len() > 1 || descriptors() > before {
        assert!(start.elapsed() < PATIENCE, "{:?}, {before} -> {}", descendants(init), descriptors());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    works_on(fixture).await;
}

async fn outcome(session: &dyn Session, command: Command) -> Result<ExecOutput, SessionError> {
    session.exec(command).await?.collect(1 << 16).await
}

#[tokio::test]
async fn arguments_and_environments_of_any_size_are_taken_or_refused() {
    let fixture = Fixture::new().await;
    let many = vec!["x".repeat(1000); 1500];
    let output = fixture.run(Command::new(["true".to_owned()].into_iter().chain(many.clone()))).await;
    assert!(output.exit.success(), "{output:?}");
    let refused = async |command: Command, expected: &str| match timeout(PATIENCE, fixture.session.exec(command)).await
    {
        Ok(Err(SessionError::Spawn { reason, .. })) => assert!(reason.contains(expected), "{reason}"),
        other => panic!("expected a spawn error, not {other:?}"),
    };
    refused(Command::new(["true".to_owned(), "x".repeat(200_000)]), "too long").await;
    refused(Command::new(["true".to_owned()].into_iter().chain(many.clone()).chain(many.clone())), "too long").await;
    refused(Command::new(["true"]).with_env("HUGE", "x".repeat(200_000)), "too long").await;
    refused(Command::new(["true"]).with_env("HUGE", "x".repeat(10_000_000)), "longer than").await;
    refused(Command::new(["true"]).with_env("A\0B", "c"), "NUL").await;
    refused(Command::new(["true"]).with_cwd("/etc/passwd"), "/etc/passwd").await;
    refused(Command::new(["true"]).with_cwd("/tmp/a\0b"), "working directory").await;
    refused(Command::new(["true"]).with_cwd("/proc/1/root"), "working directory").await;
    works_on(fixture).await;
}

#[tokio::test]
async fn links_that_change_while_they_are_followed_reach_nothing_of_the_host() {
    let outside = tempfile::tempdir().unwrap();
    let canary = outside.path().join("canary");
    fs::write(&canary, "untouched").unwrap();
    let fixture = Fixture::new().await;
    let swap = format!(
        "mkdir real; echo real > real/canary; while :; do ln -sfn {} link; ln -sfn real link; ln -sfn /etc link; \
         ln -sfn /proc/self/root link; rm link; mkfifo link; rm link; done",
        outside.path().display()
    );
    let racer = fixture.session.exec(Command::shell(swap)).await.unwrap();
    let race = async {
        for i in 0..300 {
            let _ = fixture.session.write_file("/workspace/link/canary", Bytes::from_static(b"inside"), 0o777).await;
            let _ = fixture.session.write_file("/workspace/link", Bytes::from_static(b"inside"), 0o777).await;
            let path = if i % 2 == 0 { "/workspace/link/canary" } else { "/workspace/link" };
            if let Ok(contents) = fixture.session.read_file(path, 1 << 16).await {
                assert_ne!(contents, "untouched", "a file of the host was read");
            }
        }
    };
    timeout(PATIENCE, race).await.expect("no call hangs");
    drop(racer);
    assert_eq!(fs::read(&canary).unwrap(), b"untouched");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    works_on(fixture).await;
}

#[tokio::test]
async fn the_daemons_own_side_of_proc_is_no_way_out() {
    let fixture = Fixture::new().await;
    fixture.shell("ln -s /proc/self/root root; ln -s /proc/self/fd fd; ln -s /proc/self/exe exe").await;
    for path in [
        "/proc/self/exe",
        "/proc/self/root/etc/passwd",
        "/proc/self/cwd/etc/passwd",
        "/proc/1/root/etc/passwd",
        "/proc/thread-self/root/etc/passwd",
        "/proc/self/fd/0",
        "/proc/self/fd/3",
        "/workspace/root/etc/shadow",
        "/workspace/fd/4",
        "/workspace/exe",
        "/dev/stdin",
        "/dev/ptmx",
        "/proc/kmsg",
    ] {
        let read = timeout(PATIENCE, fixture.session.read_file(path, 1 << 24)).await.expect("no waiting");
        assert!(read.is_err(), "{path} can be read");
        let below = format!("{path}/x");
        let write = fixture.session.write_file(&below, Bytes::from_static(b"x"), 0o777);
        let write = timeout(PATIENCE, write).await.expect("no waiting");
        assert!(write.is_err(), "{path}/x can be written");
    }
    for path in ["/proc/self/environ", "/proc/self/cmdline", "/proc/1/environ"] {
        let read = fixture.session.read_file(path, 1 << 16).await.unwrap_or_default();
        assert!(!String::from_utf8_lossy(&read).contains("PATH"), "{path}: {read:?}");
    }
    works_on(fixture).await;
}

async fn attacked() -> Fixture {
    let program = std::env::current_exe().unwrap();
    Fixture::with(SandboxSpec::default().with_folder(program, attacks::PROGRAM)).await
}

#[tokio::test]
async fn a_sandbox_cannot_use_up_what_all_users_of_the_kernel_share() {
    let fixture = attacked().await;
    let mut attack = fixture.session.exec(attacks::command("everything_countable_is_used_up")).await.unwrap();
    let text = hear(&mut attack, "full").await;
    // SAFETY: makes a descriptor and nothing else.
    #[expect(unsafe_code, reason = "rustix has no such call")]
    let watcher = unsafe { libc::inotify_init1(libc::IN_CLOEXEC) };
    assert!(watcher >= 0, "inotify of the host: {}; {text}", std::io::Error::last_os_error());
    // SAFETY: it was made above and is nobody else's.
    #[expect(unsafe_code, reason = "rustix has no such call")]
    unsafe {
        libc::close(watcher);
    }
    let number = |path: &str| fs::read_to_string(path).unwrap().trim().parse::<u64>().unwrap();
    assert!(number("/proc/sys/fs/aio-nr") < number("/proc/sys/fs/aio-max-nr") / 2, "asynchronous input; {text}");
    let other = Fixture::new().await;
    let terminal = other.run(Command::new(["sh", "-c", "exec 3<>/dev/ptmx"])).await;
    assert!(terminal.exit.success(), "terminals of another sandbox: {terminal:?}; {text}");
    other.end().await;
    drop(attack);
    works_on(fixture).await;
}

#[tokio::test]
async fn a_daemon_that_its_agent_starves_is_destroyed_all_the_same() {
    let fixture = attacked().await;
    let footprint = fixture.footprint();
    // What becomes of calls, and of the daemon, is the agent's own loss; but each call must end.
    let attack = timeout(PATIENCE, fixture.session.exec(attacks::command("the_daemon_is_starved"))).await;
    for _ in 0..20 {
        let _ = timeout(PATIENCE, fixture.session.exec(Command::new(["true"]))).await.expect("an end");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    timeout(PATIENCE, fixture.sandboxes.destroy(fixture.session.id())).await.expect("an end").unwrap();
    footprint.assert_gone();
    if let Ok(attack) = attack.expect("an end") {
        assert!(timeout(PATIENCE, attack.collect(1 << 16)).await.expect("an end").is_err());
    }
}
