//! The Docker driver on a real engine: the rules of every driver, and what only this one has to promise.
//!
//! They run where `ASTRAFORGE_TEST_DOCKER` names the engine's socket, and say so where it doesn't.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "these functions are tests")]

use std::{collections::HashMap, sync::Arc, time::Duration};

use astraforge_core::{
    id::SandboxId,
    ports::{
        guest_service::GuestStream,
        machines::{Usage, WorkspaceOrigin},
        sessions::{Session, Sessions},
    },
    session::{ByteSize, Command, ExecOutput, Limit, SandboxSpec, Workspace},
};
use astraforge_sandbox::{
    docker::{DockerConfig, DockerDriver},
    driver::{Capabilities, DriverError, DynSandboxDriver, SandboxDriver},
    driver_conformance,
    sandboxes::Sandboxes,
};
use async_trait::async_trait;
use bollard::{
    API_DEFAULT_VERSION, Docker,
    query_parameters::{ListContainersOptionsBuilder, ListVolumesOptionsBuilder},
};

mod bridge;
mod closed;
mod crashes;
mod gone;
mod images;
mod limits;
mod owners;
mod plain;
mod screen;

/// Names the socket of the engine to test with.
const SOCKET: &str = "ASTRAFORGE_TEST_DOCKER";

/// The image of all tests: a shell, its tools, and nobody but root. `cargo xtask test` makes it.
const IMAGE: &str = "astraforge-test:1";

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

driver_conformance!(offered());

mod machines {
    use super::*;

    astraforge_core::machines_conformance!(async {
        offered().await.map(|driver| ((), Sandboxes::new(driver), "/workspace"))
    });
}

/// A driver for any test, if there is an engine.
pub(crate) async fn offered() -> Option<DynSandboxDriver> {
    let driver = Tidy::new(config()?).await;
    Some(Arc::new(driver))
}

fn socket() -> Option<String> {
    let socket = std::env::var(SOCKET).ok();
    if socket.is_none() {
        eprintln!("skipped: {SOCKET} does not name the socket of an engine");
    }
    socket.map(|it| it.trim_start_matches("unix://").to_owned())
}

/// A configuration for an owner of its own, if there is an engine.
fn config() -> Option<DockerConfig> {
    let owner = format!("test-{}", SandboxId::random());
    let config = DockerConfig::new(owner, crate::guest_program::path(), IMAGE.parse().unwrap());
    Some(config.with_host(format!("unix://{}", socket()?)))
}

/// The engine itself, for a look behind the driver.
fn engine() -> Docker {
    Docker::connect_with_unix(&socket().unwrap(), 60, API_DEFAULT_VERSION).unwrap()
}

/// The owner's filter of labels.
fn owned_by(owner: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("astraforge.sandbox.owner={owner}")])])
}

/// Names of containers and volumes that an owner has.
async fn belongings(owner: &str) -> Vec<String> {
    let engine = engine();
    let containers = ListContainersOptionsBuilder::new().all(true).filters(&owned_by(owner)).build();
    let containers = engine.list_containers(Some(containers)).await.unwrap();
    let volumes = ListVolumesOptionsBuilder::new().filters(&owned_by(owner)).build();
    let volumes = engine.list_volumes(Some(volumes)).await.unwrap().volumes.unwrap_or_default();
    let containers = containers.into_iter().flat_map(|it| it.names.unwrap_or_default());
    containers.chain(volumes.into_iter().map(|it| it.name)).collect()
}

/// The Docker driver with an owner of its own, of whom nothing may be left in the end.
#[derive(Debug)]
struct Tidy {
    driver: DockerDriver,
    owner: String,
}

impl Tidy {
    async fn new(config: DockerConfig) -> Self {
        let owner = config.owner.clone();
        Self { driver: DockerDriver::connect(config).await.unwrap(), owner }
    }
}

impl Drop for Tidy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let owner = self.owner.clone();
        let left = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(belongings(&owner))
        });
        let left = left.join().unwrap();
        assert!(left.is_empty(), "left over: {left:?}");
    }
}

#[async_trait]
impl SandboxDriver for Tidy {
    fn name(&self) -> &'static str {
        self.driver.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.driver.capabilities()
    }

    async fn create(
        &self,
        id: SandboxId,
        spec: &SandboxSpec,
        service_ports: &[u16],
    ) -> Result<WorkspaceOrigin, DriverError> {
        self.driver.create(id, spec, service_ports).await
    }

    async fn connect(&self, id: SandboxId) -> Result<GuestStream, DriverError> {
        self.driver.connect(id).await
    }

    async fn usage(&self, id: SandboxId) -> Result<Usage, DriverError> {
        self.driver.usage(id).await
    }

    async fn list(&self) -> Result<Vec<SandboxId>, DriverError> {
        self.driver.list().await
    }

    async fn left(&self) -> Result<Vec<SandboxId>, DriverError> {
        self.driver.left().await
    }

    async fn oom_kills(&self, id: SandboxId) -> Option<u64> {
        self.driver.oom_kills(id).await
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), DriverError> {
        self.driver.destroy(id).await
    }
}

/// One sandbox on a driver of its own.
struct Fixture {
    sandboxes: Sandboxes,
    session: Arc<dyn Session>,
}

impl Fixture {
    async fn new(config: DockerConfig, spec: SandboxSpec) -> Self {
        let sandboxes = Sandboxes::new(Arc::new(Tidy::new(config).await));
        let session = sandboxes.create(SandboxId::random(), spec, Vec::new()).await.unwrap();
        Self { sandboxes, session }
    }

    async fn run(&self, command: Command) -> ExecOutput {
        run(&*self.session, command).await
    }

    /// Runs a line, and returns what it wrote.
    async fn shell(&self, line: &str) -> String {
        text(&self.run(Command::shell(line)).await)
    }

    async fn end(self) {
        self.sandboxes.destroy(self.session.id()).await.unwrap();
    }
}

async fn run(session: &dyn Session, command: Command) -> ExecOutput {
    let run = async { session.exec(command).await.unwrap().collect(1 << 20).await.unwrap() };
    tokio::time::timeout(PATIENCE, run).await.expect("the command ends")
}

/// Both streams of a command, without the last line's end.
fn text(output: &ExecOutput) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).trim_end().to_owned()
}

/// A sandbox with a workspace on disk.
fn on_disk() -> SandboxSpec {
    SandboxSpec::default().with_workspace(Workspace::Disk { size: Limit::best_effort(ByteSize::mib(64)) })
}
