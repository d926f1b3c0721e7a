//! Two servers of one installation: calls for a sandbox go to the one that has it.

use std::{sync::Arc, time::Duration};

use astraforge_core::{
    access::Role,
    control_plane::{ControlPlane, ControlSettings, NewSandbox},
    id::NodeId,
    ports::machines::Machines,
    testing::{MemoryAccountStore, MemoryArtifacts, MemorySandboxStore, PlayedMachines, TestClock, samples},
};
use astraforge_http::server::{Accounts, AppStateBuilder};
use axum::{body::Body, http::Request};
use serde_json::json;

use crate::{
    browser::Browser,
    house::{Answer, House, Who},
    idempotency,
};

const PATH: &str = "/api/sandbox/sessions/";

/// Two servers on one store, and what they have in common.
struct Street {
    one: Server,
    other: Server,
    clock: TestClock,
}

struct Server {
    house: House,
    plane: ControlPlane,
    machines: Arc<PlayedMachines>,
    node: NodeId,
    url: String,
}

impl Street {
    async fn new() -> Self {
        Self::with(Arc::default(), Arc::default()).await
    }

    /// With machines that both reach.
    async fn of_one_cluster() -> Self {
        let machines = Arc::<PlayedMachines>::default();
        Self::with(machines.clone(), machines).await
    }

    async fn with(first: Arc<PlayedMachines>, second: Arc<PlayedMachines>) -> Self {
        _ = rustls::crypto::ring::default_provider().install_default();
        let (store, artifacts) = (Arc::new(MemorySandboxStore::default()), Arc::new(MemoryArtifacts::default()));
        let (clock, people) = (TestClock::new(), Arc::new(MemoryAccountStore::default()));
        let is_shared = Arc::ptr_eq(&first, &second);
        let mut servers = Vec::new();
        for machines in [first, second] {
            let node = NodeId::random();
            let settings = ControlSettings::default().with_node(node);
            let settings = if is_shared { settings.with_shared_mode("played") } else { settings };
            let drivers: Vec<Arc<dyn Machines>> = vec![machines.clone()];
            let clock = Arc::new(clock.clone());
            let plane = ControlPlane::builder(store.clone(), artifacts.clone(), clock, drivers, settings).build();
            let accounts = Accounts::new(people.clone()).with_registration(samples::tenant(), Role::Maintainer);
            let set_up = |state: AppStateBuilder| {
                state.with_sandboxes(plane.clone()).with_peers(reqwest_client()).with_accounts(accounts)
            };
            let mut house = House::with(set_up).await;
            // Both know the same keys, as servers on one database do.
            if let Some(Server { house: first, .. }) = servers.first() {
                house.knows_keys_of(first).await;
            }
            let url = house.open().await;
            servers.push(Server { house, plane, machines, node, url });
        }
        let other = servers.pop().unwrap();
        Self { one: servers.pop().unwrap(), other, clock }
    }

    /// Lets time pass in which these servers say that they are there.
    async fn stay(&self, seconds: u64, there: &[&Server]) {
        for _ in 0..seconds / 10 {
            self.clock.advance(Duration::from_secs(10));
            for server in [&self.one, &self.other] {
                server.house.spine.clock.advance(Duration::from_secs(10));
            }
            for server in there {
                server.plane.announce(Some(&server.url)).await.unwrap();
            }
        }
    }
}

impl Server {
    async fn make(&self) -> String {
        let made = self.house.post(Who::Maintainer, PATH, json!({})).await;
        made.has_status(201)["id"].as_str().unwrap().to_owned()
    }
}

fn reqwest_client() -> reqwest::Client {
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).tls_certs_only([]).build().unwrap()
}

async fn beat(server: &Server, who: Who, id: &str) -> Answer {
    // Whatever answers this has the machine.
    server.house.get(who, &format!("{PATH}{id}/files/list/")).await
}

#[tokio::test]
async fn a_call_goes_to_the_server_that_has_the_machine() {
    let street = Street::new().await;
    street.stay(10, &[&street.one, &street.other]).await;
    let id = street.one.make().await;
    street.one.machines.write(id.parse().unwrap(), "/workspace/a", "precious");
    let listed = beat(&street.other, Who::Maintainer, &id).await;
    assert_eq!(listed.has_status(200)["entries"][0]["path"], "/workspace/a");
    let path = format!("{PATH}{id}/");
    let snapshot = street.other.house.post(Who::Maintainer, &format!("{path}snapshots/"), json!({"label": "x"})).await;
    assert_eq!(snapshot.has_status(201)["label"], "x");
    let again = json!({"id": id});
    assert_eq!(street.other.house.post(Who::Maintainer, PATH, again).await.has_status(200)["status"], "ready");
    assert!(street.other.machines.live().is_empty(), "it was not made here");
    street.other.house.call(Who::Maintainer, "DELETE", &path, None).await.has_status(204);
    assert!(street.one.machines.live().is_empty());
}

#[tokio::test]
async fn a_call_that_was_passed_on_has_one_entry_in_the_audit_where_it_was_answered() {
    let street = Street::new().await;
    street.stay(10, &[&street.one, &street.other]).await;
    let id = street.one.make().await;
    let calls = |server: &Server| {
        let entries = server.house.spine.audit.entries(&samples::tenant()).into_iter();
        let calls = entries.filter(|entry| entry.action.starts_with("api.") && entry.subject == id);
        calls.map(|entry| entry.action).collect::<Vec<_>>()
    };
    let path = format!("{PATH}{id}/");
    street.other.house.post(Who::Maintainer, &format!("{path}snapshots/"), json!({})).await.has_status(201);
    street.stay(60, &[&street.other]).await;
    street.other.house.post(Who::Maintainer, &format!("{path}snapshots/"), json!({})).await.has_status(503);
    assert_eq!(calls(&street.one), ["api.create_sandbox", "api.take_snapshot"]);
    assert_eq!(calls(&street.other), ["api.take_snapshot"], "nobody else answered that one");
}

#[tokio::test]
async fn a_browser_that_is_logged_in_changes_what_another_server_has() {
    let street = Street::new().await;
    street.stay(10, &[&street.one, &street.other]).await;
    let id = street.one.make().await;
    let mut browser = Browser::default();
    let mira = json!({"username": "mira", "password": "long enough"});
    browser.call(&street.other.house, "POST", "/api/auth/register/", Some(mira)).await.has_status(201);
    browser.brings_its_token();
    browser.headers.push(("origin", "http://forge.test".to_owned()));
    let path = format!("{PATH}{id}/snapshots/");
    browser.call(&street.other.house, "POST", &path, Some(json!({}))).await.has_status(201);
    browser.headers.retain(|(name, _)| *name != "origin");
    browser.headers.push(("origin", "http://evil.test".to_owned()));
    browser.call(&street.other.house, "POST", &path, Some(json!({}))).await.has_status(403);
}

#[tokio::test]
async fn whoever_may_not_use_a_sandbox_learns_nothing_of_it_anywhere() {
    let street = Street::new().await;
    street.stay(10, &[&street.one, &street.other]).await;
    let id = street.one.make().await;
    street.stay(60, &[&street.other]).await;
    let unknown = json!({"detail": "No SandboxSession matches the given query."});
    beat(&street.other, Who::Stranger, &id).await.is(404, unknown);
    beat(&street.other, Who::Nobody, &id).await.has_status(401);
    let stop = format!("{PATH}{id}/stop/");
    street.other.house.post(Who::Nobody, &stop, json!({})).await.has_status(401);
    street.other.house.post(Who::Stranger, &stop, json!({})).await.has_status(404);
}

#[tokio::test]
async fn a_server_that_is_gone_is_told_and_what_rows_answer_is_answered() {
    let street = Street::new().await;
    street.stay(10, &[&street.one, &street.other]).await;
    let id = street.one.make().await;
    for stops_in_order in [false, true] {
        if stops_in_order {
            street.one.plane.withdraw().await.unwrap();
        } else {
            street.stay(60, &[&street.other]).await;
        }
        let refused = beat(&street.other, Who::Maintainer, &id).await;
        assert_eq!(refused.has_status(503)["code"], "node_unreachable");
        assert!(stops_in_order || refused.text.contains("last seen at 2026-03-01 12:00:10 UTC"), "{}", refused.text);
        let path = format!("{PATH}{id}/");
        assert_eq!(street.other.house.get(Who::Maintainer, &path).await.has_status(200)["status"], "ready");
        street.other.house.get(Who::Maintainer, &format!("{path}snapshots/")).await.has_status(200);
        street.other.house.post(Who::Maintainer, &format!("{path}heartbeat/"), json!({})).await.has_status(503);
        street.other.house.post(Who::Maintainer, PATH, json!({"id": id})).await.has_status(503);
    }
    let path = format!("{PATH}{id}/");
    street.other.house.call(Who::Maintainer, "DELETE", &path, None).await.has_status(204);
    street.other.house.get(Who::Maintainer, &path).await.has_status(404);
    street.one.plane.adopt(&|_| false).await.unwrap();
    assert!(street.one.machines.live().is_empty(), "its own server removes it when it is back");
}

#[tokio::test]
async fn what_a_server_had_that_is_gone_is_taken_over_by_whoever_is_asked() {
    let street = Street::of_one_cluster().await;
    street.stay(60, &[&street.one, &street.other]).await;
    let id = street.one.make().await;
    street.stay(60, &[&street.other]).await;
    beat(&street.other, Who::Maintainer, &id).await.has_status(200);
    assert_eq!(street.one.machines.n_made(), 1, "it is the same machine");
}

#[tokio::test]
async fn a_call_that_was_passed_on_goes_no_further_and_to_nobody_else() {
    let street = Street::new().await;
    street.stay(10, &[&street.one, &street.other]).await;
    let id = street.one.make().await;
    let passed = async |to: NodeId| {
        let request = Request::get(format!("{PATH}{id}/files/list/"))
            .header("x-api-key", street.other.house.key(Who::Maintainer));
        let request = request.header("x-astraforge-passed-on", to.to_string());
        street.other.house.send(request.body(Body::empty()).unwrap()).await
    };
    assert_eq!(passed(street.one.node).await.has_status(421)["code"], "wrong_node");
    assert_ne!(passed(street.other.node).await.has_status(421)["code"], json!("wrong_node"));
}

#[tokio::test]
async fn a_path_that_the_other_server_would_read_differently_is_not_passed_on() {
    let street = Street::new().await;
    street.stay(10, &[&street.one, &street.other]).await;
    let id = street.one.make().await;
    for name in ["..\\..\\..\\x", "%2e%2e", "a\\b"] {
        let path = format!("{PATH}{id}/processes/{name}/");
        let Ok(request) =
            Request::get(&path).header("x-api-key", street.other.house.key(Who::Maintainer)).body(Body::empty())
        else {
            continue;
        };
        street.other.house.send(request).await.is(404, json!({"detail": "Not found."}));
    }
    let garbled = format!("{PATH}%ff/");
    street.other.house.get(Who::Maintainer, &garbled).await.is(404, json!({"detail": "Not found."}));
}

#[tokio::test]
async fn a_call_that_is_passed_on_is_remembered_once_and_by_whoever_carries_it_out() {
    let street = Street::new().await;
    street.stay(10, &[&street.one, &street.other]).await;
    let id = street.one.make().await;
    let path = format!("{PATH}{id}/snapshots/");
    let body = json!({"label": "x"});
    let first = idempotency::post(&street.other.house, Who::Maintainer, "k", &path, &body).await;
    first.has_status(201);
    assert!(!idempotency::is_replayed(&first));
    for server in [&street.other, &street.one] {
        let again = idempotency::post(&server.house, Who::Maintainer, "k", &path, &body).await;
        assert!(idempotency::is_replayed(&again), "{}", again.text);
        again.is(201, first.body.clone());
    }
    // Here it has not been begun.
    idempotency::begin(&street.other.house, "k", &path, &body).await;
    let listed = street.one.house.get(Who::Maintainer, &path).await;
    assert_eq!(listed.has_status(200)["snapshots"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_sandbox_that_a_killed_server_made_for_a_call_is_found_by_the_call_on_another() {
    let street = Street::new().await;
    street.stay(10, &[&street.one, &street.other]).await;
    let body = json!({"memory": "512Mi"});
    let lost = idempotency::begin(&street.other.house, "k", PATH, &body).await;
    let new = NewSandbox { id: Some(lost.makes.into()), ..NewSandbox::default() };
    street.one.plane.create(&lost.call.caller, new).await.unwrap();
    street.stay(40, &[&street.one, &street.other]).await;
    let found = idempotency::post(&street.other.house, Who::Maintainer, "k", PATH, &body).await;
    assert_eq!(found.has_status(200)["id"], lost.makes.to_string());
    assert_eq!((street.one.machines.n_made(), street.other.machines.n_made()), (1, 0));
}
