//! Keys of calls on the routes themselves: what is made is made once, whatever happens in between.

use std::{sync::Arc, time::Duration};

use astraforge_core::{
    access::Role,
    command::{Start, SubmitRequest},
    control_plane::{ControlPlane, ControlSettings, NewSandbox},
    idempotency::{Attempt, Begun, CallName, Fingerprint},
    ports::{call_store::CallStore as _, clock::Clock as _},
    testing::{MemoryArtifacts, MemorySandboxStore, PlayedMachines, TestClock, samples},
};
use astraforge_http::{AppState, router};
use axum::{body::Body, http::Request};
use chrono::TimeDelta;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::house::{Answer, House, Who};

const REQUESTS: &str = "/api/requests/";
const SANDBOXES: &str = "/api/sandbox/sessions/";

/// Calls with a key of the call.
pub(crate) async fn post(house: &House, who: Who, key: &str, path: &str, body: &Value) -> Answer {
    let request = Request::post(path).header("x-api-key", house.key(who)).header("idempotency-key", key);
    let request = request.header("content-type", "application/json").body(Body::from(body.to_string()));
    house.send(request.unwrap()).await
}

pub(crate) fn is_replayed(answer: &Answer) -> bool {
    answer.headers.contains_key("idempotent-replayed")
}

/// Begins a call as a server did that was killed then.
pub(crate) async fn begin(house: &House, key: &str, path: &str, body: &Value) -> Attempt {
    let mut caller = samples::caller("Maintainer", Role::Maintainer);
    caller.tenant = astraforge_core::id::TenantId::new("acme");
    let call = CallName { caller, key: key.parse().unwrap() };
    let now = house.spine.clock.now();
    let print = Fingerprint::of("POST", path, body.to_string().as_bytes());
    match house.spine.store.begin_call(&call, print, now, now + TimeDelta::seconds(30)).await.unwrap() {
        Begun::Attempt(attempt) => attempt,
        other => panic!("{other:?}"),
    }
}

fn new_request(house: &House) -> Value {
    json!({"prompt": "Cache the loader results", "project_id": house.spine.link.id})
}

#[tokio::test]
async fn a_request_is_submitted_once() {
    let house = House::new().await;
    let body = new_request(&house);
    let first = post(&house, Who::Maintainer, "k", REQUESTS, &body).await;
    house.work().await;
    let again = post(&house, Who::Maintainer, "k", REQUESTS, &body).await;
    again.is(201, first.body.clone());
    assert!(is_replayed(&again) && !is_replayed(&first));
    assert_eq!(house.get(Who::Maintainer, REQUESTS).await.body.as_array().unwrap().len(), 1);
    let other = json!({"prompt": "Another", "project_id": house.spine.link.id});
    let refused = post(&house, Who::Maintainer, "k", REQUESTS, &other).await;
    assert_eq!(refused.has_status(409)["code"], "idempotency_key_reused");
    // What is wrong with a call is told again too.
    for is_second in [false, true] {
        let refused = post(&house, Who::Maintainer, "wrong", REQUESTS, &json!({"prompt": ""})).await;
        refused.has_status(400);
        assert_eq!(is_replayed(&refused), is_second);
    }
}

#[tokio::test]
async fn two_servers_that_get_the_same_call_at_once_carry_it_out_once() {
    let mut house = House::new().await;
    let body = new_request(&house);
    let other = router(AppState::builder(house.forge.clone()).build());
    let mut answers = join_all((0..8).map(|_| post(&house, Who::Maintainer, "k", REQUESTS, &body))).await;
    house.app = other;
    answers.extend(join_all((0..8).map(|_| post(&house, Who::Maintainer, "k", REQUESTS, &body))).await);
    let made = answers.iter().filter(|it| it.status == 201);
    let ids: Vec<&Value> = made.map(|it| &it.body["id"]).collect();
    assert!(ids.len() >= 9 && ids.iter().all(|id| *id == ids[0]), "{answers:?}");
    assert_eq!(house.get(Who::Maintainer, REQUESTS).await.body.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_request_that_a_killed_server_had_submitted_is_found_and_not_submitted_twice() {
    let house = House::new().await;
    let body = new_request(&house);
    let lost = begin(&house, "k", REQUESTS, &body).await;
    let mut caller = house.spine.caller("Maintainer", Role::Maintainer);
    caller.tenant = lost.call.caller.tenant.clone();
    let submit = SubmitRequest {
        caller,
        id: Some(lost.makes.into()),
        prompt: "Cache the loader results".parse().unwrap(),
        repository: house.spine.link.id,
        source: "direct_user".to_owned(),
        sender: String::new(),
        attachments: Vec::new(),
        start: Start::Now,
    };
    let submitted = house.forge.submit(submit).await.unwrap();
    let at_work = post(&house, Who::Maintainer, "k", REQUESTS, &body).await;
    assert_eq!(at_work.has_status(409)["code"], "idempotency_call_at_work");
    house.spine.clock.advance(Duration::from_secs(31));
    let found = post(&house, Who::Maintainer, "k", REQUESTS, &body).await;
    assert_eq!(found.has_status(201)["id"], submitted.id.to_string());
    assert!(!is_replayed(&found));
    assert_eq!(house.get(Who::Maintainer, REQUESTS).await.body.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_sandbox_that_a_killed_server_had_made_is_found_and_not_made_twice() {
    let machines = Arc::new(PlayedMachines::default());
    let (store, artifacts) = (Arc::new(MemorySandboxStore::default()), Arc::new(MemoryArtifacts::default()));
    let (clock, drivers) = (Arc::new(TestClock::new()), vec![machines.clone() as _]);
    let plane = ControlPlane::builder(store, artifacts, clock, drivers, ControlSettings::default()).build();
    let house = House::with(|state| state.with_sandboxes(plane.clone())).await;
    let body = json!({"memory": "512Mi"});
    let lost = begin(&house, "k", SANDBOXES, &body).await;
    let new = NewSandbox { id: Some(lost.makes.into()), ..NewSandbox::default() };
    plane.create(&lost.call.caller, new).await.unwrap();
    house.spine.clock.advance(Duration::from_secs(31));
    let found = post(&house, Who::Maintainer, "k", SANDBOXES, &body).await;
    assert_eq!(found.has_status(200)["id"], lost.makes.to_string());
    let again = post(&house, Who::Maintainer, "k", SANDBOXES, &body).await;
    assert!(is_replayed(&again));
    again.is(200, found.body.clone());
    assert_eq!(again.header("location"), lost.makes.to_string());
    let other = post(&house, Who::Maintainer, "l", SANDBOXES, &body).await;
    assert_ne!(other.has_status(201)["id"], found.body["id"]);
    assert_eq!(machines.n_made(), 2);
}

#[tokio::test]
async fn a_key_that_is_shown_once_is_shown_to_those_who_ask_again() {
    let house = House::new().await;
    let body = json!({"name": "ci"});
    let first = post(&house, Who::Admin, "k", "/api/api-keys/", &body).await;
    let again = post(&house, Who::Admin, "k", "/api/api-keys/", &body).await;
    again.is(201, first.body.clone());
    assert!(again.body["key"].as_str().unwrap().starts_with("afk_"));
    assert_eq!(again.header("location"), first.header("location"));
    let keys = house.get(Who::Admin, "/api/api-keys/").await;
    let n_made = keys.body.as_array().unwrap().iter().filter(|key| key["name"] == "ci").count();
    assert_eq!(n_made, 1);
    for who in [Who::Observer, Who::Stranger] {
        let other = post(&house, who, "k", "/api/api-keys/", &body).await;
        assert_ne!(other.body["key"], first.body["key"], "it is not theirs");
    }
}

#[tokio::test]
async fn a_key_on_a_call_that_nobody_is_known_to_make_does_nothing() {
    let house = House::new().await;
    for _ in 0..2 {
        let refused = post(&house, Who::Nobody, "k", REQUESTS, &new_request(&house)).await;
        refused.has_status(401);
        assert!(!is_replayed(&refused));
    }
}
