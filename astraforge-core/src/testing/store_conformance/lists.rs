//! Rules of reading: order, and nothing of other tenants.

use super::{commit, submit};
use crate::{
    id::{ChangeSetId, MergeRequestId, RepositoryLinkId, RequestId, RunId, TenantId},
    merge_request::MergeRequestStatus,
    ports::store::{Changes, Store},
    request::Request,
    testing::samples::{self, at},
};

pub async fn requests_are_listed_the_newest_first(store: &impl Store) {
    let mut ids = Vec::new();
    // The last two are of the same time; then the one added later counts as newer.
    for seconds in [20, 10, 30, 30] {
        let request = Request { created_at: at(seconds), ..samples::request() };
        commit(store, samples::submitted(&request)).await;
        ids.push(request.id);
    }
    let listed: Vec<RequestId> = store.requests(&samples::tenant()).await.unwrap().iter().map(|r| r.id).collect();
    assert_eq!(listed, [ids[3], ids[2], ids[0], ids[1]]);
}

pub async fn messages_and_attachments_are_listed_the_oldest_first(store: &impl Store) {
    let (request, other) = (submit(store).await, submit(store).await);
    let mut messages: Vec<_> = [20, 10, 10].map(|seconds| (seconds, samples::message(request.id))).into();
    messages.iter_mut().for_each(|(seconds, message)| message.created_at = at(*seconds));
    let messages: Vec<_> = messages.into_iter().map(|(_, message)| message).collect();
    let attachments = vec![samples::attachment(request.id), samples::attachment(request.id)];
    let of_other = vec![samples::message(other.id)];
    commit(store, Changes { messages: messages.clone(), attachments: attachments.clone(), ..Changes::default() }).await;
    commit(store, Changes { messages: of_other.clone(), ..Changes::default() }).await;
    let [late, one, two] = messages.try_into().unwrap();
    assert_eq!(store.messages(request.id).await.unwrap(), [one, two, late]);
    assert_eq!(store.messages(other.id).await.unwrap(), of_other);
    assert_eq!(store.attachments(request.id).await.unwrap(), attachments);
    assert_eq!(store.attachments(other.id).await.unwrap(), []);
}

pub async fn approvals_are_listed_the_oldest_first(store: &impl Store) {
    let request = submit(store).await;
    let mut approvals = Vec::new();
    for seconds in [1, 2, 2] {
        let mut approval = samples::approval(&samples::change_set(&samples::run(&request)));
        approval.created_at = at(seconds);
        commit(store, Changes { approval: Some(approval.clone()), ..Changes::default() }).await;
        approvals.push(approval);
    }
    assert_eq!(store.approvals(request.id).await.unwrap(), approvals);
}

pub async fn merge_requests_are_listed_the_newest_first_and_replaced_in_place(store: &impl Store) {
    let request = submit(store).await;
    let mut merge_requests = Vec::new();
    for _ in 0..3 {
        let merge_request = samples::merge_request(&samples::change_set(&samples::run(&request)));
        commit(store, Changes { merge_request: Some(merge_request.clone()), ..Changes::default() }).await;
        merge_requests.insert(0, merge_request);
    }
    merge_requests[1].status = MergeRequestStatus::Merged;
    commit(store, Changes { merge_request: Some(merge_requests[1].clone()), ..Changes::default() }).await;
    assert_eq!(store.merge_requests(&request.tenant).await.unwrap(), merge_requests);
}

pub async fn the_latest_change_set_is_the_one_added_last(store: &impl Store) {
    let request = submit(store).await;
    // The clock went back: what an approval binds to must be the last change all the same.
    for seconds in [20, 10] {
        let mut change_set = samples::change_set(&samples::run(&request));
        change_set.created_at = at(seconds);
        commit(store, Changes { change_set: Some(change_set.clone()), ..Changes::default() }).await;
        assert_eq!(store.latest_change_set(request.id).await.unwrap(), Some(change_set));
    }
}

pub async fn another_tenant_sees_nothing(store: &impl Store) {
    let request = submit(store).await;
    let run = samples::run(&request);
    let merge_request = samples::merge_request(&samples::change_set(&run));
    let changes = Changes { runs: vec![run.clone()], merge_request: Some(merge_request.clone()), ..Changes::default() };
    commit(store, changes).await;
    let link = samples::link();
    store.add_link(link.clone()).await.unwrap();
    for other in ["globex", "", "ACME", "acme ", "acme%"].map(TenantId::new) {
        assert_eq!(store.request(&other, request.id).await.unwrap(), None);
        assert_eq!(store.requests(&other).await.unwrap(), []);
        assert_eq!(store.run(&other, run.id).await.unwrap(), None);
        assert_eq!(store.runs(&other).await.unwrap(), []);
        assert_eq!(store.merge_request(&other, merge_request.id).await.unwrap(), None);
        assert_eq!(store.merge_requests(&other).await.unwrap(), []);
        assert_eq!(store.link(&other, link.id).await.unwrap(), None);
        assert_eq!(store.links(&other).await.unwrap(), []);
    }
}

pub async fn what_is_not_there_is_none(store: &impl Store) {
    let tenant = samples::tenant();
    let request = RequestId::random();
    assert_eq!(store.request(&tenant, request).await.unwrap(), None);
    assert_eq!(store.run(&tenant, RunId::random()).await.unwrap(), None);
    assert!(!store.cancel_requested(RunId::random()).await.unwrap());
    assert_eq!(store.change_set(ChangeSetId::random()).await.unwrap(), None);
    assert_eq!(store.latest_change_set(request).await.unwrap(), None);
    assert_eq!(store.merge_request(&tenant, MergeRequestId::random()).await.unwrap(), None);
    assert_eq!(store.link(&tenant, RepositoryLinkId::random()).await.unwrap(), None);
    assert_eq!(store.api_key_by_hash("").await.unwrap(), None);
    assert_eq!(store.messages(request).await.unwrap(), []);
    assert_eq!(store.runs_of(request).await.unwrap(), []);
    assert_eq!(store.events(request, 0, 10).await.unwrap(), []);
    assert_eq!(store.events_of_run(RunId::random()).await.unwrap(), []);
}

pub async fn the_merge_request_of_a_request_is_found(store: &impl Store) {
    let (request, other) = (submit(store).await, submit(store).await);
    assert_eq!(store.merge_request_of(request.id).await.unwrap(), None);
    let merge_request = samples::merge_request(&samples::change_set(&samples::run(&request)));
    commit(store, Changes { merge_request: Some(merge_request.clone()), ..Changes::default() }).await;
    assert_eq!(store.merge_request_of(request.id).await.unwrap(), Some(merge_request));
    assert_eq!(store.merge_request_of(other.id).await.unwrap(), None);
}
