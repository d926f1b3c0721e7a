//! The attack suite on this driver, and on drivers with a hole in them: those it must find.
#![expect(clippy::print_stdout, reason = "the table of cases is what a test that fails is read by")]

use std::{process::Command as Process, sync::Arc};

use astraforge_core::{
    id::SandboxId,
    ports::{
        artifacts::ArtifactStore,
        guest_service::GuestStream,
        machines::{Usage, WorkspaceOrigin},
        sandbox_store::SandboxStore,
    },
    session::{ByteSize, Limit, SandboxSpec, Workspace},
    testing::{MemoryArtifacts, MemorySandboxStore},
};
use astraforge_sandbox::{
    attack::{self, Attacker, MakePlane, Options, Outcome, Report, Scale, Target},
    driver::{Capabilities, DriverError, DynSandboxDriver, Enforcement, SandboxDriver},
    native::NativeView,
};
use async_trait::async_trait;

use super::{Fixture, Native};
use crate::guest_program;

/// What a run in a process of its own is about.
const GROUP: &str = "ATTACK_GROUP";

/// Stores in memory.
#[derive(Debug)]
struct InMemory;

#[async_trait]
impl MakePlane for InMemory {
    async fn stores(&self) -> Result<(Arc<dyn SandboxStore>, Arc<dyn ArtifactStore>), astraforge_core::BoxError> {
        Ok((Arc::new(MemorySandboxStore::default()), Arc::new(MemoryArtifacts::default())))
    }
}

async fn run(driver: DynSandboxDriver, native: &Native, only: &[&str], scale: Scale) -> Report {
    let host = Arc::new(NativeView::new(native.state.path()));
    let attacker = Attacker::beside(guest_program::path()).unwrap();
    let target = Arc::new(Target::new(driver, host, attacker).with_plane(Arc::new(InMemory)));
    let only = only.iter().map(|it| (*it).to_owned()).collect();
    attack::run(&target, &Options { scale, only }, |progress| println!("{progress}")).await
}

/// In a process of its own, because memory and descriptors of the server are among what is measured.
#[track_caller]
fn holds(group: &str, test: &str) {
    let output = Process::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", &format!("native::attacks::{test}"), "--nocapture"])
        .env(GROUP, group)
        .env(guest_program::VARIABLE, guest_program::path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("pass "), "{group}: no case passed: {text}");
}

macro_rules! every_attack_is_in_vain {
    ($($group:ident)*) => { $(
        #[test]
        fn $group() {
            holds(stringify!($group), "one_group");
        }
    )* };
}

every_attack_is_in_vain! { processes resources kernel files streams network lifecycle }

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "is started by a test, in a process of its own"]
async fn one_group() {
    one(Scale::Quick).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "is started by a test, in a process of its own"]
async fn one_group_at_full_scale() {
    one(Scale::Full).await;
}

async fn one(scale: Scale) {
    let group = std::env::var(GROUP).unwrap();
    let native = Arc::new(Native::new());
    let report = run(Arc::clone(&native) as DynSandboxDriver, &native, &[&group], scale).await;
    println!("{}", report.summary());
    assert!(report.holds(), "{:#?}", report.failed().collect::<Vec<_>>());
}

#[test]
#[ignore = "moves gigabytes, and makes ten thousand sandboxes"]
fn soak_every_attack_is_in_vain_at_full_scale() {
    for group in ["processes", "resources", "kernel", "files", "streams", "network", "lifecycle"] {
        holds(group, "one_group_at_full_scale");
    }
}

/// A native driver with a hole.
#[derive(Debug)]
struct Holed {
    native: Arc<Native>,
    weaken: fn(&mut SandboxSpec),
    forgets: bool,
}

#[async_trait]
impl SandboxDriver for Holed {
    fn name(&self) -> &'static str {
        "holed"
    }

    fn capabilities(&self) -> Capabilities {
        self.native.capabilities()
    }

    async fn create(
        &self,
        id: SandboxId,
        spec: &SandboxSpec,
        service_ports: &[u16],
    ) -> Result<WorkspaceOrigin, DriverError> {
        let mut spec = spec.clone();
        (self.weaken)(&mut spec);
        self.native.create(id, &spec, service_ports).await
    }

    async fn connect(&self, id: SandboxId) -> Result<GuestStream, DriverError> {
        self.native.connect(id).await
    }

    async fn usage(&self, id: SandboxId) -> Result<Usage, DriverError> {
        self.native.usage(id).await
    }

    async fn list(&self) -> Result<Vec<SandboxId>, DriverError> {
        self.native.list().await
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), DriverError> {
        if self.forgets { Ok(()) } else { self.native.destroy(id).await }
    }
}

/// Runs one case on a driver with a hole, and checks that it fails for that.
async fn is_found(case: &str, weaken: fn(&mut SandboxSpec), forgets: bool, by: &str) {
    let native = Arc::new(Native::new());
    let holed = Arc::new(Holed { native: Arc::clone(&native), weaken, forgets });
    let report = run(holed, &native, &[case], Scale::Quick).await;
    for id in native.list().await.unwrap() {
        native.destroy(id).await.unwrap();
    }
    let found = report.cases.iter().find(|it| it.id == case).unwrap();
    assert!(found.result == Outcome::Fail && found.detail.contains(by), "{found:#?}");
    assert!(!report.holds());
}

#[tokio::test]
async fn a_driver_without_a_limit_on_processes_is_found() {
    let weaken = |spec: &mut SandboxSpec| spec.limits.processes = Limit::required(4000);
    is_found("limit-forks", weaken, false, "under a limit of 64").await;
    is_found("limit-threads", weaken, false, "under a limit of 64").await;
}

#[tokio::test]
async fn a_driver_without_a_limit_on_memory_is_found() {
    if Native::new().capabilities().memory != Enforcement::Hard {
        eprintln!("skipped: the limit on memory is not enforced here, and the driver says so");
        return;
    }
    let weaken = |spec: &mut SandboxSpec| spec.limits.memory = Limit::best_effort(ByteSize::gib(4));
    is_found("memory-private", weaken, false, "under a limit of 96 MiB").await;
}

#[tokio::test]
async fn a_driver_without_a_limit_on_files_is_found() {
    let weaken = |spec: &mut SandboxSpec| spec.workspace = Workspace::Tmpfs { size: ByteSize::mib(256) };
    is_found("disk-bytes", weaken, false, "fit where").await;
}

#[tokio::test]
async fn a_driver_that_leaves_processes_is_found() {
    is_found("orphans-after-cancel", |_| {}, true, "left of sandbox").await;
}

#[tokio::test]
async fn a_driver_that_leaves_one_sandbox_of_many_is_found() {
    is_found("flat", |_| {}, true, "left of sandbox").await;
}

#[tokio::test]
async fn a_driver_that_shows_a_way_out_is_found() {
    let weaken = |spec: &mut SandboxSpec| drop(spec.env.insert("HTTPS_PROXY".to_owned(), "http://10.0.0.1".to_owned()));
    is_found("environment", weaken, false, "HTTPS_PROXY").await;
}

#[tokio::test]
async fn a_driver_that_shows_files_of_the_host_is_found() {
    let weaken = |spec: &mut SandboxSpec| *spec = spec.clone().with_folder(std::env::temp_dir(), std::env::temp_dir());
    is_found("host-files", weaken, false, "is there").await;
}

#[tokio::test]
async fn root_owns_nothing_that_an_agent_makes() {
    use std::os::unix::fs::MetadataExt;
    let disk = Workspace::Disk { size: Limit::best_effort(ByteSize::mib(64)) };
    let fixture = Fixture::with(SandboxSpec::default().with_workspace(disk)).await;
    fixture.shell("cp /bin/sh shell; chmod 6755 shell; ln -s /etc/shadow link; mkdir -p a/b; mkfifo pipe").await;
    let folder = fixture.footprint().folder.join("workspace");
    let shell = std::fs::metadata(folder.join("shell")).unwrap();
    assert_ne!(shell.uid(), 0);
    if super::is_root() {
        assert!(shell.uid() >= 0x7000_0000 && shell.gid() >= 0x7000_0000, "{} {}", shell.uid(), shell.gid());
    }
    fixture.end().await;
}
