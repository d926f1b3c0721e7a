//! The guest daemon: its life, and its connections.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "these functions are tests")]

use std::{sync::Arc, time::Duration};

use astraforge_core::{
    id::SandboxId,
    ports::sessions::{SessionError, Sessions},
    session::{Command, SandboxSpec},
};
use astraforge_sandbox::{
    driver::{DynSandboxDriver, SandboxDriver},
    guest::{GuestConfig, client::GuestClient},
    sandboxes::Sandboxes,
};
use tokio::time::{sleep, timeout};

use super::process_driver::ProcessDriver;

async fn connect(driver: &ProcessDriver, id: SandboxId) -> GuestClient {
    GuestClient::connect(driver.connect(id).await.unwrap(), Vec::new()).await.unwrap()
}

async fn ended(driver: &ProcessDriver, id: SandboxId) {
    let wait = async {
        while !driver.has_ended(id) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), wait).await.expect("the daemon ends");
}

#[tokio::test]
async fn the_daemon_ends_without_a_host_and_not_before() {
    let (driver, id) = (ProcessDriver::new(), SandboxId::random());
    let orphan_timeout = Duration::from_millis(400);
    driver.start(id, &GuestConfig { service_ports: Vec::new(), env: Default::default(), orphan_timeout });
    let guest = connect(&driver, id).await;
    sleep(2 * orphan_timeout).await;
    assert!(!driver.has_ended(id), "a host is connected");
    drop(guest);
    ended(&driver, id).await;
}

#[tokio::test]
async fn the_time_without_a_host_begins_with_the_first() {
    let (driver, id) = (ProcessDriver::new(), SandboxId::random());
    let orphan_timeout = Duration::ZERO;
    driver.start(id, &GuestConfig { service_ports: Vec::new(), env: Default::default(), orphan_timeout });
    let guest = connect(&driver, id).await;
    let output = guest.exec(Command::new(["echo", "met"]).with_cwd("/tmp")).await.unwrap().collect(10).await.unwrap();
    assert_eq!(output.stdout, b"met\n");
    drop(guest);
    ended(&driver, id).await;
}

#[tokio::test]
async fn a_shutdown_ends_everything_and_is_answered() {
    let (driver, id) = (ProcessDriver::new(), SandboxId::random());
    driver.create(id, &SandboxSpec::default(), &[]).await.unwrap();
    let guest = connect(&driver, id).await;
    let sleeper = guest.exec(Command::new(["sleep", "60"]).with_cwd("/tmp")).await.unwrap();
    guest.shutdown().await.unwrap();
    assert!(matches!(sleeper.collect(0).await, Err(SessionError::Lost)));
    guest.lost().await;
    ended(&driver, id).await;
    assert!(matches!(guest.shutdown().await, Err(SessionError::Lost)));
}

#[tokio::test]
async fn a_lost_connection_ends_its_commands_and_no_others() {
    let (driver, id) = (ProcessDriver::new(), SandboxId::random());
    driver.create(id, &SandboxSpec::default(), &[]).await.unwrap();
    let (first, second) = (connect(&driver, id).await, connect(&driver, id).await);
    let sleeper = || Command::shell("echo $$; exec sleep 60").with_cwd("/tmp");
    let mut doomed = first.exec(sleeper()).await.unwrap();
    let survivor = second.exec(sleeper()).await.unwrap();
    let Some(Ok(astraforge_core::session::ExecEvent::Stdout(pid))) = futures::StreamExt::next(&mut doomed.events).await
    else {
        panic!("no process id");
    };
    let pid = String::from_utf8(pid.to_vec()).unwrap();
    drop((doomed, first));
    let gone = async {
        while std::path::Path::new("/proc").join(pid.trim()).exists() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.expect("the command is killed");
    survivor.control.signal(astraforge_core::session::Signal::Terminate).await.unwrap();
    let exit = survivor.collect(100).await.unwrap().exit;
    assert_eq!(exit, astraforge_core::session::Exit::Signaled { signal: 15 });
    driver.destroy(id).await.unwrap();
}

/// A host cannot be made to hold what it did not ask for; see also the property tests of frames.
#[tokio::test]
async fn a_peer_that_is_no_guest_is_refused() {
    let (host, mut stranger) = tokio::io::duplex(1024);
    tokio::spawn(
        async move { tokio::io::AsyncWriteExt::write_all(&mut stranger, b"HTTP/1.1 400 Bad Request\r\n").await },
    );
    let stream = tokio_util::compat::TokioAsyncReadCompatExt::compat(host);
    let error = GuestClient::connect(Box::pin(stream), Vec::new()).await.unwrap_err();
    assert_eq!(error.to_string(), "what answers is not an AstraForge guest");
}

/// Prints how long a command takes in a live sandbox, and how long a bare fork, exec and wait do.
async fn measure(driver: DynSandboxDriver) {
    const ROUNDS: usize = 500;
    let sandboxes = Sandboxes::new(driver);
    let session = sandboxes.create(SandboxId::random(), SandboxSpec::default(), Vec::new()).await.unwrap();
    let (mut bare, mut inside, mut started) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = std::time::Instant::now();
        assert!(std::process::Command::new("/bin/true").status().unwrap().success());
        bare.push(start.elapsed());
        let start = std::time::Instant::now();
        let execution = session.exec(Command::new(["/bin/true"]).with_cwd("/tmp")).await.unwrap();
        started.push(start.elapsed());
        assert!(execution.collect(0).await.unwrap().exit.success());
        inside.push(start.elapsed());
    }
    sandboxes.destroy(session.id()).await.unwrap();
    for times in [&mut bare, &mut inside, &mut started] {
        times.sort();
    }
    // The tenth fastest of a hundred tells what it costs where nothing else runs; the median, here and now.
    for (name, rank) in [("fast", ROUNDS / 10), ("median", ROUNDS / 2)] {
        let (bare, started, inside) = (bare[rank], started[rank], inside[rank]);
        let ratio = inside.as_secs_f64() / bare.as_secs_f64();
        println!(
            "{name}: bare {bare:?}; in a sandbox it runs after {started:?} and has ended after {inside:?}: {ratio:.2}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement; run it alone, optimised"]
async fn latency_of_a_command_in_a_process() {
    // In a task, as in a server: the test's own thread is no part of the runtime.
    tokio::spawn(measure(Arc::new(ProcessDriver::new()))).await.unwrap();
}

#[cfg(feature = "native")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement; run it alone, optimised"]
async fn latency_of_a_command_in_a_native_sandbox() {
    tokio::spawn(measure(super::native::native())).await.unwrap();
}
