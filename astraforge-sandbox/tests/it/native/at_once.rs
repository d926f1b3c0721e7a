//! Servers that are killed at work, and what the next one finds.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command as Process, Stdio},
    time::{Duration, Instant},
};

use astraforge_sandbox::{driver::SandboxDriver, native::NativeDriver};

use super::{PATIENCE, config, leftovers};

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

/// What a server does that wants none of what an earlier one made.
async fn clean_up(state: &Path) {
    let names = || fs::read_dir(state).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
    let ids: Vec<String> = names().collect();
    let driver = NativeDriver::new(config(state)).unwrap();
    // A launcher that was at work on one when its server died is not listed, and undoes by itself what nobody hears of.
    let began = Instant::now();
    while names().next().is_some() {
        for id in driver.list().await.unwrap() {
            driver.destroy(id).await.unwrap();
        }
        assert!(began.elapsed() < PATIENCE, "{:?}", names().collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
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
