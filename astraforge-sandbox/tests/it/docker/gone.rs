//! An engine that goes away in the middle, and comes back.

use std::sync::Arc;

use astraforge_core::{
    id::SandboxId,
    ports::sessions::{SessionError, Sessions},
    session::{Command, SandboxSpec},
};
use astraforge_sandbox::{docker::DockerDriver, driver::DriverError, sandboxes::Sandboxes};
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};

use super::{PATIENCE, config, run, socket, text};

/// Stands between a driver and its engine.
struct Wire {
    path: std::path::PathBuf,
    connections: tokio::task::JoinHandle<()>,
}

impl Wire {
    fn lay(path: std::path::PathBuf) -> Self {
        drop(std::fs::remove_file(&path));
        let listener = UnixListener::bind(&path).unwrap();
        let engine = socket().unwrap();
        let connections = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut far = UnixStream::connect(&engine).await.unwrap();
                connections.spawn(async move { drop(tokio::io::copy_bidirectional(&mut near, &mut far).await) });
            }
        });
        Self { path, connections }
    }

    /// Cuts every connection; nobody answers any more.
    async fn cut(self) -> std::path::PathBuf {
        self.connections.abort();
        drop(self.connections.await);
        self.path
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_fail_at_once_without_the_engine_and_work_again_with_it() {
    let Some(mut config) = config() else { return };
    let folder = tempfile::tempdir().unwrap();
    let wire = Wire::lay(folder.path().join("engine.sock"));
    config.host = Some(format!("unix://{}", wire.path.display()));
    let sandboxes = Sandboxes::new(Arc::new(DockerDriver::connect(config).await.unwrap()));
    let id = SandboxId::random();
    let session = sandboxes.create(id, SandboxSpec::default(), Vec::new()).await.unwrap();
    run(&*session, Command::shell("echo kept > /tmp/file")).await;
    let sleeper = session.exec(Command::new(["sleep", "60"])).await.unwrap();

    let path = wire.cut().await;
    let lost = timeout(PATIENCE, sleeper.collect(0)).await.expect("an end");
    assert!(matches!(lost, Err(SessionError::Lost)), "{lost:?}");
    let failed = timeout(PATIENCE, sandboxes.create(SandboxId::random(), SandboxSpec::default(), Vec::new())).await;
    assert!(failed.expect("an answer").is_err());
    assert!(timeout(PATIENCE, sandboxes.list()).await.expect("an answer").is_err());
    assert!(timeout(PATIENCE, sandboxes.destroy(id)).await.expect("an answer").is_err(), "it is not gone");

    let _wire = Wire::lay(path);
    assert_eq!(sandboxes.list().await.unwrap(), [id]);
    let session = sandboxes.attach(id, Vec::new()).await.unwrap();
    assert_eq!(text(&run(&*session, Command::shell("cat /tmp/file")).await), "kept");
    sandboxes.destroy(id).await.unwrap();
    assert_eq!(sandboxes.list().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_engine_the_driver_says_what_would_help() {
    let image = "busybox".parse().unwrap();
    let config = astraforge_sandbox::docker::DockerConfig::new("nobody", "/proc/self/exe", image)
        .with_host("unix:///nowhere/docker.sock");
    let refused = DockerDriver::connect(config).await.unwrap_err();
    assert!(matches!(refused, DriverError::Unsupported { .. }));
    assert!(refused.to_string().contains("unix:///nowhere/docker.sock"), "{refused}");
    assert!(refused.to_string().contains("DOCKER_HOST"), "{refused}");
}
