//! Rules of pages: put together they are the list, whatever happens in between.

use super::{commit, submit};
use crate::{
    access::ApiKey,
    id::{MergeRequestId, RunId, TenantId},
    merge_request::MergeRequest,
    page::{Listed as _, Page},
    ports::store::{Changes, Store},
    repository::RepositoryLink,
    request::{Request, RequestState},
    run::Run,
    testing::{
        pages::in_pages,
        samples::{self, at},
    },
};

/// When rows are made that are added in this order; two are of the same time.
const TIMES: [i64; 5] = [20, 10, 30, 30, 5];

async fn submit_at(store: &impl Store, seconds: i64, state: RequestState) -> Request {
    let request = Request { created_at: at(seconds), state, ..samples::request() };
    commit(store, samples::submitted(&request)).await;
    Request { version: 1, ..request }
}

pub async fn pages_of_requests_hold_the_whole_list(store: &impl Store) {
    for seconds in TIMES {
        submit_at(store, seconds, RequestState::Received).await;
    }
    let tenant = samples::tenant();
    let all = store.requests(&tenant).await.unwrap();
    assert_eq!((all.len(), in_pages!(page => store.requests_page(&tenant, None, page))), (5, all.clone()));
    let whole = store.requests_page(&tenant, None, Page::ALL).await.unwrap();
    assert_eq!((whole.items, whole.next), (all.clone(), None));
    let five = store.requests_page(&tenant, None, Page::first(5)).await.unwrap();
    assert_eq!((five.items, five.next), (all, None), "a page that holds the last row is the last one");
}

pub async fn requests_of_a_state_come_in_pages(store: &impl Store) {
    for (n, seconds) in TIMES.into_iter().enumerate() {
        let state = if n == 1 { RequestState::Failed } else { RequestState::Reviewed };
        submit_at(store, seconds, state).await;
    }
    let tenant = samples::tenant();
    let mut reviewed = store.requests(&tenant).await.unwrap();
    reviewed.retain(|request| request.state == RequestState::Reviewed);
    let state = Some(RequestState::Reviewed);
    assert_eq!((reviewed.len(), in_pages!(page => store.requests_page(&tenant, state, page))), (4, reviewed));
    let done = store.requests_page(&tenant, Some(RequestState::Done), Page::ALL).await.unwrap();
    assert_eq!((done.items, done.next), (vec![], None));
}

pub async fn runs_come_in_pages_of_all_requests_and_of_one(store: &impl Store) {
    let (request, other) = (submit(store).await, submit(store).await);
    for seconds in TIMES {
        let runs = vec![
            Run { created_at: at(seconds), ..samples::run(&request) },
            Run { id: RunId::random(), created_at: at(seconds), ..samples::run(&other) },
        ];
        commit(store, Changes { runs, ..Changes::default() }).await;
    }
    let tenant = &request.tenant;
    let mut all = store.runs(tenant).await.unwrap();
    assert_eq!((all.len(), in_pages!(page => store.runs_page(tenant, None, page))), (10, all.clone()));
    all.retain(|run| run.request == request.id);
    assert_eq!((all.len(), in_pages!(page => store.runs_page(tenant, Some(request.id), page))), (5, all));
}

pub async fn merge_requests_come_in_pages_of_all_requests_and_of_one(store: &impl Store) {
    let (request, other) = (submit(store).await, submit(store).await);
    for seconds in TIMES {
        for request in [&request, &other] {
            let merge_request = samples::merge_request(&samples::change_set(&samples::run(request)));
            let merge_request = MergeRequest { id: MergeRequestId::random(), created_at: at(seconds), ..merge_request };
            commit(store, Changes { merge_request: Some(merge_request), ..Changes::default() }).await;
        }
    }
    let tenant = &request.tenant;
    let mut all = store.merge_requests(tenant).await.unwrap();
    assert_eq!((all.len(), in_pages!(page => store.merge_requests_page(tenant, None, page))), (10, all.clone()));
    all.retain(|merge_request| merge_request.request == request.id);
    let of_one = in_pages!(page => store.merge_requests_page(tenant, Some(request.id), page));
    assert_eq!((all.len(), of_one), (5, all));
}

pub async fn pages_of_links_go_on_where_a_link_was_removed(store: &impl Store) {
    for (n, seconds) in TIMES.into_iter().enumerate() {
        let repository = format!("acme/{n}");
        store.add_link(RepositoryLink { repository, created_at: at(seconds), ..samples::link() }).await.unwrap();
    }
    let tenant = samples::tenant();
    let all = store.links(&tenant).await.unwrap();
    assert_eq!((all.len(), in_pages!(page => store.links_page(&tenant, page))), (5, all.clone()));
    let after = Some(all[1].mark());
    assert!(store.remove_link(&tenant, all[1].id).await.unwrap());
    let rest = store.links_page(&tenant, Page { after, limit: 9 }).await.unwrap();
    assert_eq!(rest.items, all[2..]);
}

pub async fn api_keys_come_in_pages_the_newest_first(store: &impl Store) {
    for seconds in TIMES {
        store.add_api_key(ApiKey { created_at: at(seconds), ..samples::api_key() }).await.unwrap();
    }
    let tenant = samples::tenant();
    let mut all = store.api_keys(&tenant).await.unwrap();
    all.reverse();
    assert_eq!((all.len(), in_pages!(page => store.api_keys_page(&tenant, page))), (5, all));
}

pub async fn what_is_added_meanwhile_shifts_no_page(store: &impl Store) {
    for seconds in TIMES {
        submit_at(store, seconds, RequestState::Received).await;
    }
    let tenant = samples::tenant();
    let before = store.requests(&tenant).await.unwrap();
    let first = store.requests_page(&tenant, None, Page::first(1)).await.unwrap();
    // Newer than all, and of the very time at which the page ended: that counts as newer too.
    for seconds in [40, 30] {
        submit_at(store, seconds, RequestState::Received).await;
    }
    let rest = store.requests_page(&tenant, None, Page { after: first.next, limit: 9 }).await.unwrap();
    assert_eq!(rest.items, before[1..]);
}

pub async fn another_tenants_pages_are_its_own(store: &impl Store) {
    let request = submit(store).await;
    let run = samples::run(&request);
    let merge_request = samples::merge_request(&samples::change_set(&run));
    let changes = Changes { runs: vec![run.clone()], merge_request: Some(merge_request), ..Changes::default() };
    commit(store, changes).await;
    store.add_link(samples::link()).await.unwrap();
    store.add_api_key(samples::api_key()).await.unwrap();
    let other = TenantId::new("globex");
    for of in [None, Some(request.id)] {
        assert_eq!(store.runs_page(&other, of, Page::ALL).await.unwrap().items, []);
        assert_eq!(store.merge_requests_page(&other, of, Page::ALL).await.unwrap().items, []);
    }
    for state in [None, Some(request.state)] {
        assert_eq!(store.requests_page(&other, state, Page::ALL).await.unwrap().items, []);
    }
    assert_eq!(store.links_page(&other, Page::ALL).await.unwrap().items, []);
    assert_eq!(store.api_keys_page(&other, Page::ALL).await.unwrap().items, []);
}
