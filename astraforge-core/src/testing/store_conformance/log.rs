//! Rules of the run log: numbers from one, no gaps, in order.

use futures::future::join_all;

use super::{commit, replaced, submit};
use crate::{
    event::{EventKind, NewEvent},
    id::{RequestId, RunId},
    job::Limits,
    ports::store::{Changes, EndedJob, FailedJob, LogEnd, Store},
    request::Request,
    run::{Run, RunStatus},
    testing::samples::{self, at},
};

pub async fn events_are_counted_from_one_without_a_gap(store: &impl Store) {
    let request = submit(store).await;
    assert_eq!(store.append(lines(request.id, 0..1)).await.unwrap(), 1);
    assert_eq!(store.append(lines(request.id, 1..4)).await.unwrap(), 4);
    commit(store, Changes { events: lines(request.id, 4..6), ..Changes::default() }).await;
    assert_whole(store, request.id, 6).await;
}

pub async fn a_commit_returns_the_last_number_of_the_requests_log(store: &impl Store) {
    let request = submit(store).await;
    let with_events = Changes { events: lines(request.id, 0..3), ..replaced(&request, 1) };
    assert_eq!(commit(store, with_events).await, 3);
    assert_eq!(commit(store, replaced(&request, 2)).await, 3);
    assert_eq!(commit(store, Changes { events: lines(request.id, 3..4), ..Changes::default() }).await, 4);
    assert_eq!(commit(store, samples::submitted(&samples::request())).await, 0);
}

pub async fn each_request_has_its_own_count(store: &impl Store) {
    let (one, two) = (submit(store).await, submit(store).await);
    let mixed = (0..10).flat_map(|n| [line(one.id, n), line(two.id, n)]).collect();
    assert_eq!(store.append(mixed).await.unwrap(), 10);
    assert_whole(store, one.id, 10).await;
    assert_whole(store, two.id, 10).await;
}

pub async fn appends_at_the_same_time_leave_no_gap(store: &impl Store) {
    let (one, two) = (submit(store).await, submit(store).await);
    let appends = (0..20).flat_map(|_| [one.id, two.id]).map(|id| store.append(lines(id, 0..3)));
    let mut last: Vec<u64> = join_all(appends).await.into_iter().map(Result::unwrap).collect();
    last.sort_unstable();
    let expected: Vec<u64> = (1..=20).flat_map(|n| [3 * n, 3 * n]).collect();
    assert_eq!(last, expected, "each append got numbers of its own");
    for id in [one.id, two.id] {
        let events = store.events(id, 0, 100).await.unwrap();
        assert!(events.iter().map(|event| event.seq).eq(1..=60));
        // What was appended together stays together.
        for batch in events.chunks(3) {
            assert!(batch.iter().zip(lines(id, 0..3)).all(|(read, written)| read.kind == written.kind));
        }
    }
}

pub async fn reading_resumes_after_a_number_and_stops_at_the_limit(store: &impl Store) {
    let request = submit(store).await;
    store.append(lines(request.id, 0..10)).await.unwrap();
    for (after, limit, expected) in [(0, 3, 1..=3), (3, 3, 4..=6), (9, 3, 10..=10), (4, 100, 5..=10)] {
        let read = store.events(request.id, after, limit).await.unwrap();
        assert!(read.iter().map(|event| event.seq).eq(expected), "after {after}, at most {limit}");
    }
}

pub async fn reading_after_the_end_finds_nothing(store: &impl Store) {
    let request = submit(store).await;
    store.append(lines(request.id, 0..2)).await.unwrap();
    for (after, limit) in [(2, 10), (3, 10), (u64::MAX, 10), (0, 0)] {
        assert_eq!(store.events(request.id, after, limit).await.unwrap(), [], "after {after}, at most {limit}");
    }
    assert_eq!(store.events(request.id, 0, u32::MAX).await.unwrap().len(), 2);
}

pub async fn the_events_of_a_run_are_read_in_order(store: &impl Store) {
    let request = submit(store).await;
    let (one, two) = (RunId::random(), RunId::random());
    for (n, run) in [Some(one), Some(two), None, Some(one)].into_iter().enumerate() {
        store.append(vec![NewEvent { run, ..line(request.id, n) }]).await.unwrap();
    }
    let events = store.events_of_run(one).await.unwrap();
    assert_eq!(
        events.iter().map(|event| (event.seq, event.run_id)).collect::<Vec<_>>(),
        [(1, Some(one)), (4, Some(one))]
    );
    assert_eq!(store.events_of_run(two).await.unwrap().len(), 1);
}

pub async fn the_end_of_a_log_is_told(store: &impl Store) {
    let (request, empty) = (submit(store).await, submit(store).await);
    store.append(lines(request.id, 0..12)).await.unwrap();
    assert_eq!(store.last_event(request.id).await.unwrap(), 12);
    assert_eq!(store.last_event(empty.id).await.unwrap(), 0);
    assert_eq!(store.last_event(RequestId::random()).await.unwrap(), 0);
}

pub async fn recent_logs_are_those_that_changed_or_are_at_work(store: &impl Store) {
    let mut requests = Vec::new();
    for seconds in [10, 30, 20, 5] {
        let request = Request { updated_at: at(seconds), ..samples::request() };
        commit(store, samples::submitted(&request)).await;
        store.append(lines(request.id, 0..seconds as usize)).await.unwrap();
        requests.push(request);
    }
    let end = |n: usize, last| LogEnd { request: requests[n].id, last };
    let recent = |since, limit| store.recent_logs(at(since), limit);
    assert_eq!(recent(20, 9).await.unwrap(), [end(1, 30), end(2, 20)]);
    assert_eq!(recent(0, 3).await.unwrap(), [end(1, 30), end(2, 20), end(0, 10)]);
    assert_eq!(recent(31, 9).await.unwrap(), []);
    // Its worker tells of it, though the request itself stays as it is.
    let job = samples::execute(&samples::run(&requests[3]));
    commit(store, Changes { new_jobs: vec![job.clone()], ..Changes::default() }).await;
    assert_eq!(recent(31, 9).await.unwrap(), []);
    store.claim_job(at(40), at(100), Limits::NONE).await.unwrap().unwrap();
    assert_eq!(recent(31, 9).await.unwrap(), [end(3, 5)]);
    assert_eq!(recent(20, 9).await.unwrap(), [end(1, 30), end(2, 20), end(3, 5)]);
    assert_eq!(recent(20, 2).await.unwrap(), [end(1, 30), end(2, 20)], "at work, and beyond the limit");
    assert_eq!(recent(5, 9).await.unwrap(), [end(1, 30), end(2, 20), end(0, 10), end(3, 5)], "told once");
    let ended_jobs = vec![EndedJob { id: job.id, error: None }];
    commit(store, Changes { ended_jobs, ..Changes::default() }).await;
    assert_eq!(recent(31, 9).await.unwrap(), []);
}

pub async fn a_log_may_grow_until_no_run_and_no_job_is_left(store: &impl Store) {
    let request = submit(store).await;
    let state = async || {
        let states = store.log_states(&[request.id, RequestId::random()]).await.unwrap();
        assert_eq!(states.len(), 1, "nothing is told of a request that is not there");
        assert_eq!(states[0].end.request, request.id);
        (states[0].end.last, states[0].may_grow)
    };
    assert_eq!(store.log_states(&[]).await.unwrap(), []);
    assert_eq!(state().await, (0, true), "its first run may come");
    let run = samples::run(&request);
    commit(store, Changes { runs: vec![run.clone()], ..Changes::default() }).await;
    store.append(lines(request.id, 0..3)).await.unwrap();
    assert_eq!(state().await, (3, true));
    let over = Run { status: RunStatus::Completed, ..run.clone() };
    commit(store, Changes { runs: vec![over], ..Changes::default() }).await;
    assert_eq!(state().await, (3, false));
    let job = samples::execute(&run);
    commit(store, Changes { new_jobs: vec![job.clone()], ..Changes::default() }).await;
    assert_eq!(state().await, (3, true), "a job waits");
    store.claim_job(at(40), at(100), Limits::NONE).await.unwrap().unwrap();
    assert_eq!(state().await, (3, true), "a job is at work");
    let dead = FailedJob { id: job.id, error: "the host is away".to_owned(), not_before: None };
    commit(store, Changes { failed_jobs: vec![dead], ..Changes::default() }).await;
    assert_eq!(state().await, (3, false), "a dead job waits for a person");
    let other = submit(store).await;
    store.append(lines(other.id, 0..1)).await.unwrap();
    let mut ends: Vec<u64> =
        store.log_states(&[request.id, other.id]).await.unwrap().iter().map(|s| s.end.last).collect();
    ends.sort_unstable();
    assert_eq!(ends, [1, 3]);
}

pub async fn a_batch_with_one_bad_event_writes_none(store: &impl Store) {
    let request = submit(store).await;
    let bad = vec![line(request.id, 0), line(RequestId::random(), 0)];
    assert!(store.append(bad).await.is_err());
    assert_eq!(store.append(lines(request.id, 0..1)).await.unwrap(), 1);
    assert_whole(store, request.id, 1).await;
}

pub async fn a_large_batch_is_written(store: &impl Store) {
    let request = submit(store).await;
    assert_eq!(store.append(lines(request.id, 0..5000)).await.unwrap(), 5000);
    assert_whole(store, request.id, 5000).await;
}

pub async fn appending_nothing_changes_nothing(store: &impl Store) {
    let request = submit(store).await;
    assert_eq!(store.append(vec![]).await.unwrap(), 0);
    assert_whole(store, request.id, 0).await;
}

fn line(request: RequestId, n: usize) -> NewEvent {
    samples::log(request, format!("line {n}"))
}

fn lines(request: RequestId, range: std::ops::Range<usize>) -> Vec<NewEvent> {
    range.map(|n| line(request, n)).collect()
}

/// Expects lines 0 to n with numbers 1 to n+1.
async fn assert_whole(store: &impl Store, request: RequestId, n: usize) {
    let events = store.events(request, 0, u32::MAX).await.unwrap();
    assert_eq!(events.len(), n);
    for (n, event) in events.into_iter().enumerate() {
        assert_eq!((event.seq, event.request_id), (n as u64 + 1, request));
        assert_eq!(event.kind, EventKind::log(format!("line {n}")));
    }
}
