//! Lists a page at a time.

use std::sync::Arc;

use astraforge_core::{
    control_plane::ControlPlane,
    id::RequestId,
    request::RequestState,
    testing::{MemoryArtifacts, MemorySandboxStore, PlayedMachines, TestClock},
};
use astraforge_http::Client;
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

use crate::house::{Answer, House, Who};

/// A house with sandboxes.
async fn house() -> House {
    let plane = ControlPlane::new(
        Arc::new(MemorySandboxStore::default()),
        Arc::new(MemoryArtifacts::default()),
        Arc::new(TestClock::new()),
        vec![Arc::new(PlayedMachines::default())],
    );
    House::with(|state| state.with_sandboxes(plane)).await
}

/// Submits requests, works on each, and opens merge requests for them.
async fn merge(house: &House, n: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..n {
        let id = house.submit(json!({})).await;
        house.work().await;
        house.post(Who::Reviewer, &format!("/api/requests/{id}/approve/"), json!({})).await.has_status(202);
        house.work().await;
        ids.insert(0, id);
    }
    ids
}

/// The list of an answer, which some answers have in a field.
fn entries(answer: &Answer) -> Vec<Value> {
    let body = answer.has_status(200);
    let list = body.as_array().or_else(|| body["snapshots"].as_array()).or_else(|| body["artifacts"].as_array());
    list.unwrap_or_else(|| panic!("no list: {body}")).clone()
}

/// Reads a list in pages of two, by the links in their headers.
async fn in_pages(house: &House, path: &str, filter: &str) -> Vec<Value> {
    let (mut all, mut address) = (Vec::new(), format!("{path}?limit=2{filter}"));
    loop {
        let answer = house.get(Who::Admin, &address).await;
        let page = entries(&answer);
        assert!(page.len() <= 2, "{address}");
        all.extend(page);
        let Some(cursor) = answer.headers.get("x-next-cursor") else {
            assert!(!answer.headers.contains_key("link"), "{address}");
            return all;
        };
        let link = answer.header("link");
        address = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned();
        assert!(
            address.starts_with(path) && address.ends_with(&format!("cursor={}", cursor.to_str().unwrap())),
            "{link}"
        );
    }
}

async fn check(house: &House, path: &str, n: usize) {
    let whole = house.get(Who::Admin, path).await;
    assert!(!whole.headers.contains_key("link"), "{path}: a whole list has no next page");
    let whole = entries(&whole);
    assert_eq!((whole.len(), in_pages(house, path, "").await), (n, whole), "{path}");
}

#[tokio::test]
async fn pages_put_together_are_the_list() {
    let house = house().await;
    merge(&house, 3).await;
    for name in ["a", "b"] {
        let link = json!({"provider": "local", "repository": name});
        house.post(Who::Maintainer, "/api/repository-links/", link).await.has_status(201);
    }
    check(&house, "/api/requests/", 3).await;
    check(&house, "/api/runs/", 3).await;
    check(&house, "/api/merge-requests/", 3).await;
    check(&house, "/api/repository-links/", 3).await;
    check(&house, "/api/api-keys/", 4).await;
}

#[tokio::test]
async fn sandboxes_and_what_is_kept_of_them_come_in_pages_too() {
    let house = house().await;
    let mut paths = Vec::new();
    for _ in 0..5 {
        let made = house.post(Who::Maintainer, "/api/sandbox/sessions/", json!({})).await;
        paths.push(format!("/api/sandbox/sessions/{}/", made.has_status(201)["id"].as_str().unwrap()));
    }
    for deleted in [&paths[1], &paths[3]] {
        house.call(Who::Maintainer, "DELETE", deleted, None).await.has_status(204);
    }
    check(&house, "/api/sandbox/sessions/", 3).await;
    for _ in 0..3 {
        house.post(Who::Maintainer, &format!("{}snapshots/", paths[0]), json!({})).await.has_status(201);
        let upload = json!({"path": "a", "content": "x"});
        house.post(Who::Maintainer, &format!("{}upload/", paths[0]), upload).await.has_status(200);
        house.post(Who::Maintainer, &format!("{}files/export/", paths[0]), json!({"path": "a"})).await.has_status(201);
    }
    check(&house, &format!("{}snapshots/", paths[0]), 3).await;
    check(&house, &format!("{}artifacts/", paths[0]), 3).await;
}

#[tokio::test]
async fn lists_can_be_about_one_state_or_one_request() {
    let house = House::new().await;
    let ids = merge(&house, 2).await;
    let received = house.submit(json!({"start": "after_plan"})).await;
    let listed = async |path: &str| {
        let answer = house.get(Who::Observer, path).await;
        let id = |entry: &Value| entry.get("request_id").unwrap_or(&entry["id"]).as_str().unwrap().to_owned();
        entries(&answer).iter().map(id).collect::<Vec<_>>()
    };
    assert_eq!(listed("/api/requests/?state=REVIEWED").await, ids);
    assert_eq!(listed("/api/requests/?state=RECEIVED").await, [received]);
    assert_eq!(listed("/api/requests/?state=DONE").await, [""; 0]);
    assert_eq!(in_pages(&house, "/api/requests/", "&state=REVIEWED").await.len(), 2);
    for list in ["runs", "merge-requests"] {
        assert_eq!(listed(&format!("/api/{list}/?request={}", ids[1])).await, [ids[1].clone()]);
        assert_eq!(listed(&format!("/api/{list}/?request={}", RequestId::random())).await, [""; 0]);
        let refused = json!({"request": ["Must be a valid UUID."]});
        house.get(Who::Observer, &format!("/api/{list}/?request=x")).await.is(400, refused);
        house.get(Who::Stranger, &format!("/api/{list}/?request={}", ids[1])).await.is(200, json!([]));
    }
    let refused = json!({"state": ["\"reviewed\" is not a valid choice."]});
    house.get(Who::Observer, "/api/requests/?state=reviewed").await.is(400, refused);
}

#[tokio::test]
async fn what_is_no_limit_or_cursor_is_refused() {
    let house = house().await;
    let made = house.post(Who::Maintainer, "/api/sandbox/sessions/", json!({})).await;
    let sandbox = made.has_status(201)["id"].as_str().unwrap().to_owned();
    let below = |list: &str| format!("/api/sandbox/sessions/{sandbox}/{list}/");
    let lists = ["requests", "runs", "merge-requests", "repository-links", "api-keys", "sandbox/sessions"];
    let lists = lists.map(|list| format!("/api/{list}/")).into_iter().chain(["snapshots", "artifacts"].map(below));
    for list in lists {
        for limit in ["0", "501", "4294967296"] {
            let answer = house.get(Who::Admin, &format!("{list}?limit={limit}")).await;
            assert!(answer.has_status(400)["limit"][0].is_string(), "{list} {limit}");
        }
        let integer = json!({"limit": ["A valid integer is required."]});
        for limit in ["", "x", "-1", "1.5"] {
            house.get(Who::Admin, &format!("{list}?limit={limit}")).await.is(400, integer.clone());
        }
        for cursor in ["", "x", "AAAA", "%ff"] {
            let answer = house.get(Who::Admin, &format!("{list}?limit=1&cursor={cursor}")).await;
            assert!(answer.has_status(400)["cursor"].is_array() || cursor == "%ff", "{list} {cursor}");
        }
    }
    for limit in [1, 500] {
        house.get(Who::Admin, &format!("/api/requests/?limit={limit}")).await.is(200, json!([]));
    }
}

#[tokio::test]
async fn what_comes_meanwhile_shifts_no_page() {
    let house = House::new().await;
    let first = [house.submit(json!({})).await, house.submit(json!({})).await, house.submit(json!({})).await];
    let page = house.get(Who::Observer, "/api/requests/?limit=1").await;
    assert_eq!(entries(&page)[0]["id"], first[2]);
    house.submit(json!({})).await;
    let cursor = page.header("x-next-cursor");
    let rest = house.get(Who::Observer, &format!("/api/requests/?cursor={cursor}")).await;
    let rest: Vec<_> = entries(&rest).iter().map(|entry| entry["id"].clone()).collect();
    assert_eq!(rest, [json!(first[1]), json!(first[0])]);
}

#[tokio::test]
async fn a_client_reads_lists_as_streams_that_fetch_pages_as_they_are_read() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let house = House::new().await;
    for _ in 0..101 {
        house.submit(json!({"start": "after_plan"})).await;
    }
    let client = Client::new(&house.open().await, house.key(Who::Admin)).unwrap();
    let all: Vec<_> = client.stream_requests(None).map_ok(|request| request.id).try_collect().await.unwrap();
    let listed: Vec<_> = client.requests().await.unwrap().into_iter().map(|request| request.id).collect();
    assert_eq!((all.len(), &all), (101, &listed));
    let two: Vec<_> = client.stream_requests(Some(RequestState::Received)).take(2).try_collect().await.unwrap();
    assert_eq!([two[0].id, two[1].id], listed[..2]);
    assert!(client.stream_requests(Some(RequestState::Done)).next().await.is_none());
    assert!(client.stream_runs(Some(listed[0])).next().await.is_none());
    assert_eq!(client.stream_api_keys().count().await, 4);
    let mut refused = client.stream_snapshots(astraforge_core::id::SandboxId::random());
    assert_eq!(refused.next().await.unwrap().unwrap_err().status().map(|it| it.as_u16()), Some(503));
    assert!(refused.next().await.is_none(), "an error ends it");
}
