//! Several processes archive the logs of one database at once, while others read them and write to them.

#![expect(clippy::unwrap_used, reason = "a failing test is what this code is for")]

use std::sync::Arc;

use astraforge_adapters::{artifacts::FolderArtifacts, clock::SystemClock};
use astraforge_core::{
    event::RunEvent,
    id::RequestId,
    ports::store::{Changes, Store},
    request::{Request, RequestState},
    retention::{Kept, Retention},
    run::{Run, RunStatus},
    run_log::RunLogs,
    session::ByteSize,
    testing::samples,
};
use futures::future::join_all;

/// Has each of these stores of one database archive, read and write, and looks whether every event is there once.
pub(crate) async fn story(stores: Vec<Arc<dyn Store>>) {
    let folder = tempfile::tempdir().unwrap();
    let files = Arc::new(FolderArtifacts::new(folder.path()));
    let (long, short) = (resting(&stores[0], 2500).await, resting(&stores[0], 10).await);
    let at_work = at_work(&stores[0], 10).await;
    let nothing = Kept { age: None, size: Some(ByteSize::bytes(0)) };
    let logs = |store: &Arc<dyn Store>| RunLogs::from(store.clone()).with_archives(files.clone());

    let archiving = join_all(stores.iter().map(async |store| {
        let retention = Retention::new(store.clone(), files.clone(), Arc::new(SystemClock), nothing);
        retention.archive().await.unwrap().n_events
    }));
    let reading = join_all(stores.iter().map(async |store| read(&logs(store), long, 70).await.len()));
    let writing = join_all(stores.iter().map(async |store| {
        for _ in 0..10 {
            store.append(vec![samples::log(short, "late"), samples::log(short, "later")]).await.unwrap();
        }
    }));
    let (_, read_meanwhile, _) = futures::join!(archiving, reading, writing);
    assert_eq!(read_meanwhile, vec![2500; stores.len()], "nobody who read meanwhile missed anything");

    // What some of them found locked or written to is archived by the next round.
    let retention = Retention::new(stores[0].clone(), files.clone(), Arc::new(SystemClock), nothing);
    retention.archive().await.unwrap();
    let n_short = 10 + 20 * stores.len();
    for (request, n_events) in [(long, 2500), (short, n_short), (at_work, 10)] {
        for store in &stores {
            let events = read(&logs(store), request, 999).await;
            assert!(events.iter().map(|event| event.seq).eq(1..=n_events as u64), "{} events", events.len());
        }
        let n_rows = stores[0].events(request, 0, u32::MAX).await.unwrap().len();
        assert_eq!(n_rows, if request == at_work { 10 } else { 0 });
        // Each event is in one archive.
        let archives = stores[0].archives(request).await.unwrap();
        let n_archived: u64 = archives.iter().map(|archive| archive.last - archive.first + 1).sum();
        assert_eq!(n_archived as usize + n_rows, n_events);
    }
}

/// A request whose run is over, with so many events.
async fn resting(store: &Arc<dyn Store>, n_events: usize) -> RequestId {
    let request = Request { state: RequestState::Reviewed, ..samples::request() };
    with_run(store, request, RunStatus::Completed, n_events).await
}

/// One whose run is not.
async fn at_work(store: &Arc<dyn Store>, n_events: usize) -> RequestId {
    let request = Request { state: RequestState::Executing, ..samples::request() };
    with_run(store, request, RunStatus::Running, n_events).await
}

async fn with_run(store: &Arc<dyn Store>, request: Request, status: RunStatus, n_events: usize) -> RequestId {
    let run = Run { status, ..samples::run(&request) };
    store.commit(Changes { runs: vec![run], ..samples::submitted(&request) }).await.unwrap();
    let events = (0..n_events).map(|n| samples::log(request.id, format!("line {n}"))).collect();
    store.append(events).await.unwrap();
    request.id
}

async fn read(logs: &RunLogs, request: RequestId, limit: u32) -> Vec<RunEvent> {
    let mut events: Vec<RunEvent> = Vec::new();
    loop {
        let next = logs.events(request, events.last().map_or(0, |event| event.seq), limit).await.unwrap();
        if next.is_empty() {
            return events;
        }
        events.extend(next);
    }
}
