//! Sandboxes come and go; their files stay.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::TimeDelta;
use futures::{StreamExt, TryStreamExt, future::join_all, stream};
use tower::util::BoxCloneSyncService;

use super::*;
use crate::{
    access::Role,
    id::TenantId,
    sandbox::{SandboxStatus, Termination},
    testing::{MemoryArtifacts, MemorySandboxStore, PlayedMachines, TestClock, samples},
};

mod nodes;

const FILE: &str = "/workspace/work";

struct World {
    plane: ControlPlane,
    machines: Arc<PlayedMachines>,
    artifacts: Arc<MemoryArtifacts>,
    store: Arc<MemorySandboxStore>,
    clock: TestClock,
    caller: Caller,
}

impl World {
    fn new() -> Self {
        let (machines, artifacts) = (Arc::new(PlayedMachines::default()), Arc::new(MemoryArtifacts::default()));
        let (store, clock) = (Arc::new(MemorySandboxStore::default()), TestClock::hurried());
        let mut world = Self {
            plane: ControlPlane::new(store.clone(), artifacts.clone(), Arc::new(clock.clone()), vec![machines.clone()]),
            machines,
            artifacts,
            store,
            clock,
            caller: samples::caller("ada", Role::Maintainer),
        };
        world.plane = world.another_plane();
        world
    }

    /// A control plane of another process, on the same store and machines.
    fn another_plane(&self) -> ControlPlane {
        let clock = Arc::new(self.clock.clone());
        ControlPlane::new(self.store.clone(), self.artifacts.clone(), clock, vec![self.machines.clone()])
    }

    /// One that signs links, and gets layers.
    fn builder(&self) -> ControlPlaneBuilder {
        let (clock, settings) = (Arc::new(self.clock.clone()), ControlSettings::default());
        let settings = settings.with_link_key(LinkKey::new([7; 32]));
        ControlPlane::builder(self.store.clone(), self.artifacts.clone(), clock, vec![self.machines.clone()], settings)
    }

    /// Makes a sandbox with a file.
    async fn sandbox(&self) -> SandboxId {
        let id = self.plane.create(&self.caller, NewSandbox::default()).await.unwrap().sandbox.id;
        self.machines.write(id, FILE, "precious");
        id
    }

    async fn row(&self, id: SandboxId) -> Sandbox {
        self.store.sandbox(id).await.unwrap().unwrap()
    }

    fn file(&self, id: SandboxId) -> Option<String> {
        self.machines.read(id, FILE)
    }
}

#[tokio::test]
async fn the_same_id_is_the_same_sandbox_however_many_ask() {
    let world = World::new();
    let other = world.another_plane();
    let new = NewSandbox { id: Some(SandboxId::random()), ..NewSandbox::default() };
    let asked = (0..10).map(|n| {
        let plane = if n % 2 == 0 { &world.plane } else { &other };
        plane.create(&world.caller, new.clone())
    });
    let created: Vec<_> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(created.iter().filter(|it| it.is_new).count(), 1);
    assert!(created.iter().all(|it| it.sandbox.status == SandboxStatus::Ready && Some(it.sandbox.id) == new.id));
    assert_eq!(world.machines.n_made(), 1);
}

#[tokio::test]
async fn a_stopped_sandbox_comes_back_once_with_its_files_however_many_ask() {
    let world = World::new();
    let id = world.sandbox().await;
    world.plane.stop(&world.caller, id).await.unwrap();
    world.plane.stop(&world.caller, id).await.unwrap();
    let row = world.row(id).await;
    assert_eq!((row.status, row.termination), (SandboxStatus::Terminated, Some(Termination::Stopped)));
    assert!(world.machines.live().is_empty() && row.latest_snapshot.is_some());
    let snapshots = world.plane.snapshots(&world.caller, id).await.unwrap();
    assert_eq!((snapshots.len(), snapshots[0].label.as_str()), (1, "auto-stop"));
    world.clock.advance(Duration::from_secs(1000));
    let other = world.another_plane();
    let asked = (0..10).map(|n| {
        let plane = if n % 2 == 0 { &world.plane } else { &other };
        plane.machine(&world.caller, id)
    });
    for machine in join_all(asked).await {
        assert_eq!(machine.unwrap().read_file(FILE, 100).await.unwrap(), "precious");
    }
    assert_eq!(world.machines.n_made(), 2);
    let row = world.row(id).await;
    assert_eq!((row.status, row.termination), (SandboxStatus::Ready, None));
    assert!(row.expires_at() > world.clock.now() + TimeDelta::minutes(55), "its lifetime begins anew");
}

#[tokio::test]
async fn files_are_never_silently_empty() {
    let world = World::new();
    let id = world.sandbox().await;
    world.machines.kill(id, false);
    let lost = world.plane.machine(&world.caller, id).await.unwrap_err();
    assert!(crate::error::chain(&lost).contains("are lost"), "{lost}");
    assert!(world.plane.machine(&world.caller, id).await.is_err(), "nor at the second try");
    assert!(world.machines.live().is_empty());
    let row = world.row(id).await;
    assert_eq!(row.termination, Some(Termination::RestoreFailed));
    assert!(row.error_message.contains("are lost"));

    let kept = world.sandbox().await;
    world.machines.kill(kept, true);
    world.plane.machine(&world.caller, kept).await.unwrap();
    assert_eq!(world.file(kept).as_deref(), Some("precious"), "a workspace that was left is taken over");
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_thrown_away() {
    let world = World::new();
    let id = world.sandbox().await;
    world.machines.breaks.store(true, Ordering::SeqCst);
    world.plane.stop(&world.caller, id).await.unwrap_err();
    world.clock.advance(Duration::from_secs(10_000));
    let reaped = world.plane.reap().await.unwrap();
    assert_eq!((reaped.ended.len(), reaped.failed.len()), (0, 1));
    let row = world.row(id).await;
    assert_eq!((row.status, row.latest_snapshot), (SandboxStatus::Ready, None));
    assert!(row.error_message.contains("it goes on"), "{}", row.error_message);
    assert!(world.artifacts.keys().is_empty(), "half an archive is none");
    world.machines.breaks.store(false, Ordering::SeqCst);
    let reaped = world.plane.reap().await.unwrap();
    assert_eq!(reaped.ended, [(id, Termination::MaxLifetime)]);
    world.plane.machine(&world.caller, id).await.unwrap();
    assert_eq!(world.file(id).as_deref(), Some("precious"));
    assert_eq!(world.row(id).await.error_message, "");
}

#[tokio::test]
async fn a_restore_that_fails_leaves_no_empty_sandbox() {
    let world = World::new();
    let id = world.sandbox().await;
    world.plane.stop(&world.caller, id).await.unwrap();
    world.machines.rejects.store(true, Ordering::SeqCst);
    world.plane.machine(&world.caller, id).await.unwrap_err();
    assert!(world.machines.live().is_empty());
    assert_eq!(world.row(id).await.termination, Some(Termination::RestoreFailed));
    world.machines.rejects.store(false, Ordering::SeqCst);
    world.plane.machine(&world.caller, id).await.unwrap();
    assert_eq!(world.file(id).as_deref(), Some("precious"));
    // Bytes that changed where they are kept replace nothing.
    let snapshot = world.plane.snapshot(&world.caller, id, NewSnapshot::default()).await.unwrap();
    world.artifacts.put(&snapshot.key, r#"{"/workspace/work":"tampered"}"#.into()).await.unwrap();
    world.plane.restore(&world.caller, id, snapshot.id).await.unwrap_err();
    assert_eq!(world.file(id).as_deref(), Some("precious"));
}

#[tokio::test]
async fn snapshots_restore_fork_and_compare() {
    let world = World::new();
    let id = world.sandbox().await;
    let snapshot = world.plane.snapshot(&world.caller, id, NewSnapshot::default()).await.unwrap();
    world.machines.write(id, "/workspace/new", "12");
    let changes = world.plane.diff(&world.caller, id, snapshot.id, 10).await.unwrap().changes;
    assert_eq!(changes.iter().map(|it| it.path.as_str()).collect::<Vec<_>>(), ["/workspace/new"]);
    let fork = world.plane.fork(&world.caller, id).await.unwrap();
    assert_eq!(world.machines.read(fork.id, "/workspace/new").as_deref(), Some("12"));
    world.plane.restore(&world.caller, id, snapshot.id).await.unwrap();
    assert_eq!(world.machines.read(id, "/workspace/new"), None);
    assert_eq!(world.row(id).await.latest_snapshot, Some(snapshot.id));
    let from = NewSandbox { restore: Some(snapshot.id), ..NewSandbox::default() };
    let copy = world.plane.create(&world.caller, from).await.unwrap().sandbox;
    assert_eq!(world.file(copy.id).as_deref(), Some("precious"));
}

#[tokio::test]
async fn what_is_deleted_does_not_come_back() {
    let world = World::new();
    let id = world.sandbox().await;
    world.plane.delete(&world.caller, id).await.unwrap();
    world.plane.delete(&world.caller, id).await.unwrap();
    assert!(world.machines.live().is_empty());
    assert!(matches!(world.plane.machine(&world.caller, id).await, Err(ForgeError::NoSandbox { .. })));
    let again = NewSandbox { id: Some(id), ..NewSandbox::default() };
    assert!(matches!(world.plane.create(&world.caller, again).await, Err(ForgeError::NoSandbox { .. })));
    assert!(world.plane.list(&world.caller).await.unwrap().is_empty());
    assert_eq!(world.row(id).await.termination, Some(Termination::Deleted), "the row stays, for the record");
}

#[tokio::test]
async fn another_tenant_finds_nothing() {
    let world = World::new();
    let id = world.sandbox().await;
    let snapshot = world.plane.snapshot(&world.caller, id, NewSnapshot::default()).await.unwrap();
    let stranger = Caller { tenant: TenantId::new("other"), ..world.caller.clone() };
    let plane = &world.plane;
    let not_found = |result: Result<(), ForgeError>| {
        assert!(matches!(
            result,
            Err(ForgeError::NoSandbox { .. } | ForgeError::NoSnapshot { .. } | ForgeError::NotFound { .. })
        ));
    };
    not_found(plane.get(&stranger, id).await.map(drop));
    not_found(plane.machine(&stranger, id).await.map(drop));
    not_found(plane.heartbeat(&stranger, id).await.map(drop));
    not_found(plane.stop(&stranger, id).await);
    not_found(plane.delete(&stranger, id).await);
    not_found(plane.snapshots(&stranger, id).await.map(drop));
    not_found(plane.fork(&stranger, id).await.map(drop));
    not_found(plane.artifact(&stranger, ArtifactId::random()).await.map(drop));
    let theirs = NewSandbox { id: Some(id), ..NewSandbox::default() };
    not_found(plane.create(&stranger, theirs).await.map(drop));
    let restored = NewSandbox { restore: Some(snapshot.id), ..NewSandbox::default() };
    not_found(plane.create(&stranger, restored).await.map(drop));
    assert!(plane.list(&stranger).await.unwrap().is_empty());
    let observer = samples::caller("eve", Role::Observer);
    assert!(matches!(plane.machine(&observer, id).await, Err(ForgeError::Forbidden(_))));
}

#[tokio::test]
async fn what_cannot_be_made_says_why_and_can_be_tried_again() {
    let world = World::new();
    let missing = NewSandbox { mode: Some("docker".to_owned()), ..NewSandbox::default() };
    let error = world.plane.create(&world.caller, missing).await.unwrap_err();
    assert!(error.to_string().contains("it has played"), "{error}");
    world.machines.refuses.store(true, Ordering::SeqCst);
    let new = NewSandbox { id: Some(SandboxId::random()), ..NewSandbox::default() };
    world.plane.create(&world.caller, new.clone()).await.unwrap_err();
    let row = world.row(new.id.unwrap()).await;
    assert_eq!(row.status, SandboxStatus::Failed);
    assert!(row.error_message.contains("the test says so"));
    world.machines.refuses.store(false, Ordering::SeqCst);
    let created = world.plane.create(&world.caller, new).await.unwrap();
    assert_eq!((created.is_new, created.sandbox.error_message.as_str()), (false, ""));
}

#[tokio::test]
async fn a_heartbeat_keeps_a_sandbox_and_its_absence_ends_it() {
    let world = World::new();
    let (kept, idle) = (world.sandbox().await, world.sandbox().await);
    world.clock.advance(Duration::from_secs(299));
    world.plane.heartbeat(&world.caller, kept).await.unwrap();
    world.clock.advance(Duration::from_secs(2));
    let reaped = world.plane.reap().await.unwrap();
    assert_eq!((reaped.n_checked, reaped.ended), (2, vec![(idle, Termination::IdleTimeout)]));
    assert_eq!(world.plane.snapshots(&world.caller, idle).await.unwrap()[0].label, "auto-idle_timeout");
}

#[tokio::test]
async fn a_start_makes_rows_and_machines_agree() {
    let world = World::new();
    let (lives, died) = (world.sandbox().await, world.sandbox().await);
    world.machines.kill(died, true);
    let (orphan, foreign) = (SandboxId::random(), SandboxId::random());
    for id in [orphan, foreign] {
        world.machines.make(id, SandboxSpec::default()).await.unwrap();
    }
    world.another_plane().adopt(&|id| id == foreign).await.unwrap();
    let mut live = world.machines.live();
    live.sort();
    let mut expected = vec![lives, foreign];
    expected.sort();
    assert_eq!(live, expected);
    assert_eq!(world.row(died).await.termination, Some(Termination::Lost));
}

#[tokio::test]
async fn a_start_removes_workspaces_that_nobody_can_ask_for_again() {
    let world = World::new();
    let (kept, deleted, foreign) = (world.sandbox().await, world.sandbox().await, SandboxId::random());
    world.machines.make(foreign, SandboxSpec::default()).await.unwrap();
    for id in [kept, deleted, foreign] {
        world.machines.kill(id, true);
    }
    // As a server leaves it that was killed between the row and the machine.
    let mut left = world.row(deleted).await;
    left.terminate(Termination::Deleted);
    assert!(world.store.update_sandbox(&left).await.unwrap());
    world.another_plane().adopt(&|id| id == foreign).await.unwrap();
    let left = world.machines.left().await.unwrap();
    assert!(left.contains(&kept) && left.contains(&foreign) && left.len() == 2, "{left:?}");
    world.plane.machine(&world.caller, kept).await.unwrap();
    assert_eq!(world.file(kept).as_deref(), Some("precious"));
}

#[tokio::test]
async fn a_server_that_died_while_starting_holds_up_nobody_for_ever() {
    let world = World::new();
    let id = world.sandbox().await;
    world.plane.stop(&world.caller, id).await.unwrap();
    let row = world.row(id).await;
    // As a server leaves it that was killed between the row and the machine.
    let mut left = row.clone();
    left.start(world.clock.now(), None);
    assert!(world.store.update_sandbox(&left).await.unwrap());
    world.plane.machine(&world.caller, id).await.unwrap();
    assert_eq!(world.file(id).as_deref(), Some("precious"));
}

#[tokio::test]
async fn whoever_was_held_up_while_starting_spoils_nothing_that_another_has_by_then() {
    for rejects in [false, true] {
        let world = World::new();
        let (id, other) = (world.sandbox().await, world.another_plane());
        world.plane.stop(&world.caller, id).await.unwrap();
        let mut held_up = Box::pin(world.plane.machine(&world.caller, id));
        while world.machines.n_made() < 2 {
            assert!(futures::poll!(&mut held_up).is_pending());
        }
        world.clock.advance(Duration::from_secs(30));
        other.machine(&world.caller, id).await.unwrap();
        world.machines.write(id, FILE, "newer");
        world.machines.rejects.store(rejects, Ordering::SeqCst);
        held_up.await.unwrap_err();
        assert_eq!(world.file(id).as_deref(), Some("newer"), "its archive is refused: {rejects}");
        assert_eq!(world.row(id).await.status, SandboxStatus::Ready);
    }
}

#[tokio::test]
async fn what_nobody_goes_on_starting_is_brought_up_by_the_reaper() {
    let world = World::new();
    let id = world.sandbox().await;
    world.plane.stop(&world.caller, id).await.unwrap();
    let mut left = world.row(id).await;
    left.start(world.clock.now(), None);
    assert!(world.store.update_sandbox(&left).await.unwrap());
    world.plane.reap().await.unwrap();
    assert_eq!(world.row(id).await.status, SandboxStatus::Starting, "it may be at work yet");
    world.clock.advance(Duration::from_secs(30));
    assert!(world.plane.reap().await.unwrap().failed.is_empty());
    assert_eq!(world.row(id).await.status, SandboxStatus::Ready);
    assert_eq!(world.file(id).as_deref(), Some("precious"));
}

#[tokio::test]
async fn a_file_that_was_taken_out_outlives_its_sandbox() {
    let world = World::new();
    let id = world.sandbox().await;
    let artifact = world.plane.export(
        &world.caller,
        id,
        NewExport { filename: Some("a\r\nb".to_owned()), ..NewExport::new(FILE) },
    );
    let artifact = artifact.await.unwrap();
    assert_eq!((artifact.filename.as_str(), artifact.size), ("ab", 8));
    world.plane.delete(&world.caller, id).await.unwrap();
    let (_, bytes) = world.plane.artifact(&world.caller, artifact.id).await.unwrap();
    assert_eq!(bytes.try_collect::<Vec<_>>().await.unwrap().concat(), b"precious");
}

#[tokio::test]
async fn a_machine_that_somebody_else_made_keeps_the_files_it_has() {
    let world = World::new();
    let id = world.sandbox().await;
    world.plane.snapshot(&world.caller, id, NewSnapshot::default()).await.unwrap();
    world.machines.write(id, FILE, "newer");
    // As a server leaves it that was killed between the machine and the row.
    let mut left = world.row(id).await;
    left.start(world.clock.now() - TimeDelta::hours(1), None);
    assert!(world.store.update_sandbox(&left).await.unwrap());
    world.plane.machine(&world.caller, id).await.unwrap();
    assert_eq!(world.file(id).as_deref(), Some("newer"), "nothing older is put over it");
    // And one that never got its files gets them.
    let mut left = world.row(id).await;
    left.start(world.clock.now() - TimeDelta::hours(1), None);
    assert!(world.store.update_sandbox(&left).await.unwrap());
    world.machines.kill(id, false);
    world.machines.make(id, SandboxSpec::default()).await.unwrap();
    world.plane.machine(&world.caller, id).await.unwrap();
    assert_eq!(world.file(id).as_deref(), Some("precious"));
}

#[tokio::test]
async fn a_change_of_egress_holds_at_once_and_when_the_sandbox_comes_back() {
    let world = World::new();
    let id = world.sandbox().await;
    assert_eq!(world.machines.egress(id), Some(Egress::Off));
    let changed = world.plane.set_egress(&world.caller, id, Egress::Public).await.unwrap();
    assert_eq!(changed.spec.egress, Egress::Public);
    assert_eq!(world.machines.egress(id), Some(Egress::Public), "where it runs");

    world.plane.stop(&world.caller, id).await.unwrap();
    let narrow = Egress::allowlist(["example.com".parse().unwrap()]);
    world.plane.set_egress(&world.caller, id, narrow.clone()).await.unwrap();
    world.another_plane().machine(&world.caller, id).await.unwrap();
    assert_eq!(world.machines.egress(id), Some(narrow), "when it comes back");

    world.plane.context.change(world.row(id).await, &|row| row.spec.egress = Egress::Off).await.unwrap();
    world.another_plane().reap().await.unwrap();
    assert_eq!(world.machines.egress(id), Some(Egress::Off), "where another process changed it");

    world.plane.context.change(world.row(id).await, &|row| row.spec.egress = Egress::Public).await.unwrap();
    world.plane.usage(&world.caller, id).await.unwrap();
    assert_eq!(world.machines.egress(id), Some(Egress::Off), "looking at it changes nothing");
    world.plane.machine(&world.caller, id).await.unwrap();
    assert_eq!(world.machines.egress(id), Some(Egress::Public), "using it does");

    let mut stranger = samples::caller("eve", Role::Maintainer);
    stranger.tenant = TenantId::new("another");
    let refused = world.plane.set_egress(&stranger, id, Egress::Public).await;
    assert!(matches!(refused, Err(ForgeError::NoSandbox { .. })), "{refused:?}");
}

/// Counts the commands that pass.
#[derive(Clone, Default)]
struct Counted(Arc<AtomicUsize>);

impl<S> tower::Layer<S> for Counted {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Counting<S> {
        Counting { inner, seen: self.0.clone() }
    }
}

#[derive(Clone)]
struct Counting<S> {
    inner: S,
    seen: Arc<AtomicUsize>,
}

impl<C, S: tower::Service<C>> tower::Service<C> for Counting<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, command: C) -> S::Future {
        self.seen.fetch_add(1, Ordering::SeqCst);
        self.inner.call(command)
    }
}

#[tokio::test]
async fn no_method_goes_around_a_layer() {
    let world = World::new();
    let (counted, stopped) = (Counted::default(), Arc::new(Mutex::new(None)));
    let heard = stopped.clone();
    // A service of one's own in place of one: stopping is refused.
    let never = tower::service_fn(move |command: StopSandbox| {
        *heard.lock().unwrap() = Some(command.id);
        async { Err::<(), crate::BoxError>("not today".into()) }
    });
    let plane = world.builder().with_stop_sandbox(BoxCloneSyncService::new(never)).layer(counted.clone()).build();
    let (caller, seen) = (&world.caller, || counted.0.load(Ordering::SeqCst));
    let id = plane.create(caller, NewSandbox::default()).await.unwrap().sandbox.id;
    plane.machine(caller, id).await.unwrap();
    plane.heartbeat(caller, id).await.unwrap();
    let snapshot = plane.snapshot(caller, id, NewSnapshot::default()).await.unwrap();
    plane.restore(caller, id, snapshot.id).await.unwrap();
    let fork = plane.fork(caller, id).await.unwrap();
    assert_eq!(seen(), 6, "a fork is one command, whatever it takes");
    let refused = plane.stop(caller, id).await.unwrap_err();
    assert!(matches!(&refused, ForgeError::Layer(why) if why.to_string() == "not today"), "{refused}");
    assert_eq!(*stopped.lock().unwrap(), Some(id));
    plane.delete(caller, fork.id).await.unwrap();
    assert_eq!(seen(), 8);
}

#[tokio::test]
async fn snapshots_that_nobody_asked_for_do_not_pile_up() {
    let world = World::new();
    let (id, caller) = (world.sandbox().await, &world.caller);
    let asked = world.plane.snapshot(caller, id, NewSnapshot::default()).await.unwrap();
    world.plane.stop(caller, id).await.unwrap();
    let first = world.row(id).await.latest_snapshot.unwrap();
    let from = NewSandbox { restore: Some(first), ..NewSandbox::default() };
    let copy = world.plane.create(caller, from).await.unwrap().sandbox.id;
    for _ in 0..5 {
        world.plane.machine(caller, id).await.unwrap();
        world.plane.stop(caller, id).await.unwrap();
    }
    let left: Vec<_> = world.plane.snapshots(caller, id).await.unwrap().into_iter().map(|it| it.id).collect();
    assert_eq!(left.len(), 5, "the last three, the one that was asked for, and what the copy comes back from");
    assert!(left.contains(&asked.id) && left.contains(&first));
    world.machines.kill(copy, false);
    world.plane.machine(caller, copy).await.unwrap();
    assert_eq!(world.file(copy).as_deref(), Some("precious"));
}

#[tokio::test]
async fn a_link_opens_one_file_for_a_while_and_for_anybody() {
    let world = World::new();
    let id = world.sandbox().await;
    let plane = world.builder().build();
    let artifact = plane.export(&world.caller, id, NewExport::new(FILE)).await.unwrap();
    let link = plane.link(&world.caller, artifact.id, 60).await.unwrap();
    assert!(link.path_and_query().starts_with(&format!("/api/sandbox/artifacts/{}/download/?tenant=", artifact.id)));
    let (found, bytes) = plane.download(&link.claim, &link.proof).await.unwrap();
    assert_eq!((found.id, bytes.try_collect::<Vec<_>>().await.unwrap().concat()), (artifact.id, b"precious".to_vec()));
    let longer = LinkClaim { expires: link.claim.expires + 60, ..link.claim.clone() };
    assert!(matches!(plane.download(&longer, &link.proof).await, Err(ForgeError::NotFound { .. })));
    world.clock.advance(Duration::from_secs(61));
    assert!(matches!(plane.download(&link.claim, &link.proof).await, Err(ForgeError::NotFound { .. })));
    for seconds in [0, 8 * 24 * 3600] {
        assert!(matches!(plane.link(&world.caller, artifact.id, seconds).await, Err(ForgeError::Invalid { .. })));
    }
    let stranger = Caller { tenant: TenantId::new("other"), ..world.caller.clone() };
    assert!(matches!(plane.link(&stranger, artifact.id, 60).await, Err(ForgeError::NotFound { .. })));
    let without_key = world.plane.link(&world.caller, artifact.id, 60).await;
    assert!(matches!(without_key, Err(ForgeError::Conflict { .. })));
}

#[tokio::test]
async fn what_is_no_archive_is_refused_before_anything_is_touched() {
    let world = World::new();
    let id = world.sandbox().await;
    for bytes in [&b"PK\x03\x04"[..], b"", b"\x1f"] {
        let archive = stream::iter([Ok(bytes.into())]).boxed();
        let refused = world.plane.restore_archive(&world.caller, id, archive).await;
        assert!(matches!(refused, Err(ForgeError::Invalid { field: "archive", .. })));
    }
    assert_eq!(world.file(id).as_deref(), Some("precious"));
}

#[tokio::test]
async fn what_sandboxes_use_is_measured_and_told_to_their_tenant() {
    let world = World::new();
    let id = world.sandbox().await;
    assert!(world.plane.usage(&world.caller, id).await.unwrap().is_some());
    world.plane.sample_usage().await.unwrap();
    assert_eq!(world.plane.usage_samples(&world.caller).unwrap()[0].id, id);
    let stranger = Caller { tenant: TenantId::new("other"), ..world.caller.clone() };
    assert!(world.plane.usage_samples(&stranger).unwrap().is_empty());
    world.plane.stop(&world.caller, id).await.unwrap();
    assert_eq!(world.plane.usage(&world.caller, id).await.unwrap(), None, "it is not woken to be measured");
    assert_eq!(world.row(id).await.status, SandboxStatus::Terminated);
}

#[tokio::test]
async fn naming_a_snapshot_again_rolls_nothing_back_that_was_written_since() {
    let world = World::new();
    let id = world.sandbox().await;
    let write = |text| world.machines.write(id, "/workspace/a", text);
    let read = || world.machines.read(id, "/workspace/a").unwrap();
    let snapshot = async |label: &str| {
        let new = NewSnapshot { label: label.to_owned(), ..NewSnapshot::default() };
        world.plane.snapshot(&world.caller, id, new).await
    };
    write("old");
    let first = snapshot("mine").await.unwrap().id;
    let again = NewSandbox { id: Some(id), restore: Some(first), ..NewSandbox::default() };
    write("new");
    world.plane.create(&world.caller, again.clone()).await.unwrap();
    assert_eq!(read(), "new");
    // It was stopped after its user had looked at it, and came back from what was kept then.
    world.plane.stop(&world.caller, id).await.unwrap();
    world.plane.create(&world.caller, again.clone()).await.unwrap();
    assert_eq!(read(), "new");
    snapshot("mine too").await.unwrap();
    world.plane.create(&world.caller, again).await.unwrap();
    assert_eq!(read(), "old", "somebody who kept another state since means it");
    let refused = snapshot("auto-stop").await;
    assert!(matches!(refused, Err(ForgeError::Invalid { field: "label", .. })), "those go by themselves: {refused:?}");
}
