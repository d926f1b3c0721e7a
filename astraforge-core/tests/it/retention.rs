//! Logs that are archived: every event can be read, whatever fails and wherever, and readers see one log.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use astraforge_core::{
    event::{EventKind, NewEvent, RunEvent},
    id::{LogArchiveId, RequestId, RunId},
    journal::Journal,
    ports::{
        artifacts::{ArtifactError, ArtifactStore, ArtifactStream},
        clock::Clock as _,
        store::{Changes, Store as _, StoreError},
    },
    redact::Redactor,
    request::{Request, RequestState},
    retention::{Kept, Retention},
    run::{Run, RunStatus},
    run_log::RunLogs,
    session::ByteSize,
    testing::{MemoryArtifacts, MemoryStore, MemoryWakeups, TestClock, samples, store::Breaks},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

/// Nothing stays in the database that may go.
const NOTHING: Kept = Kept { age: None, size: Some(ByteSize::bytes(0)) };

struct World {
    store: Arc<MemoryStore>,
    files: Arc<Files>,
    clock: TestClock,
}

impl World {
    /// Ids are made by the real time, so this world's clock begins there.
    fn new() -> Self {
        let clock = TestClock::at(LogArchiveId::random().made_at().unwrap());
        Self { store: Arc::default(), files: Arc::default(), clock }
    }

    fn logs(&self) -> RunLogs {
        RunLogs::from(self.store.clone()).with_archives(self.files.clone())
    }

    fn retention(&self, kept: Kept) -> Retention {
        Retention::new(self.store.clone(), self.files.clone(), Arc::new(self.clock.clone()), kept)
    }

    async fn archive_all(&self) -> u64 {
        self.retention(NOTHING).archive().await.unwrap().n_events
    }

    /// A request whose run is over, and which has so many events.
    async fn request(&self, n_events: usize) -> (Request, RunId) {
        let request = Request { state: RequestState::Reviewed, updated_at: self.clock.now(), ..samples::request() };
        let run = Run { status: RunStatus::Completed, ..samples::run(&request) };
        let changes = Changes { runs: vec![run.clone()], ..samples::submitted(&request) };
        self.store.commit(changes).await.unwrap();
        self.write(request.id, Some(run.id), n_events).await;
        (request, run.id)
    }

    async fn write(&self, request: RequestId, run: Option<RunId>, n_events: usize) {
        let line = |n| NewEvent { run, ..samples::log(request, format!("line {n}")) };
        self.store.append((0..n_events).map(line).collect()).await.unwrap();
    }

    async fn n_rows(&self, request: RequestId) -> usize {
        self.store.events(request, 0, u32::MAX).await.unwrap().len()
    }
}

/// Reads a log as a reader does that takes a few at a time.
async fn read(logs: &RunLogs, request: RequestId, limit: u32) -> Result<Vec<RunEvent>, StoreError> {
    let mut events: Vec<RunEvent> = Vec::new();
    loop {
        let next = logs.events(request, events.last().map_or(0, |event| event.seq), limit).await?;
        if next.is_empty() {
            return Ok(events);
        }
        assert!(next.len() <= limit as usize);
        events.extend(next);
    }
}

#[tokio::test]
async fn a_reader_notices_nothing_of_an_archived_log() {
    let world = World::new();
    let (request, run) = world.request(2500).await;
    world.write(request.id, None, 3).await;
    let before = read(&world.logs(), request.id, 1000).await.unwrap();
    assert_eq!(world.archive_all().await, 2503);
    assert_eq!(world.n_rows(request.id).await, 0);
    assert_eq!(world.files.inner.keys().len(), 3, "in parts");
    for limit in [1, 32, 999, 5000] {
        assert_eq!(read(&world.logs(), request.id, limit).await.unwrap(), before, "{limit} at a time");
    }
    for after in [0, 999, 1000, 1001, 2502] {
        let next = world.logs().events(request.id, after, 1).await.unwrap();
        assert_eq!(next, before[usize::try_from(after).unwrap()..][..1], "after {after}");
    }
    for after in [2503, 9999, u64::MAX] {
        assert_eq!(world.logs().events(request.id, after, 9).await.unwrap(), [], "after {after}");
    }
    assert_eq!(world.logs().events(request.id, 0, 0).await.unwrap(), []);
    assert_eq!(world.logs().events_of_run(request.id, run).await.unwrap(), before[..2500]);
    assert_eq!(world.logs().events_of_run(request.id, RunId::random()).await.unwrap(), []);
    assert_eq!(world.logs().events_by_run(request.id).await.unwrap()[&run], before[..2500]);
}

#[tokio::test]
async fn a_follow_up_goes_on_with_the_numbers_and_is_read_behind_the_archive() {
    let world = World::new();
    let (request, run) = world.request(5).await;
    world.archive_all().await;
    let wakeups = Arc::new(MemoryWakeups::default());
    let journal = Journal::new(world.logs(), wakeups, Arc::new(world.clock.clone()), Redactor::default());
    let mut reader = std::pin::pin!(journal.follow(request.id, 3));
    assert_eq!(reader.next().await.unwrap().unwrap().seq, 4);
    assert_eq!(reader.next().await.unwrap().unwrap().seq, 5);
    let again = samples::run(&request);
    let changes = Changes { runs: vec![again.clone()], ..Changes::default() };
    journal.commit(changes).await.unwrap();
    let event = |run: RunId| journal.event(request.id, Some(run), EventKind::log("again"));
    // What follows a run belongs to it too, such as the publication of its change.
    journal.append(vec![event(again.id), event(run)]).await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().seq, 6);
    assert_eq!(world.archive_all().await, 0, "its second run is to come");
    let numbers = |events: Vec<RunEvent>| events.iter().map(|event| event.seq).collect::<Vec<_>>();
    assert_eq!(numbers(read(&world.logs(), request.id, 4).await.unwrap()), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(numbers(world.logs().events_of_run(request.id, run).await.unwrap()), [1, 2, 3, 4, 5, 7]);
    let over = Run { status: RunStatus::Failed, ..again.clone() };
    world.store.commit(Changes { runs: vec![over], ..Changes::default() }).await.unwrap();
    assert_eq!(world.archive_all().await, 2);
    assert_eq!(numbers(read(&world.logs(), request.id, 4).await.unwrap()), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(numbers(world.logs().events_of_run(request.id, again.id).await.unwrap()), [6]);
}

#[tokio::test]
async fn logs_go_when_they_are_old_or_too_much() {
    let world = World::new();
    let (old, _) = world.request(3).await;
    world.clock.advance(Duration::from_secs(100));
    let (young, _) = world.request(3).await;
    let half = world.store.logs_size().await.unwrap() / 2;
    let rows = async || (world.n_rows(old.id).await, world.n_rows(young.id).await);
    let archive = async |kept| world.retention(kept).archive().await.unwrap().n_logs;
    assert_eq!(archive(Kept { age: Some(Duration::from_secs(100)), size: None }).await, 0);
    assert_eq!(archive(Kept { age: None, size: Some(ByteSize::bytes(2 * half)) }).await, 0);
    assert_eq!(archive(Kept::default()).await, 0);
    assert!(world.retention(Kept::default()).keeps_all() && !world.retention(NOTHING).keeps_all());
    assert_eq!(archive(Kept { age: None, size: Some(ByteSize::bytes(half)) }).await, 1);
    assert_eq!(rows().await, (0, 3));
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(archive(Kept { age: Some(Duration::from_secs(0)), size: None }).await, 1);
    assert_eq!(rows().await, (0, 0));
}

#[tokio::test]
async fn more_logs_than_are_listed_at_once_are_archived_in_one_round() {
    let world = World::new();
    for _ in 0..2 * Retention::PAGE + 1 {
        world.request(1).await;
    }
    assert_eq!(world.retention(NOTHING).archive().await.unwrap().n_logs as u32, 2 * Retention::PAGE + 1);
    assert_eq!(world.store.logs_size().await.unwrap(), 0);
}

#[tokio::test]
async fn a_log_that_cannot_be_read_holds_up_no_other() {
    let world = World::new();
    let (damaged, _) = world.request(9).await;
    let (sound, _) = world.request(3).await;
    world.store.damage(7);
    let archived = world.retention(NOTHING).archive().await.unwrap();
    assert_eq!((archived.n_logs, archived.failed.len()), (1, 1));
    assert_eq!(archived.failed[0].0, damaged.id);
    assert_eq!(world.n_rows(sound.id).await, 0);
}

#[tokio::test]
async fn a_log_that_comes_to_work_between_two_parts_keeps_the_rest() {
    let world = World::new();
    let (request, run) = world.request(1500).await;
    let (store, again) = (world.store.clone(), samples::run(&request));
    world.files.before_put(2, move || {
        let changes = Changes { runs: vec![again.clone()], ..Changes::default() };
        futures::executor::block_on(store.commit(changes)).unwrap();
    });
    assert_eq!(world.archive_all().await, 1000);
    assert_eq!(world.n_rows(request.id).await, 500);
    assert_eq!(world.files.inner.keys().len(), 1, "what is not told of is not left");
    assert_eq!(read(&world.logs(), request.id, 32).await.unwrap().len(), 1500);
    assert_eq!(world.logs().events_of_run(request.id, run).await.unwrap().len(), 1500);
}

/// Lets each call of a round fail in turn, in each way, and looks each time whether all can be read and the next round
/// makes it good.
#[tokio::test]
async fn whatever_fails_at_whichever_step_no_event_is_lost() {
    for fault in [Fault::Before, Fault::After, Fault::CutShort] {
        for n_call in 1.. {
            let world = World::new();
            let (request, _) = world.request(1500).await;
            let before = read(&world.logs(), request.id, 1000).await.unwrap();
            world.files.fails_at(n_call, fault);
            let outcome = world.retention(NOTHING).archive().await;
            let has_failed = world.files.has_failed();
            assert_eq!(outcome.is_err(), has_failed, "{fault:?} at call {n_call}: {outcome:?}");
            made_good(&world, request.id, &before, &format!("{fault:?} at call {n_call}")).await;
            if !has_failed {
                assert!(n_call > 4, "two parts are put and read back");
                break;
            }
        }
    }
    for breaks in [Breaks::Before, Breaks::After] {
        let world = World::new();
        let (request, _) = world.request(1500).await;
        let before = read(&world.logs(), request.id, 1000).await.unwrap();
        world.store.breaks_off(breaks);
        world.retention(NOTHING).archive().await.unwrap_err();
        made_good(&world, request.id, &before, &format!("{breaks:?}")).await;
    }
}

/// All can be read, the next round archives it, and the sweep leaves what rows tell of.
async fn made_good(world: &World, request: RequestId, before: &[RunEvent], what: &str) {
    let all = async || read(&world.logs(), request, 100).await.unwrap();
    assert_eq!(all().await, before, "{what}");
    world.archive_all().await;
    assert_eq!(world.n_rows(request).await, 0, "{what}");
    assert_eq!(all().await, before, "{what}, and archived");
    assert_eq!(world.retention(NOTHING).sweep().await.unwrap().removed.len(), 0, "{what}: too young");
    world.clock.advance(Duration::from_secs(25 * 3600));
    let swept = world.retention(NOTHING).sweep().await.unwrap();
    assert_eq!(swept.failed.len(), 0, "{what}");
    let told: Vec<String> =
        world.store.archives(request).await.unwrap().into_iter().map(|archive| archive.key).collect();
    assert_eq!(world.files.inner.keys(), told, "{what}: {swept:?}");
    assert_eq!(all().await, before, "{what}, and swept");
}

#[tokio::test]
async fn an_archive_that_is_missing_or_damaged_is_an_error_and_no_empty_log() {
    let world = World::new();
    let (request, run) = world.request(5).await;
    world.archive_all().await;
    world.write(request.id, None, 2).await;
    let key = world.files.inner.keys().remove(0);
    let sound = world.files.inner.get(&key).await.unwrap().unwrap();
    let check = async |expected: &str| {
        let logs = world.logs();
        let all = [
            logs.events(request.id, 0, 9).await.map(drop),
            logs.events_of_run(request.id, run).await.map(drop),
            logs.events_by_run(request.id).await.map(drop),
        ];
        for error in all.map(Result::unwrap_err) {
            let told = astraforge_core::error::chain(&error);
            assert!(told.contains(expected) && told.contains(&key) && told.contains("backup"), "{told}");
            assert!(matches!(error, StoreError::Unreadable { .. }), "{error:?}");
        }
        assert_eq!(logs.events(request.id, 5, 9).await.unwrap().len(), 2, "what is a row is still read");
    };
    world.files.inner.delete(&key).await.unwrap();
    check("is missing").await;
    world.files.inner.put(&key, sound.slice(1..)).await.unwrap();
    check("SHA-256").await;
    world.files.inner.put(&key, sound).await.unwrap();
    assert_eq!(read(&world.logs(), request.id, 9).await.unwrap().len(), 7);
    let nowhere = RunLogs::from(world.store.clone());
    nowhere.events(request.id, 0, 9).await.unwrap_err();
}

#[tokio::test]
async fn archives_of_others_in_the_same_place_are_left_alone() {
    let world = World::new();
    let (request, _) = world.request(5).await;
    let others = [
        format!("run-logs/{}/{}.jsonl.gz", RequestId::random(), LogArchiveId::random()),
        format!("run-logs/{}/{}.txt", request.id, LogArchiveId::random()),
        format!("elsewhere/{}/{}.jsonl.gz", request.id, LogArchiveId::random()),
    ];
    let ours = format!("run-logs/{}/{}.jsonl.gz", request.id, LogArchiveId::random());
    for key in others.iter().chain([&ours]) {
        world.files.inner.put(key, "x".into()).await.unwrap();
    }
    world.clock.advance(Duration::from_secs(25 * 3600));
    assert_eq!(world.retention(NOTHING).sweep().await.unwrap().removed, [ours]);
    assert_eq!(world.files.inner.keys().len(), others.len());
}

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing is done.
    Before,
    /// It is done, and that is not answered.
    After,
    /// What is stored or read lacks its end, and nobody says so.
    CutShort,
}

/// Files that fail once.
#[derive(Default)]
struct Files {
    inner: MemoryArtifacts,
    n_calls: AtomicUsize,
    n_puts: AtomicUsize,
    fault: Mutex<Option<(usize, Fault)>>,
    before_put: Mutex<Option<(usize, Act)>>,
}

type Act = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").finish_non_exhaustive()
    }
}

impl Files {
    fn fails_at(&self, n_call: usize, fault: Fault) {
        *self.fault.lock().unwrap() = Some((n_call, fault));
    }

    /// Lets nothing fail any more, and tells whether something has.
    fn has_failed(&self) -> bool {
        self.fault.lock().unwrap().take().is_none()
    }

    /// Does something before the put of that number.
    fn before_put(&self, n_put: usize, act: impl FnOnce() + Send + 'static) {
        *self.before_put.lock().unwrap() = Some((n_put, Box::new(act)));
    }

    /// What goes wrong with the next call.
    fn fault(&self) -> Option<Fault> {
        let n_call = self.n_calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.fault.lock().unwrap().take_if(|(at, _)| *at == n_call).map(|(_, fault)| fault)
    }
}

fn away(key: &str) -> ArtifactError {
    ArtifactError { operation: "reach", key: key.to_owned(), source: "the bucket is away".into() }
}

fn cut(bytes: &Bytes) -> Bytes {
    bytes.slice(..bytes.len() / 2)
}

#[async_trait]
impl ArtifactStore for Files {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ArtifactError> {
        let n_put = self.n_puts.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some((_, act)) = self.before_put.lock().unwrap().take_if(|(at, _)| *at == n_put) {
            act();
        }
        match self.fault() {
            Some(Fault::Before) => Err(away(key)),
            Some(Fault::After) => self.inner.put(key, bytes).await.and(Err(away(key))),
            Some(Fault::CutShort) => self.inner.put(key, cut(&bytes)).await,
            None => self.inner.put(key, bytes).await,
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, ArtifactError> {
        match self.fault() {
            Some(Fault::Before | Fault::After) => Err(away(key)),
            Some(Fault::CutShort) => Ok(self.inner.get(key).await?.as_ref().map(cut)),
            None => self.inner.get(key).await,
        }
    }

    async fn put_stream(&self, key: &str, bytes: ArtifactStream) -> Result<u64, ArtifactError> {
        self.inner.put_stream(key, bytes).await
    }

    async fn get_stream(&self, key: &str) -> Result<Option<ArtifactStream>, ArtifactError> {
        self.inner.get_stream(key).await
    }

    async fn delete(&self, key: &str) -> Result<(), ArtifactError> {
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, ArtifactError> {
        self.inner.list(prefix).await
    }
}
