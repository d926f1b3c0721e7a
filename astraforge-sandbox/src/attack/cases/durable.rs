//! Durable sandboxes: when they end, what brings them back, and whose they are.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use astraforge_core::{
    access::{Caller, Role},
    control_plane::{ControlPlane, NewSandbox, NewSnapshot},
    error::{ForgeError, chain},
    id::{SandboxId, SnapshotId, TenantId, UserId},
    ports::artifacts::{ArtifactError, ArtifactStore, ArtifactStream},
    sandbox::{Lifetime, SandboxStatus, Termination},
    session::Command,
};
use async_trait::async_trait;
use bytes::Bytes;
use chrono::TimeDelta;

use crate::attack::{
    SteppedClock, Target,
    case::{Judged, Stop, hold, table},
    transcript::PATIENCE,
};

table! { Lifecycle:
    "idle-boundary" "a sandbox ends when it has been idle for its time, not before, and keeps its files" target => idle(target);
    "lifetime-boundary" "no heartbeat extends a lifetime" target => lifetime(target);
    "clock-jump" "a clock that goes back ends nothing, and one that jumps ahead loses nothing" target => jump(target);
    "reap-during-command" "a sandbox that ends during a command keeps its files" target => reap_command(target);
    "two-wakers" "of many who wake a sandbox one restores it" target => wakers(target);
    "double-stop" "to stop, delete or restore twice at once is as good as once" target => double(target);
    "other-tenant" "to another tenant a sandbox does not exist, whatever is asked of it" target => tenant(target);
    "failed-snapshot" "a snapshot that fails never becomes the latest" target => failed_snapshot(target);
}

/// A control plane on stores of its own.
struct Plane {
    plane: ControlPlane,
    clock: Arc<SteppedClock>,
    disk: Arc<Disk>,
    caller: Caller,
}

const IDLE: Duration = Duration::from_secs(600);
const MAX: Duration = Duration::from_secs(3600);

impl Plane {
    async fn new(target: &Target) -> Result<Self, Stop> {
        let (store, artifacts) = target.plane()?.stores().await.map_err(|error| Stop::trouble(chain(&*error)))?;
        let clock = Arc::new(SteppedClock::default());
        let disk = Arc::new(Disk { artifacts, is_full: false.into() });
        let machines = Arc::new(target.sandboxes().clone());
        let plane = ControlPlane::new(store, Arc::clone(&disk) as _, Arc::clone(&clock) as _, vec![machines]);
        Ok(Self { plane, clock, disk, caller: caller("own") })
    }

    /// A sandbox with a file in it.
    async fn sandbox(&self, target: &Target) -> Result<SandboxId, Stop> {
        let id = SandboxId::random();
        target.expect(id);
        let lifetime = Lifetime::new(IDLE, MAX)?;
        self.plane.create(&self.caller, NewSandbox { id: Some(id), lifetime, ..NewSandbox::default() }).await?;
        let machine = self.plane.machine(&self.caller, id).await?;
        machine.write_file("/workspace/kept", Bytes::from_static(b"kept"), 0o644).await?;
        Ok(id)
    }

    async fn reap(&self) -> Result<Vec<(SandboxId, Termination)>, Stop> {
        let reaped = self.plane.reap().await?;
        hold!(reaped.failed.is_empty(), "could not be ended: {:?}", reaped.failed);
        Ok(reaped.ended)
    }

    async fn comes_back(&self, id: SandboxId) -> Result<(), Stop> {
        let machine = self.plane.machine(&self.caller, id).await?;
        let kept = machine.read_file("/workspace/kept", 100).await?;
        hold!(kept == "kept", "its file came back as {kept:?}");
        Ok(())
    }

    fn step(&self, by: Duration) {
        self.clock.step(TimeDelta::from_std(by).unwrap_or_default());
    }
}

fn caller(tenant: &str) -> Caller {
    Caller::new(TenantId::new(tenant), UserId::new("attack"), Role::Admin)
}

const SECOND: Duration = Duration::from_secs(1);

async fn idle(target: &Target) -> Judged {
    let plane = Plane::new(target).await?;
    let id = plane.sandbox(target).await?;
    plane.step(IDLE - 30 * SECOND);
    hold!(plane.reap().await?.is_empty(), "it is ended before its time");
    plane.plane.heartbeat(&plane.caller, id).await?;
    plane.step(IDLE - 30 * SECOND);
    hold!(plane.reap().await?.is_empty(), "a heartbeat does not extend its idle time");
    plane.step(31 * SECOND);
    let ended = plane.reap().await?;
    hold!(ended == [(id, Termination::IdleTimeout)], "when its time has come: {ended:?}");
    let sandbox = plane.plane.get(&plane.caller, id).await?;
    hold!(sandbox.termination == Some(Termination::IdleTimeout), "the reason is {:?}", sandbox.termination);
    plane.comes_back(id).await?;
    Ok("not before, then at once; it came back with its file".to_owned())
}

async fn lifetime(target: &Target) -> Judged {
    let plane = Plane::new(target).await?;
    let id = plane.sandbox(target).await?;
    let mut passed = Duration::ZERO;
    while passed + IDLE / 2 < MAX - SECOND {
        plane.step(IDLE / 2);
        passed += IDLE / 2;
        plane.plane.heartbeat(&plane.caller, id).await?;
        hold!(plane.reap().await?.is_empty(), "it is ended before its time, after {passed:?}");
    }
    plane.step(MAX - passed);
    plane.plane.heartbeat(&plane.caller, id).await.ok();
    let ended = plane.reap().await?;
    hold!(ended == [(id, Termination::MaxLifetime)], "when its lifetime is over: {ended:?}");
    plane.comes_back(id).await?;
    Ok("heartbeats all along; ended at its lifetime".to_owned())
}

async fn jump(target: &Target) -> Judged {
    let plane = Plane::new(target).await?;
    let id = plane.sandbox(target).await?;
    plane.clock.step(TimeDelta::hours(-48));
    hold!(plane.reap().await?.is_empty(), "a clock that goes back ends it");
    plane.comes_back(id).await?;
    plane.clock.step(TimeDelta::days(400));
    let ended = plane.reap().await?;
    hold!(ended.len() == 1, "a clock that jumps ahead: {ended:?}");
    hold!(plane.reap().await?.is_empty(), "it is ended twice");
    plane.comes_back(id).await?;
    Ok("two days back, more than a year ahead".to_owned())
}

async fn reap_command(target: &Target) -> Judged {
    let plane = Plane::new(target).await?;
    let id = plane.sandbox(target).await?;
    let machine = plane.plane.machine(&plane.caller, id).await?;
    let busy = machine
        .exec(Command::shell("while :; do echo x >> /workspace/more; sleep 0.01; done").with_cwd("/tmp"))
        .await?;
    plane.step(MAX + SECOND);
    let ended = plane.reap().await?;
    hold!(ended.len() == 1, "it goes on: {ended:?}");
    let end =
        tokio::time::timeout(PATIENCE, busy.collect(1 << 20)).await.map_err(|_| Stop::breach("the command hangs"))?;
    hold!(end.is_err(), "the command is said to have ended by itself: {end:?}");
    plane.comes_back(id).await?;
    Ok("the command failed, the files are kept".to_owned())
}

async fn wakers(target: &Target) -> Judged {
    let plane = Plane::new(target).await?;
    let id = plane.sandbox(target).await?;
    let n_rounds = target.scaled(2, 20);
    for _ in 0..n_rounds {
        plane.plane.stop(&plane.caller, id).await?;
        let before = plane.plane.get(&plane.caller, id).await?;
        hold!(before.status == SandboxStatus::Terminated, "it is {:?} after a stop", before.status);
        // A second control plane on the same rows, as a second server has.
        let woken = (0..10).map(|_| plane.plane.machine(&plane.caller, id));
        for machine in futures::future::join_all(woken).await {
            hold!(machine?.read_file("/workspace/kept", 10).await? == "kept", "somebody got other files");
        }
        let after = plane.plane.get(&plane.caller, id).await?;
        // Starting and ready are a change each; more would be a second restore. Uses are noted too.
        hold!(after.started_at >= before.started_at, "it began before it was stopped");
        let machines = target.driver().list().await.map_err(|error| Stop::trouble(chain(&error)))?;
        hold!(machines.iter().filter(|it| **it == id).count() == 1, "there are others: {machines:?}");
    }
    Ok(format!("{n_rounds} times 10"))
}

async fn double(target: &Target) -> Judged {
    let plane = Plane::new(target).await?;
    let id = plane.sandbox(target).await?;
    let (plane, caller) = (&plane.plane, &plane.caller);
    let snapshot = plane.snapshot(caller, id, NewSnapshot::default()).await?;
    let fine = |what: &str, results: Vec<Result<(), ForgeError>>| {
        let wrong: Vec<_> = results
            .into_iter()
            .filter_map(Result::err)
            .filter(|it| !matches!(it, ForgeError::Conflict { .. }))
            .map(|it| chain(&it))
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(Stop::Breach(format!("{what} at once: {}", wrong.join(", ")))) }
    };
    fine("restores", futures::future::join_all((0..4).map(|_| plane.restore(caller, id, snapshot.id))).await)?;
    let machine = plane.machine(caller, id).await?;
    hold!(machine.read_file("/workspace/kept", 10).await? == "kept", "after 4 restores the file is another");
    fine("stops", futures::future::join_all((0..4).map(|_| plane.stop(caller, id))).await)?;
    plane.stop(caller, id).await?;
    hold!(
        plane.machine(caller, id).await?.read_file("/workspace/kept", 10).await? == "kept",
        "after 5 stops it is another"
    );
    let deletes = futures::future::join_all((0..4).map(|_| plane.delete(caller, id))).await;
    hold!(deletes.iter().any(Result::is_ok), "nobody could delete it: {deletes:?}");
    let gone = plane.machine(caller, id).await;
    hold!(gone.is_err(), "it comes back after it was deleted");
    Ok("4 restores, 5 stops, 4 deletes".to_owned())
}

async fn tenant(target: &Target) -> Judged {
    let plane = Plane::new(target).await?;
    let id = plane.sandbox(target).await?;
    let snapshot = plane.plane.snapshot(&plane.caller, id, NewSnapshot::default()).await?.id;
    let (plane, other) = (&plane.plane, caller("other"));
    let (other, nowhere) = (&other, SandboxId::random());
    let mut n_verbs = 0;
    for (name, theirs, nobodys) in [
        ("get", told(plane.get(other, id).await), told(plane.get(other, nowhere).await)),
        ("heartbeat", told(plane.heartbeat(other, id).await), told(plane.heartbeat(other, nowhere).await)),
        ("use", told(plane.machine(other, id).await), told(plane.machine(other, nowhere).await)),
        ("stop", told(plane.stop(other, id).await), told(plane.stop(other, nowhere).await)),
        (
            "snapshot",
            told(plane.snapshot(other, id, NewSnapshot::default()).await),
            told(plane.snapshot(other, nowhere, NewSnapshot::default()).await),
        ),
        ("snapshots", told(plane.snapshots(other, id).await), told(plane.snapshots(other, nowhere).await)),
        (
            "restore",
            told(plane.restore(other, id, snapshot).await),
            told(plane.restore(other, nowhere, snapshot).await),
        ),
        ("fork", told(plane.fork(other, id).await), told(plane.fork(other, nowhere).await)),
        ("diff", told(plane.diff(other, id, snapshot, 9).await), told(plane.diff(other, nowhere, snapshot, 9).await)),
        ("delete", told(plane.delete(other, id).await), told(plane.delete(other, nowhere).await)),
    ] {
        let same = theirs.replace(&id.to_string(), "ID") == nobodys.replace(&nowhere.to_string(), "ID");
        hold!(same, "{name}: another's sandbox is told as {theirs:?}, none as {nobodys:?}");
        n_verbs += 1;
    }
    let taken = plane.create(other, NewSandbox { id: Some(id), ..NewSandbox::default() }).await;
    hold!(
        matches!(taken, Err(ForgeError::NoSandbox { .. } | ForgeError::Conflict { .. })),
        "another's id can be taken: {taken:?}"
    );
    let restored = NewSandbox { restore: Some(snapshot), ..NewSandbox::default() };
    let made = plane.create(other, restored).await;
    hold!(matches!(made, Err(ForgeError::NoSnapshot { .. })), "another's snapshot can be had: {made:?}");
    let unknown = NewSandbox { restore: Some(SnapshotId::random()), ..NewSandbox::default() };
    hold!(plane.create(other, unknown).await.is_err(), "a snapshot that is not there can be had");
    hold!(plane.list(other).await?.is_empty(), "it is listed");
    Ok(format!("{n_verbs} verbs, its id and its snapshot"))
}

fn told<T>(result: Result<T, ForgeError>) -> String {
    result.map_or_else(|error| chain(&error), |_| "carried out".to_owned())
}

async fn failed_snapshot(target: &Target) -> Judged {
    let plane = Plane::new(target).await?;
    let id = plane.sandbox(target).await?;
    let good = plane.plane.snapshot(&plane.caller, id, NewSnapshot::default()).await?.id;
    plane.disk.is_full.store(true, Ordering::Relaxed);
    let failed = plane.plane.snapshot(&plane.caller, id, NewSnapshot::default()).await;
    hold!(failed.is_err(), "a snapshot on a full disk is said to be there");
    let latest = plane.plane.get(&plane.caller, id).await?.latest_snapshot;
    hold!(latest == Some(good), "the latest is {latest:?}, not {good}");
    plane.step(MAX + SECOND);
    let reaped = plane.plane.reap().await?;
    let sandbox = plane.plane.get(&plane.caller, id).await?;
    hold!(
        sandbox.latest_snapshot == Some(good),
        "a reaper that could keep nothing made {:?} the latest",
        sandbox.latest_snapshot
    );
    plane.disk.is_full.store(false, Ordering::Relaxed);
    plane.comes_back(id).await?;
    Ok(format!("refused; the reaper said {:?}", reaped.failed.iter().map(|it| chain(&it.1)).collect::<Vec<_>>()))
}

/// An artifact store whose disk can be full.
#[derive(Debug)]
struct Disk {
    artifacts: Arc<dyn ArtifactStore>,
    is_full: AtomicBool,
}

impl Disk {
    fn check(&self, key: &str) -> Result<(), ArtifactError> {
        if self.is_full.load(Ordering::Relaxed) {
            let source = std::io::Error::from_raw_os_error(libc::ENOSPC).into();
            return Err(ArtifactError { operation: "write", key: key.to_owned(), source });
        }
        Ok(())
    }
}

#[async_trait]
impl ArtifactStore for Disk {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ArtifactError> {
        self.check(key)?;
        self.artifacts.put(key, bytes).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, ArtifactError> {
        self.artifacts.get(key).await
    }

    async fn put_stream(&self, key: &str, bytes: ArtifactStream) -> Result<u64, ArtifactError> {
        self.check(key)?;
        self.artifacts.put_stream(key, bytes).await
    }

    async fn get_stream(&self, key: &str) -> Result<Option<ArtifactStream>, ArtifactError> {
        self.artifacts.get_stream(key).await
    }

    async fn delete(&self, key: &str) -> Result<(), ArtifactError> {
        self.artifacts.delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, ArtifactError> {
        self.artifacts.list(prefix).await
    }
}
