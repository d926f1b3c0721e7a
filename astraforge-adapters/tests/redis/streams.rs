//! Run logs as streams: complete, in order, bounded, and no burden to those who write.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use astraforge_adapters::{
    artifacts::FolderArtifacts,
    clock::SystemClock,
    redis::{RedisBus, RedisConfig},
    secret_box::SecretKey,
    sqlite::SqliteStore,
    wakeup::BusTrouble,
};
use astraforge_core::{
    event::{Envelope, EventKind, RunEvent},
    id::RequestId,
    journal::Journal,
    ports::{
        clock::Clock as _,
        store::{Changes, Store},
        wakeup::{Topic, Wakeups as _},
    },
    redact::Redactor,
    request::{Request, RequestState},
    retention::{Kept, Retention},
    run::{Run, RunStatus},
    run_log::RunLogs,
    session::ByteSize,
    testing::samples,
};
use futures::{StreamExt as _, future::join_all};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

use crate::{Log, PATIENCE, server::Server, until};

/// A database, and a Redis server that may be there or not.
pub(crate) struct World {
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) config: RedisConfig,
    folder: tempfile::TempDir,
}

/// What one process has.
pub(crate) struct Process {
    pub(crate) bus: Arc<RedisBus>,
    journal: Journal,
}

/// A request of now, as those that are published by themselves are recent.
pub(crate) async fn submitted(store: &SqliteStore) -> RequestId {
    let request = Request { updated_at: SystemClock.now(), ..samples::request() };
    store.commit(samples::submitted(&request)).await.unwrap();
    request.id
}

impl World {
    pub(crate) async fn new(config: RedisConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("a.db"), SecretKey::random().unwrap()).await.unwrap();
        Self { store: Arc::new(store), config, folder }
    }

    /// Makes the rows of a log unreadable.
    async fn damage(&self, request: RequestId) {
        let file = SqliteConnectOptions::new().filename(self.folder.path().join("a.db"));
        let mut database = file.connect().await.unwrap();
        let spoil = "UPDATE events SET kind = 'spoilt' WHERE request = $1";
        let spoilt = sqlx::query(spoil).bind(request.to_string()).execute(&mut database).await.unwrap();
        assert!(spoilt.rows_affected() > 0);
        database.close().await.unwrap();
    }

    pub(crate) fn process(&self) -> Process {
        let bus = Arc::new(RedisBus::start(&self.config, self.store.clone()));
        let journal = Journal::new(self.store.clone(), bus.clone(), Arc::new(SystemClock), Redactor::default());
        Process { bus, journal }
    }

    /// Waits until the stream ends with the last row.
    pub(crate) async fn is_published(&self, request: RequestId, server: &Server) {
        let last = self.store.last_event(request).await.unwrap();
        until("the last row is in the stream", async || server.ids(&self.config.stream(request)).last() == Some(&last))
            .await;
    }
}

impl Process {
    pub(crate) async fn write(&self, request: RequestId, n: usize, line: &str) {
        let event = || self.journal.event(request, None, EventKind::log(line));
        self.journal.append((0..n).map(|_| event()).collect()).await.unwrap();
    }
}

#[tokio::test]
async fn an_event_is_in_the_stream_a_moment_after_it_is_written() {
    let server = Server::started();
    let world = World::new(server.config()).await;
    let process = world.process();
    until("the bus is well", async || process.bus.check().is_ok()).await;
    let request = submitted(&world.store).await;
    let began = Instant::now();
    process.write(request, 3, "hello").await;
    world.is_published(request, &server).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let rows = world.store.events(request, 0, 9).await.unwrap();
    let expected: Vec<String> =
        rows.into_iter().map(|row| serde_json::to_string(&Envelope::from(row)).unwrap()).collect();
    assert_eq!(server.data(&world.config.stream(request)), expected);
}

#[tokio::test]
async fn a_stream_begins_with_what_is_archived() {
    let server = Server::started();
    let world = World::new(server.config()).await;
    let request = Request { state: RequestState::Failed, updated_at: SystemClock.now(), ..samples::request() };
    let over = Run { status: RunStatus::Failed, ..samples::run(&request) };
    world.store.commit(Changes { runs: vec![over], ..samples::submitted(&request) }).await.unwrap();
    world.store.append((0..5).map(|n| samples::log(request.id, n.to_string())).collect()).await.unwrap();
    let files = Arc::new(FolderArtifacts::new(world.folder.path().join("files")));
    let nothing = Kept { age: None, size: Some(ByteSize::bytes(0)) };
    let clock = Arc::new(SystemClock);
    Retention::new(world.store.clone(), files.clone(), clock, nothing).archive().await.unwrap();

    let logs = RunLogs::from(world.store.clone()).with_archives(files);
    let bus = RedisBus::start(&world.config, logs);
    until("the bus is well", async || bus.check().is_ok()).await;
    world.store.append(vec![samples::log(request.id, "again")]).await.unwrap();
    bus.wake(Topic::Log(request.id));
    world.is_published(request.id, &server).await;
    assert_eq!(server.ids(&world.config.stream(request.id)), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_publishers_double_and_disorder_nothing() {
    let server = Server::started();
    let world = World::new(server.config().with_max_length(100_000)).await;
    let processes: Vec<Process> = (0..4).map(|_| world.process()).collect();
    let requests = [submitted(&world.store).await, submitted(&world.store).await];
    join_all(processes.iter().map(async |process| {
        for n in 0..100 {
            process.write(requests[n % 2], 1 + n % 3, "line").await;
        }
    }))
    .await;
    for request in requests {
        world.is_published(request, &server).await;
        let ids = server.ids(&world.config.stream(request));
        assert!(ids.iter().copied().eq(1..=ids.len() as u64), "{ids:?}");
    }
}

#[tokio::test]
async fn what_a_killed_process_wrote_is_published_by_the_others() {
    let server = Server::started();
    let world = World::new(server.config()).await;
    let other = world.process();
    until("the bus is well", async || other.bus.check().is_ok()).await;
    // It was killed before anybody heard of its rows.
    let request = submitted(&world.store).await;
    world.store.append(vec![samples::log(request, "last words")]).await.unwrap();
    world.is_published(request, &server).await;
}

#[tokio::test]
async fn a_process_that_ends_publishes_what_it_wrote_last() {
    let server = Server::started();
    let world = World::new(server.config()).await;
    let process = world.process();
    until("the bus is well", async || process.bus.check().is_ok()).await;
    for _ in 0..5 {
        let request = submitted(&world.store).await;
        let process = world.process();
        process.write(request, 300, "line").await;
        process.bus.close().await;
        assert_eq!(server.ids(&world.config.stream(request)).len(), 300);
    }
}

#[tokio::test]
async fn a_process_that_ends_tries_once_more_while_it_waits_for_redis() {
    let mut server = Server::new();
    let world = World::new(server.config()).await;
    let process = world.process();
    let request = submitted(&world.store).await;
    process.write(request, 300, "line").await;
    until("it was tried to publish", async || {
        matches!(process.bus.check(), Err(BusTrouble::Both { .. } | BusTrouble::RunLogs { .. }))
    })
    .await;
    // Pauses double: after 3.1 s, one of 3.2 s begins.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    server.start();
    process.bus.close().await;
    assert_eq!(server.ids(&world.config.stream(request)).len(), 300);
}

#[tokio::test]
async fn a_process_that_ends_says_what_it_could_not_publish() {
    let server = Server::new();
    let world = World::new(server.config()).await;
    let log = Log::default();
    for (n, says) in [(0, false), (1, true)] {
        let process = world.process();
        let request = submitted(&world.store).await;
        process.write(request, n, "line").await;
        process.bus.close().await;
        assert_eq!(log.read().contains("the end of some run logs is not in their streams"), says, "{n} lines");
    }
    assert!(log.read().contains("refused"), "{}", log.read());
}

#[tokio::test]
async fn a_stream_that_was_removed_is_written_again_as_far_back_as_it_is_long() {
    let server = Server::started();
    let world = World::new(server.config().with_max_length(200)).await;
    let process = world.process();
    let request = submitted(&world.store).await;
    process.write(request, 1000, "line").await;
    world.is_published(request, &server).await;
    server.flush();
    // Nobody writes: what was lost is found by itself.
    world.is_published(request, &server).await;
    let ids = server.ids(&world.config.stream(request));
    assert!(ids.iter().copied().eq(801..=1000), "{ids:?}");
    // And at once when somebody does.
    server.flush();
    process.write(request, 1, "line").await;
    let began = Instant::now();
    world.is_published(request, &server).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(server.ids(&world.config.stream(request)).first(), Some(&802));
}

#[tokio::test]
async fn a_stream_is_bounded_in_length_and_time() {
    let server = Server::started();
    let kept = [
        (Some(Duration::from_secs(60)), 50..=60),
        (Some(Duration::MAX), 3_153_599_990..=3_153_600_000),
        (None, -1..=-1),
    ];
    for (retention, expected) in kept {
        let config =
            server.config().with_prefix(format!("{retention:?}")).with_max_length(100).with_retention(retention);
        let world = World::new(config).await;
        let request = submitted(&world.store).await;
        let process = world.process();
        for _ in 0..50 {
            process.write(request, 20, "line").await;
        }
        world.is_published(request, &server).await;
        let stream = world.config.stream(request);
        let ids = server.ids(&stream);
        assert!((100..=250).contains(&ids.len()), "{} entries", ids.len());
        assert!(ids.iter().copied().eq(1001 - ids.len() as u64..=1000), "the newest are kept");
        let ttl = server.ttl(&stream);
        assert!(expected.contains(&ttl), "{ttl}");
    }
}

#[tokio::test]
async fn a_name_that_is_taken_holds_up_no_other_log() {
    let server = Server::started();
    let world = World::new(server.config()).await;
    let (taken, free) = (submitted(&world.store).await, submitted(&world.store).await);
    server.set(&world.config.stream(taken), "somebody else's");
    let process = world.process();
    process.write(taken, 1, "line").await;
    process.write(free, 1, "line").await;
    world.is_published(free, &server).await;
    until("the bus is well", async || process.bus.check().is_ok()).await;
}

#[tokio::test]
async fn a_log_that_cannot_be_read_holds_up_no_other() {
    let server = Server::started();
    let world = World::new(server.config()).await;
    // Logs are compared the newest first, so the damaged one is met before the other.
    let (whole, damaged) = (submitted(&world.store).await, submitted(&world.store).await);
    for request in [whole, damaged] {
        world.store.append(vec![samples::log(request, "line")]).await.unwrap();
    }
    world.damage(damaged).await;
    let process = world.process();
    world.is_published(whole, &server).await;
    process.write(damaged, 1, "line").await;
    process.write(whole, 1, "line").await;
    world.is_published(whole, &server).await;
    until("the bus is well", async || process.bus.check().is_ok()).await;
    assert!(server.ids(&world.config.stream(damaged)).is_empty(), "a stream has no gap");
}

#[tokio::test]
async fn a_log_beyond_those_that_are_compared_is_published_with_its_next_event() {
    let log = Log::default();
    let server = Server::started();
    let world = World::new(server.config()).await;
    let mut requests = Vec::new();
    for _ in 0..1001 {
        let request = submitted(&world.store).await;
        world.store.append(vec![samples::log(request, "line")]).await.unwrap();
        requests.push(request);
    }
    let process = world.process();
    // The newest are first, so this one is the last that is compared.
    world.is_published(requests[1], &server).await;
    assert!(log.read().contains("only the 1000 run logs whose requests changed last are compared"), "{}", log.read());
    until("the bus is well", async || process.bus.check().is_ok()).await;
    assert!(server.ids(&world.config.stream(requests[0])).is_empty());
    process.write(requests[0], 1, "line").await;
    world.is_published(requests[0], &server).await;
    assert_eq!(server.ids(&world.config.stream(requests[0])), [1, 2]);
}

#[tokio::test]
async fn a_stream_that_tells_another_history_is_begun_anew() {
    let server = Server::started();
    let world = World::new(server.config()).await;
    // An older copy of the database was put back; somebody else wrote with ids of their own.
    for foreign in ["9-0", "1730000000000-3"] {
        let request = submitted(&world.store).await;
        server.add(&world.config.stream(request), foreign, "{}");
        let process = world.process();
        process.write(request, 3, "line").await;
        until("the stream is begun anew", async || server.ids(&world.config.stream(request)) == [1, 2, 3]).await;
    }
}

#[tokio::test]
async fn nobody_who_writes_or_follows_waits_for_a_redis_that_is_absent() {
    let server = Server::new();
    let world = World::new(server.config()).await;
    let (writer, reader) = (world.process(), world.process());
    let request = submitted(&world.store).await;
    let mut followed = std::pin::pin!(reader.journal.follow(request, 0));
    let mut slowest = Duration::ZERO;
    for n in 1..=20 {
        let began = Instant::now();
        writer.write(request, 1, "line").await;
        let event: RunEvent = tokio::time::timeout(PATIENCE, followed.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(event.seq, n);
        slowest = slowest.max(began.elapsed());
    }
    // The reader in the other process looks by itself.
    assert!(slowest < Duration::from_millis(1500), "{slowest:?}");
    assert!(writer.bus.check().is_err());
}

#[tokio::test]
async fn what_the_bus_does_not_do_is_said_and_nothing_else() {
    let mut server = Server::started();
    server.allow("deaf", "hush", "~runlog:* +eval +xinfo +xadd +exists +expire +persist +del");
    server.allow("mute", "hush", "&runlog:hints +subscribe +publish");
    for (login, says, says_not) in [("deaf", "carries no hints", "run logs"), ("mute", "gets no run logs", "hints")] {
        let config = RedisConfig::new(&format!("redis://{login}:hush@127.0.0.1:{}/0", server.port())).unwrap();
        let world = World::new(config).await;
        let process = world.process();
        let told = || process.bus.check().map_or_else(|trouble| trouble.to_string(), |()| String::new());
        process.write(submitted(&world.store).await, 1, "line").await;
        until(says, async || {
            let told = told();
            told.contains(says) && !told.contains(says_not) && told.to_lowercase().contains("permission")
        })
        .await;
    }
    let world = World::new(server.config()).await;
    let process = world.process();
    until("the bus is well", async || process.bus.check().is_ok()).await;
    server.stop();
    process.write(submitted(&world.store).await, 1, "line").await;
    until("both are missed", async || matches!(process.bus.check(), Err(BusTrouble::Both { .. }))).await;
}

#[tokio::test]
async fn a_login_with_the_rights_of_the_documentation_is_enough() {
    let server = Server::started();
    server.allow(
        "forge",
        "hush",
        "~runlog:* &runlog:hints +subscribe +publish +eval +xinfo +xadd +exists +expire +persist +del",
    );
    let config = RedisConfig::new(&format!("redis://forge:hush@127.0.0.1:{}/0", server.port())).unwrap();
    let world = World::new(config).await;
    let process = world.process();
    until("the bus is well", async || process.bus.check().is_ok()).await;
    let request = submitted(&world.store).await;
    server.add(&world.config.stream(request), "9-0", "{}");
    process.write(request, 3, "line").await;
    until("the stream is begun anew", async || server.ids(&world.config.stream(request)) == [1, 2, 3]).await;
    // A wrong password is told, and holds up nobody.
    let config = RedisConfig::new(&format!("redis://forge:mistyped@127.0.0.1:{}/0", server.port())).unwrap();
    let refused = World::new(config).await;
    let process = refused.process();
    let request = submitted(&refused.store).await;
    process.write(request, 3, "line").await;
    until("the password is refused", async || {
        process.bus.check().is_err_and(|trouble| trouble.to_string().to_lowercase().contains("password"))
    })
    .await;
    assert!(!process.bus.check().unwrap_err().to_string().contains("mistyped"));
}
