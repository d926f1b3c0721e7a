//! Rules of runs: replaced as a whole, but for what others count in them.

use futures::{FutureExt, future::join_all};

use super::{commit, submit};
use crate::{
    id::RunId,
    ports::store::{Changes, Store},
    run::{Run, RunStatus, Usage},
    testing::samples::{self, at},
};

const USAGE: Usage =
    Usage { calls: 1, input_tokens: 20, cached_input_tokens: 3, output_tokens: 40, reasoning_tokens: 5 };

pub async fn runs_are_listed_by_request_and_by_tenant(store: &impl Store) {
    let (request, other) = (submit(store).await, submit(store).await);
    let run = |seconds, request| Run { created_at: at(seconds), ..samples::run(request) };
    let runs = [run(1, &request), run(3, &request), run(3, &request), run(2, &other)];
    for run in &runs {
        write(store, run).await;
    }
    let [one, two, three, of_other] = runs;
    assert_eq!(store.runs_of(request.id).await.unwrap(), [one.clone(), two.clone(), three.clone()]);
    assert_eq!(store.runs(&request.tenant).await.unwrap(), [three, two, of_other, one]);
}

pub async fn a_run_is_replaced(store: &impl Store) {
    let request = submit(store).await;
    let run = samples::run(&request);
    write(store, &run).await;
    let failed = Run { status: RunStatus::Failed, exit_code: Some(1), thread: Some("t".to_owned()), ..run };
    write(store, &failed).await;
    assert_eq!(store.runs_of(request.id).await.unwrap(), [failed]);
}

pub async fn usage_adds_up(store: &impl Store) {
    let run = queue(store).await;
    store.add_usage(run.id, USAGE).await.unwrap();
    store.add_usage(run.id, USAGE).await.unwrap();
    let mut twice = USAGE;
    twice += USAGE;
    assert_eq!(usage(store, &run).await, twice);
}

pub async fn usage_is_not_lost_beside_a_commit_that_replaces_the_run(store: &impl Store) {
    let run = queue(store).await;
    store.add_usage(run.id, USAGE).await.unwrap();
    // What the worker loaded before the call was counted says that nothing was used.
    write(store, &Run { status: RunStatus::Running, ..run.clone() }).await;
    let read = store.run(&run.tenant, run.id).await.unwrap().unwrap();
    assert_eq!((read.status, read.usage), (RunStatus::Running, USAGE));
}

pub async fn usage_counted_at_the_same_time_adds_up(store: &impl Store) {
    let run = queue(store).await;
    let count = (0..20).map(|_| store.add_usage(run.id, USAGE).map(|result| result.unwrap()).boxed());
    let replace = (0..20).map(|_| write(store, &run).boxed());
    join_all(count.zip(replace).flat_map(|(count, replace)| [count, replace])).await;
    assert_eq!(usage(store, &run).await.output_tokens, 20 * USAGE.output_tokens);
}

pub async fn usage_of_an_unknown_run_is_passed_over(store: &impl Store) {
    store.add_usage(RunId::random(), USAGE).await.unwrap();
}

pub async fn a_cancellation_is_seen_and_stays(store: &impl Store) {
    let run = queue(store).await;
    assert!(!store.cancel_requested(run.id).await.unwrap());
    write(store, &Run { cancel_requested: true, ..run.clone() }).await;
    assert!(store.cancel_requested(run.id).await.unwrap());
    // A worker that loaded the run before does not take the cancellation back.
    write(store, &Run { status: RunStatus::Running, ..run.clone() }).await;
    assert!(store.cancel_requested(run.id).await.unwrap());
}

async fn queue(store: &impl Store) -> Run {
    let run = samples::run(&submit(store).await);
    write(store, &run).await;
    run
}

async fn write(store: &impl Store, run: &Run) {
    commit(store, Changes { runs: vec![run.clone()], ..Changes::default() }).await;
}

async fn usage(store: &impl Store, run: &Run) -> Usage {
    store.run(&run.tenant, run.id).await.unwrap().unwrap().usage
}
