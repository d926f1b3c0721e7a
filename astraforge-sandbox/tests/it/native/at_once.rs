//! Many sandboxes, and many hands on one.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command as Process, Stdio},
    sync::Arc,
    time::Duration,
};

use astraforge_core::{
    id::SandboxId,
    ports::sessions::{SessionError, Sessions},
    session::{Command, SandboxSpec},
};
use astraforge_sandbox::{
    driver::{DynSandboxDriver, SandboxDriver},
    native::NativeDriver,
    sandboxes::Sandboxes,
};
use tokio::time::timeout;

use super::{Fixture, Footprint, Native, PATIENCE, config, leftovers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_sandboxes_live_and_die_at_once() {
    let native = Arc::new(Native::new());
    let sandboxes = Sandboxes::new(Arc::clone(&native) as DynSandboxDriver);
    let lives = (0..16).map(|i| {
        let (native, sandboxes) = (Arc::clone(&native), sandboxes.clone());
        tokio::spawn(async move {
            for round in 0..3 {
                let session = sandboxes.create(SandboxId::random(), SandboxSpec::default(), Vec::new()).await.unwrap();
                let footprint = Footprint::of(&native.state.path().join(session.id().to_string()));
                let line = format!("echo {i} > it; sleep 0.0{round}; cat it; ls -A | wc -l");
                let output = session.exec(Command::shell(line)).await.unwrap().collect(100).await.unwrap();
                assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{i}\n1\n"));
                sandboxes.destroy(session.id()).await.unwrap();
                footprint.assert_gone();
            }
        })
    });
    for life in timeout(PATIENCE, futures::future::join_all(lives)).await.expect("an end") {
        life.unwrap();
    }
    assert_eq!(sandboxes.list().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_destroyed_during_a_command_ends_it() {
    for step in 0..10 {
        let fixture = Fixture::new().await;
        let footprint = fixture.footprint();
        let busy = fixture.session.exec(Command::shell("while :; do (sleep 5 &); echo x; done")).await.unwrap();
        let busy = tokio::spawn(busy.collect(1 << 20));
        tokio::time::sleep(Duration::from_millis(step * 3)).await;
        // More commands arrive all along.
        let session = Arc::clone(&fixture.session);
        let more = tokio::spawn(async move { while session.exec(Command::new(["true"])).await.is_ok() {} });
        fixture.sandboxes.destroy(fixture.session.id()).await.unwrap();
        footprint.assert_gone();
        let ended = timeout(PATIENCE, busy).await.expect("the command ends").unwrap();
        assert!(ended.is_err(), "it did not end by itself: {ended:?}");
        timeout(PATIENCE, more).await.expect("commands fail").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_want_one_id_one_gets_it() {
    let native = Arc::new(Native::new());
    for _ in 0..15 {
        let id = SandboxId::random();
        let sandboxes = Sandboxes::new(Arc::clone(&native) as DynSandboxDriver);
        let tries = (0..8).map(|_| {
            let sandboxes = sandboxes.clone();
            tokio::spawn(async move { sandboxes.create(id, SandboxSpec::default(), Vec::new()).await })
        });
        let made: Vec<_> = futures::future::join_all(tries).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(made.iter().filter(|it| it.is_ok()).count(), 1, "{made:?}");
        let refused = made.iter().filter(|it| matches!(it, Err(SessionError::AlreadyExists { .. }))).count();
        assert_eq!(refused, 7, "{made:?}");
        let session = sandboxes.get(id).unwrap();
        let output = session.exec(Command::new(["true"])).await.unwrap().collect(1).await.unwrap();
        assert!(output.exit.success());
        sandboxes.destroy(id).await.unwrap();
    }
}

/// Kills a busy server after each of `delays`, and lets the next one clean up.
async fn kill_servers(delays: impl Iterator<Item = Duration>) {
    let state = tempfile::tempdir().unwrap();
    for delay in delays {
        let mut server = Process::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "native::inside::a_busy_server", "--nocapture"])
            .current_dir(state.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|it| it.contains("busy")), "the server starts");
        std::thread::sleep(delay);
        server.kill().unwrap();
        server.wait().unwrap();
        clean_up(state.path()).await;
    }
}

/// What a server does when it starts and wants none of what an earlier one made.
async fn clean_up(state: &Path) {
    let ids: Vec<String> =
        fs::read_dir(state).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    let driver = NativeDriver::new(config(state)).unwrap();
    for id in driver.list().await.unwrap() {
        driver.destroy(id).await.unwrap();
    }
    let left: Vec<_> = fs::read_dir(state).unwrap().map(|it| it.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
    for id in ids {
        assert_eq!(leftovers::processes_named(&id), Vec::<String>::new());
        assert_eq!(leftovers::cgroups_named(&format!("astraforge-{id}")), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_server_killed_at_any_moment_leaves_what_the_next_one_finds() {
    kill_servers((0..8).map(|i| Duration::from_millis(i * 7 % 50))).await;
}

#[tokio::test]
#[ignore = "kills a server three hundred times"]
async fn soak_a_server_killed_at_any_moment_leaves_what_the_next_one_finds() {
    kill_servers((0..300).map(|i| Duration::from_micros(i * 7919 % 60_000))).await;
}
