//! Rules of archived events: rows go when it is written where they are, and only those of logs at rest.

use futures::future::{join, join_all};

use super::{commit, replaced};
use crate::{
    event::NewEvent,
    id::RequestId,
    job::Limits,
    ports::store::{Changes, EndedJob, LogEnd, RestingLog, Store},
    request::{Request, RequestState},
    run::{Run, RunStatus},
    run_log::LogArchive,
    testing::samples::{self, archive, at},
};

pub async fn logs_at_rest_are_listed_those_that_changed_first_before_others(store: &impl Store) {
    let mut expected = Vec::new();
    for (n, state) in RequestState::ALL.into_iter().enumerate() {
        let seconds = 100 - i64::try_from(n).unwrap();
        let request = resting(store, state, seconds, 3).await;
        if state.is_at_rest() {
            expected.insert(0, (request.id, at(seconds)));
        }
    }
    // Nothing to archive, and no run that could be over.
    resting(store, RequestState::Reviewed, 1, 0).await;
    let request = Request { state: RequestState::Cancelled, updated_at: at(1), ..samples::request() };
    commit(store, samples::submitted(&request)).await;
    store.append(vec![samples::log(request.id, "x")]).await.unwrap();
    assert_eq!(listed(store, 100).await.iter().map(|log| (log.request, log.since)).collect::<Vec<_>>(), expected);
    assert_eq!(listed(store, 2).await.len(), 2);
    assert_eq!(listed(store, 2).await[0].request, expected[0].0);
}

pub async fn a_log_at_work_is_neither_listed_nor_archived(store: &impl Store) {
    let request = resting(store, RequestState::Reviewed, 1, 3).await;
    let job = samples::execute(&samples::run(&request));
    let archived = archive(request.id, 1, 3);
    let check = async |what: &str| {
        assert_eq!(listed(store, 9).await, [], "{what}");
        assert!(!store.archive(&archived).await.unwrap(), "{what}");
        assert_eq!(store.events(request.id, 0, 9).await.unwrap().len(), 3, "{what}");
    };
    commit(store, Changes { new_jobs: vec![job.clone()], ..Changes::default() }).await;
    check("a job waits").await;
    store.claim_job(at(9), at(60), Limits::NONE).await.unwrap().unwrap();
    check("a job is at work").await;
    commit(store, Changes { ended_jobs: vec![EndedJob { id: job.id, error: None }], ..Changes::default() }).await;
    let run = samples::run(&request);
    commit(store, Changes { runs: vec![run.clone()], ..Changes::default() }).await;
    check("a run is to come").await;
    let over = Run { status: RunStatus::Failed, ..run };
    let executing = Request { state: RequestState::Executing, ..request.clone() };
    commit(store, Changes { runs: vec![over], ..replaced(&executing, 1) }).await;
    check("the request is not at rest").await;
    commit(store, replaced(&request, 2)).await;
    assert!(store.archive(&archived).await.unwrap());
}

pub async fn archived_events_are_rows_no_more_and_numbers_go_on(store: &impl Store) {
    let (request, other) =
        (resting(store, RequestState::Failed, 1, 5).await, resting(store, RequestState::Done, 2, 2).await);
    let archived = archive(request.id, 1, 5);
    assert_eq!(store.archives(request.id).await.unwrap(), []);
    assert!(store.archive(&archived).await.unwrap());
    assert_eq!(store.archives(request.id).await.unwrap(), std::slice::from_ref(&archived));
    assert_eq!(store.events(request.id, 0, 9).await.unwrap(), []);
    assert_eq!(listed(store, 9).await.iter().map(|log| log.request).collect::<Vec<_>>(), [other.id]);
    let end = LogEnd { request: request.id, last: 5 };
    assert_eq!(store.last_event(request.id).await.unwrap(), 5);
    assert_eq!(store.log_states(&[request.id]).await.unwrap()[0].end, end);
    assert!(store.recent_logs(at(0), 9).await.unwrap().contains(&end));
    assert_eq!(commit(store, replaced(&request, 1)).await, 5, "a commit tells the end too");

    assert_eq!(store.append(lines(request.id, 2)).await.unwrap(), 7);
    let numbers: Vec<u64> = store.events(request.id, 0, 9).await.unwrap().iter().map(|event| event.seq).collect();
    assert_eq!(numbers, [6, 7]);
    assert_eq!(store.last_event(request.id).await.unwrap(), 7);
    assert_eq!(listed(store, 9).await[0].request, request.id, "there is something to archive again");
    let rest = archive(request.id, 6, 7);
    assert!(store.archive(&rest).await.unwrap());
    assert_eq!(store.archives(request.id).await.unwrap(), [archived, rest]);
    assert_eq!(store.events(other.id, 0, 9).await.unwrap().len(), 2);
}

pub async fn only_the_first_rows_of_a_log_are_archived_and_each_once(store: &impl Store) {
    let request = resting(store, RequestState::PatchReady, 1, 5).await;
    for (first, last) in [(2, 5), (1, 6), (0, 5), (3, 2)] {
        assert!(!store.archive(&archive(request.id, first, last)).await.unwrap(), "{first} to {last}");
    }
    assert!(!store.archive(&archive(RequestId::random(), 1, 5)).await.unwrap(), "nobody knows that log");
    assert_eq!(store.events(request.id, 0, 9).await.unwrap().len(), 5);
    let part = archive(request.id, 1, 3);
    assert!(store.archive(&part).await.unwrap());
    assert!(!store.archive(&part).await.unwrap());
    assert!(!store.archive(&archive(request.id, 1, 5)).await.unwrap());
    assert_eq!(store.archives(request.id).await.unwrap(), [part]);
    assert_eq!(listed(store, 9).await[0].request, request.id, "the rest can be archived too");
}

pub async fn the_size_of_logs_is_that_of_their_rows(store: &impl Store) {
    assert_eq!(store.logs_size().await.unwrap(), 0);
    let request = resting(store, RequestState::Reviewed, 1, 10).await;
    let size = store.logs_size().await.unwrap();
    // Each is `{"type":"log","message":"…"}` or shorter.
    assert!((100..1000).contains(&size), "{size}");
    assert_eq!(listed(store, 9).await[0].size, size);
    resting(store, RequestState::Executing, 1, 10).await;
    assert_eq!(store.logs_size().await.unwrap(), 2 * size, "those at work count too");
    assert!(store.archive(&archive(request.id, 1, 5)).await.unwrap());
    assert_eq!(store.logs_size().await.unwrap(), size + size / 2);
    assert!(store.archive(&archive(request.id, 6, 10)).await.unwrap());
    assert_eq!(store.logs_size().await.unwrap(), size);
    store.append(lines(request.id, 10)).await.unwrap();
    assert_eq!(store.logs_size().await.unwrap(), 2 * size);
}

pub async fn of_many_who_archive_the_same_events_one_does(store: &impl Store) {
    let request = resting(store, RequestState::Reviewed, 1, 50).await;
    let archives: Vec<LogArchive> = (0..8).map(|n| archive(request.id, 1, 50 - n % 2)).collect();
    let done = join_all(archives.iter().map(|archive| store.archive(archive))).await;
    let done: Vec<bool> = done.into_iter().map(Result::unwrap).collect();
    assert_eq!(done.iter().filter(|done| **done).count(), 1, "{done:?}");
    let kept = store.archives(request.id).await.unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(store.events(request.id, 0, 99).await.unwrap().len() as u64, 50 - kept[0].last);
}

pub async fn events_appended_beside_an_archive_are_numbered_after_it(store: &impl Store) {
    let request = resting(store, RequestState::Reviewed, 1, 30).await;
    let archived = archive(request.id, 1, 30);
    let appends = join_all((0..10).map(|_| store.append(lines(request.id, 2))));
    let (done, last) = join(store.archive(&archived), appends).await;
    assert!(done.unwrap(), "what came behind is no matter");
    assert_eq!(last.into_iter().map(Result::unwrap).max(), Some(50));
    let numbers = store.events(request.id, 0, 99).await.unwrap().into_iter().map(|event| event.seq);
    assert!(numbers.eq(31..=50));
}

/// A request whose run is over, that changed last then, with so many events.
async fn resting(store: &impl Store, state: RequestState, seconds: i64, n_events: usize) -> Request {
    let request = Request { state, updated_at: at(seconds), ..samples::request() };
    let run = Run { status: RunStatus::Completed, ..samples::run(&request) };
    commit(store, Changes { runs: vec![run], ..samples::submitted(&request) }).await;
    store.append(lines(request.id, n_events)).await.unwrap();
    Request { version: 1, ..request }
}

async fn listed(store: &impl Store, limit: u32) -> Vec<RestingLog> {
    store.resting_logs(limit).await.unwrap()
}

fn lines(request: RequestId, n: usize) -> Vec<NewEvent> {
    (0..n).map(|n| samples::log(request, format!("line {n}"))).collect()
}
