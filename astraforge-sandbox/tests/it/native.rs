//! The native driver on this machine: the rules of every driver, and what only this one has to promise.
//!
//! As root all of it runs a second time, as an ordinary user.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failing test is what these are for")]

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command as Process,
    sync::Arc,
    time::{Duration, Instant},
};

use astraforge_core::{
    id::SandboxId,
    ports::{
        guest_service::GuestStream,
        machines::{Usage, WorkspaceOrigin},
        sessions::{Session, Sessions},
    },
    session::{Command, ExecOutput, SandboxSpec},
};
use astraforge_sandbox::{
    doctor::{Status, examine},
    driver::{Capabilities, DriverError, DynSandboxDriver, SandboxDriver},
    driver_conformance,
    native::{NativeConfig, NativeDriver},
    sandboxes::Sandboxes,
};
use async_trait::async_trait;
use tempfile::TempDir;

mod at_once;
mod attacks;
mod disk;
mod folders;
mod images;
mod inside;
mod kept;
mod leftovers;
mod limits;
mod pool;
mod usage;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

driver_conformance!(async { native() });

mod machines {
    use super::*;

    astraforge_core::machines_conformance!(async { ((), Sandboxes::new(native()), "/workspace") });
}

/// The native driver, for any test.
pub(crate) fn native() -> DynSandboxDriver {
    Arc::new(Native::new())
}

/// The native driver with a state folder of its own, which must be empty in the end.
#[derive(Debug)]
struct Native {
    /// There until the end.
    driver: Option<NativeDriver>,
    state: TempDir,
}

impl Native {
    fn new() -> Self {
        Self::with(|config| config)
    }

    fn with(configure: impl FnOnce(NativeConfig) -> NativeConfig) -> Self {
        let state = tempfile::tempdir().unwrap();
        let driver = NativeDriver::new(configure(config(state.path()))).unwrap();
        Self { driver: Some(driver), state }
    }

    fn driver(&self) -> &NativeDriver {
        self.driver.as_ref().unwrap()
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        drop(self.driver.take());
        let left: Vec<_> = fs::read_dir(self.state.path()).unwrap().map(|it| it.unwrap().path()).collect();
        if !std::thread::panicking() {
            assert!(left.is_empty(), "left over: {left:?}");
        }
    }
}

#[async_trait]
impl SandboxDriver for Native {
    fn name(&self) -> &'static str {
        self.driver().name()
    }

    fn capabilities(&self) -> Capabilities {
        self.driver().capabilities()
    }

    async fn create(
        &self,
        id: SandboxId,
        spec: &SandboxSpec,
        service_ports: &[u16],
    ) -> Result<WorkspaceOrigin, DriverError> {
        self.driver().create(id, spec, service_ports).await
    }

    async fn connect(&self, id: SandboxId) -> Result<GuestStream, DriverError> {
        self.driver().connect(id).await
    }

    async fn usage(&self, id: SandboxId) -> Result<Usage, DriverError> {
        self.driver().usage(id).await
    }

    async fn oom_kills(&self, id: SandboxId) -> Option<u64> {
        self.driver().oom_kills(id).await
    }

    async fn list(&self) -> Result<Vec<SandboxId>, DriverError> {
        self.driver().list().await
    }

    async fn left(&self) -> Result<Vec<SandboxId>, DriverError> {
        self.driver().left().await
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), DriverError> {
        self.driver().destroy(id).await
    }
}

/// One sandbox on a driver of its own.
struct Fixture {
    native: Arc<Native>,
    sandboxes: Sandboxes,
    session: Arc<dyn Session>,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(SandboxSpec::default()).await
    }

    async fn with(spec: SandboxSpec) -> Self {
        let native = Arc::new(Native::new());
        let sandboxes = Sandboxes::new(Arc::clone(&native) as DynSandboxDriver);
        let session = sandboxes.create(SandboxId::random(), spec, Vec::new()).await.unwrap();
        Self { native, sandboxes, session }
    }

    async fn run(&self, command: Command) -> ExecOutput {
        let run = async { self.session.exec(command).await.unwrap().collect(1 << 20).await.unwrap() };
        tokio::time::timeout(PATIENCE, run).await.expect("the command ends")
    }

    /// Runs a line that must succeed, and returns what it wrote.
    async fn shell(&self, line: &str) -> String {
        let output = self.run(Command::shell(line)).await;
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        assert!(output.exit.success(), "{line}: {} {text} {}", output.exit, String::from_utf8_lossy(&output.stderr));
        text
    }

    /// What the host knows about the sandbox's processes and control groups.
    fn footprint(&self) -> Footprint {
        Footprint::of(&self.native.state.path().join(self.session.id().to_string()))
    }

    async fn end(self) {
        let footprint = self.footprint();
        self.sandboxes.destroy(self.session.id()).await.unwrap();
        footprint.assert_gone();
    }
}

/// What a sandbox occupies on the host, read from the record in its folder.
#[derive(Debug)]
struct Footprint {
    folder: PathBuf,
    keeper: i32,
    init: i32,
    cgroups: Vec<PathBuf>,
}

impl Footprint {
    fn of(folder: &Path) -> Self {
        let record = fs::read(folder.join("record.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        let pid = |of: &str| i32::try_from(record[of]["pid"].as_i64().unwrap()).unwrap();
        let cgroups = record["cgroups"].as_array().unwrap().iter();
        Self {
            folder: folder.to_owned(),
            keeper: pid("keeper"),
            init: pid("init"),
            cgroups: cgroups.map(|it| it.as_str().unwrap().into()).collect(),
        }
    }

    fn is_gone(&self) -> bool {
        !alive(self.keeper) && !alive(self.init) && !self.folder.exists() && self.cgroups.iter().all(|it| !it.exists())
    }

    #[track_caller]
    fn assert_gone(&self) {
        assert!(self.is_gone(), "left over: {self:?}");
    }

    async fn wait_until_gone(&self) {
        let start = Instant::now();
        while !self.is_gone() {
            assert!(start.elapsed() < PATIENCE, "left over: {self:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Tells whether a process runs; one that only waits to be reaped does not.
fn alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !matches!(stat.rsplit(')').next().unwrap().trim().as_bytes()[0], b'Z' | b'X'))
}

fn config(state: &Path) -> NativeConfig {
    NativeConfig::new(state, crate::guest_program::path())
}

/// The hostile program of the attack suite, which is built beside the guest.
fn attacker() -> PathBuf {
    crate::guest_program::path().with_file_name("astraforge-attacker")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn the_doctor_finds_a_machine_fit_that_runs_sandboxes() {
    let state = tempfile::tempdir().unwrap();
    let checks = examine(&config(state.path()));
    assert!(checks.iter().all(|it| it.status != Status::Fail), "{checks:#?}");
    assert!(checks.iter().all(|it| it.status == Status::Ok || it.remedy.is_some()), "{checks:#?}");
    assert_eq!(checks.last().unwrap().name, "sandbox");
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn all_of_it_holds_for_an_ordinary_user_too() {
    const NOBODY: u32 = 65534;
    if !is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let test = home.path().join("it");
    fs::copy(std::env::current_exe().unwrap(), &test).unwrap();
    fs::copy(crate::guest_program::path(), home.path().join("guest")).unwrap();
    fs::copy(attacker(), home.path().join("astraforge-attacker")).unwrap();
    for path in ["", "guest", "astraforge-attacker", "it"] {
        open(&home.path().join(path));
    }
    let output = Process::new(test)
        // Attacks by an ordinary user are a check of their own.
        .args(["native::", "--skip", "native::attacks::", "--test-threads=2"])
        .env(crate::guest_program::VARIABLE, home.path().join("guest"))
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("native::inside::"), "the tests ran: {text}");
}
