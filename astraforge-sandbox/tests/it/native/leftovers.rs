//! Whatever is killed, and whenever: nothing of a sandbox stays behind.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command as Process, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use astraforge_core::{
    id::SandboxId,
    session::{Command, SandboxSpec},
};
use astraforge_sandbox::{
    driver::{DriverError, DynSandboxDriver, SandboxDriver},
    guest::client::GuestClient,
    native::NativeDriver,
    sandboxes::Sandboxes,
};
use rustix::process::{Pid, Signal, kill_process};

use super::{Footprint, Native, PATIENCE, config};

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_sandbox_without_a_server_ends_by_itself() {
    let native = Native::new();
    let id = SandboxId::random();
    let spec = SandboxSpec::default().with_orphan_timeout(Duration::from_millis(200));
    native.create(id, &spec, &[]).await.unwrap();
    // Its time begins when it has met one.
    drop(GuestClient::connect(native.connect(id).await.unwrap(), Vec::new()).await.unwrap());
    Footprint::of(&native.state.path().join(id.to_string())).wait_until_gone().await;
    assert!(matches!(native.connect(id).await, Err(DriverError::NotFound { .. })));
}

#[tokio::test]
async fn a_sandbox_outlives_its_server_and_is_adopted_by_the_next() {
    let state = tempfile::tempdir().unwrap();
    let mut server = Process::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "native::inside::a_server_that_will_be_killed", "--nocapture"])
        .current_dir(state.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    let id: SandboxId = lines.find_map(|it| it.split_once("id=")?.1.parse().ok()).expect("the server makes a sandbox");
    server.kill().unwrap();
    server.wait().unwrap();

    let driver = Arc::new(NativeDriver::new(config(state.path())).unwrap());
    assert_eq!(driver.list().await.unwrap(), [id]);
    let footprint = Footprint::of(&state.path().join(id.to_string()));
    let session = Sandboxes::new(Arc::clone(&driver) as DynSandboxDriver).attach(id, Vec::new()).await.unwrap();
    let output = session.exec(Command::new(["echo", "alive"])).await.unwrap().collect(100).await.unwrap();
    assert_eq!(output.stdout, b"alive\n");
    driver.destroy(id).await.unwrap();
    footprint.assert_gone();
}

#[tokio::test]
async fn the_launchers_death_is_the_sandboxs_and_the_next_server_cleans_up() {
    let state = tempfile::tempdir().unwrap();
    let driver = NativeDriver::new(config(state.path())).unwrap();
    let id = SandboxId::random();
    driver.create(id, &SandboxSpec::default(), &[]).await.unwrap();
    let footprint = Footprint::of(&state.path().join(id.to_string()));
    kill(footprint.keeper);
    let start = Instant::now();
    while super::alive(footprint.init) {
        assert!(start.elapsed() < PATIENCE, "the sandbox lives on without its launcher");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(NativeDriver::new(config(state.path())).unwrap());
    footprint.assert_gone();
}

#[tokio::test]
async fn an_id_is_free_again_once_its_sandbox_died() {
    let native = Native::new();
    let id = SandboxId::random();
    native.create(id, &SandboxSpec::default(), &[]).await.unwrap();
    let first = Footprint::of(&native.state.path().join(id.to_string()));
    kill(first.keeper);
    while super::alive(first.init) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    native.create(id, &SandboxSpec::default(), &[]).await.unwrap();
    native.destroy(id).await.unwrap();
    first.assert_gone();
}

/// Kills the launcher at moments spread over its whole start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launcher_killed_at_any_moment_leaves_nothing() {
    let native = Arc::new(Native::new());
    for step in 0..60 {
        let id = SandboxId::random();
        let folder = native.state.path().join(id.to_string());
        let create = tokio::spawn({
            let native = Arc::clone(&native);
            async move { native.create(id, &SandboxSpec::default(), &[]).await }
        });
        tokio::time::sleep(Duration::from_micros(step * 100)).await;
        if let Some(record) = fs::read(folder.join("record.json"))
            .ok()
            .and_then(|it| serde_json::from_slice::<serde_json::Value>(&it).ok())
        {
            kill(i32::try_from(record["keeper"]["pid"].as_i64().unwrap()).unwrap());
        }
        let _ = create.await.unwrap();
        native.destroy(id).await.unwrap();
        assert!(!folder.exists());
        assert_eq!(processes_named(&id.to_string()), Vec::<String>::new());
        assert_eq!(cgroups_named(&format!("astraforge-{id}")), Vec::<String>::new());
    }
}

/// Removes sandboxes while they are being made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_destroyed_while_it_is_made_leaves_nothing() {
    let native = Arc::new(Native::new());
    for step in 0..60 {
        let id = SandboxId::random();
        let create = tokio::spawn({
            let native = Arc::clone(&native);
            async move { native.create(id, &SandboxSpec::default(), &[]).await }
        });
        tokio::time::sleep(Duration::from_micros(step * 100)).await;
        native.destroy(id).await.unwrap();
        if create.await.unwrap().is_ok() {
            native.destroy(id).await.unwrap(); // it was made after it was removed
        }
        assert!(!native.state.path().join(id.to_string()).exists());
        assert_eq!(cgroups_named(&format!("astraforge-{id}")), Vec::<String>::new());
    }
}

/// Lists processes of the host that have `text` in their working directory's path, as launchers have at first.
pub(super) fn processes_named(text: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let cwds = entries.filter_map(|it| fs::read_link(it.path().join("cwd")).ok());
    cwds.map(|it| it.display().to_string()).filter(|it| it.contains(text)).collect()
}

/// Lists control groups of this name beneath this process's own.
pub(super) fn cgroups_named(name: &str) -> Vec<String> {
    fn walk(folder: &std::path::Path, depth: u32, name: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().to_str() == Some(name) {
                found.push(entry.path().display().to_string());
            } else if depth > 0 && entry.file_type().is_ok_and(|it| it.is_dir()) {
                walk(&entry.path(), depth - 1, name, found);
            }
        }
    }
    let mut found = Vec::new();
    walk("/sys/fs/cgroup".as_ref(), 4, name, &mut found);
    found
}
