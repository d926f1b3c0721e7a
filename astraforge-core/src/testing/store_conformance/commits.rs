//! Rules of commits: all or nothing, and only at the version that was seen.

use futures::{FutureExt, future::join_all};

use super::{assert_conflict, assert_taken, commit, replaced, submit};
use crate::{
    id::{RequestId, TenantId},
    job::Limits,
    ports::store::{Changes, Store, StoreError},
    request::{Request, RequestState},
    testing::samples,
};

pub async fn a_request_is_found_as_it_was_committed(store: &impl Store) {
    let request = submit(store).await;
    assert_eq!(store.request(&request.tenant, request.id).await.unwrap(), Some(request));
}

pub async fn what_a_commit_wrote_the_next_read_sees(store: &impl Store) {
    let mut request = submit(store).await;
    for version in 1..50 {
        request.title = format!("title {version}");
        commit(store, replaced(&request, version)).await;
        let read = store.request(&request.tenant, request.id).await.unwrap().unwrap();
        assert_eq!((read.version, read.title), (version + 1, request.title.clone()));
    }
}

pub async fn the_store_counts_versions_and_ignores_the_callers(store: &impl Store) {
    let request = Request { version: 77, ..samples::request() };
    commit(store, samples::submitted(&request)).await;
    assert_eq!(version(store, &request).await, 1);
    commit(store, replaced(&request, 1)).await;
    assert_eq!(version(store, &request).await, 2);
}

pub async fn a_commit_without_the_request_leaves_its_version(store: &impl Store) {
    let request = submit(store).await;
    commit(store, Changes { messages: vec![samples::message(request.id)], ..Changes::default() }).await;
    store.append(vec![samples::log(request.id, "x")]).await.unwrap();
    assert_eq!(version(store, &request).await, 1);
}

pub async fn a_stale_version_is_a_conflict(store: &impl Store) {
    let request = submit(store).await;
    commit(store, replaced(&request, 1)).await;
    assert_conflict(store.commit(replaced(&request, 1)).await);
    assert_conflict(store.commit(replaced(&request, 3)).await);
    assert_conflict(store.commit(replaced(&request, 0)).await);
    commit(store, replaced(&request, 2)).await;
}

pub async fn a_version_of_a_request_that_is_not_there_is_a_conflict(store: &impl Store) {
    assert_conflict(store.commit(replaced(&samples::request(), 0)).await);
    assert_conflict(store.commit(replaced(&samples::request(), 1)).await);
}

pub async fn a_request_cannot_be_added_twice(store: &impl Store) {
    let request = submit(store).await;
    let again = Request { title: "another".to_owned(), ..request.clone() };
    assert_taken(store.commit(samples::submitted(&again)).await);
    let of_another = Request { tenant: TenantId::new("globex"), ..request.clone() };
    assert_taken(store.commit(samples::submitted(&of_another)).await);
    assert_eq!(store.request(&request.tenant, request.id).await.unwrap(), Some(request));
}

pub async fn a_request_of_another_tenant_cannot_be_replaced(store: &impl Store) {
    let request = submit(store).await;
    let of_another = Request { tenant: TenantId::new("globex"), ..request.clone() };
    assert_conflict(store.commit(replaced(&of_another, 1)).await);
    assert_eq!(store.request(&request.tenant, request.id).await.unwrap(), Some(request));
}

pub async fn of_two_commits_at_the_same_version_one_wins(store: &impl Store) {
    let request = submit(store).await;
    let titles: Vec<String> = (0..8).map(|n| format!("title {n}")).collect();
    let commits = titles.iter().map(|title| {
        let request = Request { title: title.clone(), ..request.clone() };
        store.commit(replaced(&request, 1)).map(move |result| (title, result))
    });
    let (won, lost): (Vec<_>, Vec<_>) = join_all(commits).await.into_iter().partition(|(_, result)| result.is_ok());
    lost.into_iter().for_each(|(_, result)| assert_conflict(result));
    let read = store.request(&request.tenant, request.id).await.unwrap().unwrap();
    assert_eq!((won.len(), won[0].0, read.version), (1, &read.title, 2));
}

pub async fn a_conflicting_commit_writes_nothing(store: &impl Store) {
    let request = submit(store).await;
    let moved = Request { state: RequestState::Executing, ..request.clone() };
    assert_conflict(store.commit(Changes { request: replaced(&moved, 9).request, ..everything(&request) }).await);
    assert_holds_only(store, &request).await;
}

pub async fn a_commit_with_a_taken_id_writes_nothing(store: &impl Store) {
    let request = submit(store).await;
    let other = submit(store).await;
    let taken = everything(&other);
    commit(store, taken.clone()).await;
    let moved = Request { state: RequestState::Executing, ..request.clone() };
    let all = Changes { request: replaced(&moved, 1).request, ..everything(&request) };
    // Each time one other thing is taken, so that the failure comes early once and late once.
    assert_taken(store.commit(Changes { messages: taken.messages, ..all.clone() }).await);
    assert_taken(store.commit(Changes { attachments: taken.attachments, ..all.clone() }).await);
    assert_taken(store.commit(Changes { change_set: taken.change_set, ..all.clone() }).await);
    assert_taken(store.commit(Changes { approval: taken.approval, ..all.clone() }).await);
    assert_taken(store.commit(Changes { new_jobs: taken.new_jobs, ..all }).await);
    assert_holds_only(store, &request).await;
}

pub async fn the_same_new_id_twice_in_one_commit_is_refused(store: &impl Store) {
    let request = submit(store).await;
    let message = samples::message(request.id);
    let twice = Changes { messages: vec![message.clone(), message], ..Changes::default() };
    assert_taken(store.commit(twice).await);
    let job = samples::execute(&samples::run(&request));
    assert_taken(store.commit(Changes { new_jobs: vec![job.clone(), job], ..Changes::default() }).await);
    assert_holds_only(store, &request).await;
}

pub async fn what_belongs_to_no_request_is_refused(store: &impl Store) {
    let request = samples::request();
    let all = everything(&request);
    let none = Changes::default;
    for changes in [
        Changes { messages: all.messages, ..none() },
        Changes { attachments: all.attachments, ..none() },
        Changes { runs: all.runs, ..none() },
        Changes { change_set: all.change_set, ..none() },
        Changes { approval: all.approval, ..none() },
        Changes { merge_request: all.merge_request, ..none() },
        Changes { new_jobs: all.new_jobs, ..none() },
        Changes { events: all.events, ..none() },
    ] {
        let result = store.commit(changes.clone()).await;
        assert!(matches!(result, Err(StoreError::Backend { .. })), "{changes:?}: {result:?}");
    }
    assert_eq!(store.claim_job(samples::at(9), samples::at(9 + 60), Limits::NONE).await.unwrap(), None);
}

pub async fn a_run_of_another_request_or_tenant_cannot_be_replaced(store: &impl Store) {
    let (request, other) = (submit(store).await, submit(store).await);
    let run = samples::run(&request);
    commit(store, Changes { runs: vec![run.clone()], ..Changes::default() }).await;
    let mut of_another = run.clone();
    of_another.request = other.id;
    assert_taken(store.commit(Changes { runs: vec![of_another], ..Changes::default() }).await);
    let mut of_another = run.clone();
    of_another.tenant = TenantId::new("globex");
    assert_taken(store.commit(Changes { runs: vec![of_another], ..Changes::default() }).await);
    assert_eq!(store.run(&run.tenant, run.id).await.unwrap(), Some(run));
}

pub async fn a_merge_request_of_another_tenant_cannot_be_replaced(store: &impl Store) {
    let request = submit(store).await;
    let merge_request = samples::merge_request(&samples::change_set(&samples::run(&request)));
    commit(store, Changes { merge_request: Some(merge_request.clone()), ..Changes::default() }).await;
    let mut of_another = merge_request.clone();
    of_another.tenant = TenantId::new("globex");
    assert_taken(store.commit(Changes { merge_request: Some(of_another), ..Changes::default() }).await);
    let read = store.merge_request(&merge_request.tenant, merge_request.id).await.unwrap();
    assert_eq!(read, Some(merge_request));
}

pub async fn an_empty_commit_changes_nothing(store: &impl Store) {
    let request = submit(store).await;
    assert_eq!(commit(store, Changes::default()).await, 0);
    assert_holds_only(store, &request).await;
}

pub async fn a_dropped_call_happened_wholly_or_not_at_all(store: &impl Store) {
    let request = submit(store).await;
    for polls in 0..12 {
        let mut changes = everything(&request);
        changes.events.push(samples::log(request.id, "the last"));
        let mut call = Box::pin(store.commit(changes));
        for _ in 0..polls {
            if (&mut call).now_or_never().is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        drop(call);
        let n_events = store.events(request.id, 0, 1000).await.unwrap().len();
        let n_messages = store.messages(request.id).await.unwrap().len();
        assert_eq!(n_events, 2 * n_messages, "after {polls} polls");
        assert_eq!(store.runs_of(request.id).await.unwrap().len(), n_messages, "after {polls} polls");
    }
    store.append(vec![samples::log(request.id, "the store still works")]).await.unwrap();
}

/// One of each thing that can belong to a request, and no request.
fn everything(request: &Request) -> Changes {
    let run = samples::run(request);
    let change_set = samples::change_set(&run);
    Changes {
        messages: vec![samples::message(request.id)],
        attachments: vec![samples::attachment(request.id)],
        approval: Some(samples::approval(&change_set)),
        merge_request: Some(samples::merge_request(&change_set)),
        new_jobs: vec![samples::execute(&run)],
        events: vec![samples::log(request.id, "x")],
        change_set: Some(change_set),
        runs: vec![run],
        ..Changes::default()
    }
}

async fn assert_holds_only(store: &impl Store, request: &Request) {
    let id: RequestId = request.id;
    assert_eq!(store.request(&request.tenant, id).await.unwrap().as_ref(), Some(request));
    assert_eq!(store.messages(id).await.unwrap(), []);
    assert_eq!(store.attachments(id).await.unwrap(), []);
    assert_eq!(store.runs_of(id).await.unwrap(), []);
    assert_eq!(store.latest_change_set(id).await.unwrap(), None);
    assert_eq!(store.approvals(id).await.unwrap(), []);
    assert_eq!(store.events(id, 0, 10).await.unwrap(), []);
    assert_eq!(store.waiting_jobs(id).await.unwrap(), []);
    assert!(store.merge_requests(&request.tenant).await.unwrap().iter().all(|m| m.request != id));
}

async fn version(store: &impl Store, request: &Request) -> u64 {
    store.request(&request.tenant, request.id).await.unwrap().unwrap().version
}
