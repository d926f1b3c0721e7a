//! The audit: that every call that changes something has its entry, and how entries are read.

use std::{sync::Arc, time::Duration};

use astraforge_core::{
    access::Role,
    account::Account,
    audit::Entry,
    id::{RequestId, TenantId, UserId},
    ports::account_store::AccountStore,
    repository::Secret,
    testing::{account_store::MemoryAccountStore, samples},
};
use astraforge_http::server::{Accounts, hash_password};
use axum::{body::Body, http::Request};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::house::{House, Who};

impl House {
    /// The entries of the house's tenant, those about uses of keys left out.
    fn audit(&self) -> Vec<Entry> {
        let entries = self.spine.audit.entries(&samples::tenant());
        entries.into_iter().filter(|entry| entry.action != "key.used").collect()
    }
}

/// What stands in an entry, but for its place in the chain.
fn told(entry: &Entry) -> [&str; 4] {
    [&entry.user, &entry.action, &entry.subject, &entry.outcome]
}

/// Operations that leave no entry: there are thousands of them in an hour of work.
const PARTS_OF_WORK: [&str; 7] = [
    "note_heartbeat",
    "write_input",
    "write_execution_input",
    "resize_terminal",
    "resize_execution",
    "use_mouse",
    "use_keyboard",
];

#[tokio::test]
async fn a_call_with_a_key_has_its_entry_though_its_caller_hangs_up() {
    let house = House::new().await;
    let key = || {
        let request = Request::post("/api/api-keys/").header("x-api-key", house.key(Who::Admin));
        let request = request.header("idempotency-key", "k").header("content-type", "application/json");
        request.body(Body::from(json!({"name": "ci"}).to_string())).unwrap()
    };
    let answer = house.app.clone().oneshot(key());
    assert!(futures::poll!(std::pin::pin!(answer)).is_pending(), "the caller is gone before there is an answer");
    let entry = loop {
        tokio::task::yield_now().await;
        let made = house.audit().into_iter().find(|entry| entry.action == "api.make_api_key");
        if let Some(entry) = made {
            break entry;
        }
    };
    assert_eq!(entry.outcome, "201");
    assert!(!entry.subject.is_empty(), "it says what was made: {entry:?}");
    house.send(key()).await.has_status(201);
    let again = house.audit().pop().unwrap();
    assert_eq!((&again.subject, &again.outcome), (&entry.subject, &entry.outcome));
    assert!(again.details.contains("replayed"), "{}", again.details);
}

#[tokio::test]
async fn every_call_that_may_change_something_has_an_entry() {
    let house = House::new().await;
    let document = astraforge_http::server::openapi();
    let id = RequestId::random().to_string();
    let (mut checked, mut n_parts) = (0, 0);
    for (template, item) in &document.paths.paths {
        let path =
            ["{id}", "{snapshot}", "{execution}"].iter().fold(template.clone(), |path, it| path.replace(it, &id));
        let path = path.replace("{name}", "x").replace("{run_id}", "x");
        assert!(!path.contains('{'), "{path} has a segment that this test does not know");
        let operations = [("POST", &item.post), ("PUT", &item.put), ("PATCH", &item.patch), ("DELETE", &item.delete)];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            let before = house.audit().len();
            let answer = house.call(Who::Admin, method, &path, None).await;
            let entries = house.audit();
            if PARTS_OF_WORK.contains(&operation.operation_id.as_deref().unwrap()) {
                assert!(entries.len() == before, "{method} {path} left {:?}", &entries[before..]);
                n_parts += 1;
                continue;
            }
            let action = format!("api.{}", operation.operation_id.as_deref().unwrap());
            let entry = entries[before..].iter().find(|entry| entry.action == action);
            let entry = entry.unwrap_or_else(|| panic!("{method} {path} left {:?}", &entries[before..]));
            assert_eq!(entry.outcome, answer.status.as_str(), "{method} {path}");
            assert_eq!(entry.call, answer.header("x-request-id"), "{method} {path}");
            assert_eq!(entry.subject.contains(&id), template.contains("{id}"), "{method} {path}: {}", entry.subject);
            checked += 1;
        }
    }
    assert!(checked > 40, "{checked}");
    assert_eq!(n_parts, PARTS_OF_WORK.len(), "one of them is no operation");
}

#[tokio::test]
async fn an_entry_tells_who_by_which_key_and_of_what() {
    let house = House::new().await;
    let request = house.submit(json!({})).await;
    let path = format!("/api/requests/{request}/cancel/");
    let cancel = Request::post(&path).header("x-api-key", house.key(Who::Maintainer)).header("x-request-id", "trace-7");
    house.send(cancel.body(Body::empty()).unwrap()).await.has_status(202);
    house.post(Who::Reviewer, "/api/chat/", json!({"request_id": request, "message": "Go on"})).await.has_status(202);
    house.post(Who::Observer, "/api/requests/", json!({})).await.has_status(403);
    let made = house.post(Who::Admin, "/api/api-keys/", json!({"name": "ci"})).await;
    house.get(Who::Observer, "/api/requests/").await.has_status(200);

    let entries = house.audit();
    let (request, key) = (request.as_str(), made.body["id"].as_str().unwrap());
    let expected = [
        ["Maintainer", "api.submit_request", request, "201"],
        ["Maintainer", "api.cancel_request", request, "202"],
        ["Reviewer", "api.chat", request, "202"],
        ["Observer", "api.submit_request", "", "403"],
        ["Admin", "api.make_api_key", key, "201"],
    ];
    assert_eq!(entries.iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(entries[1].call, "trace-7");
    assert!(entries[1].means.starts_with("key:") && entries[1].details == r#"{"role":"maintainer"}"#, "{entries:?}");
    let text = format!("{entries:?}");
    assert!(!text.contains(made.body["key"].as_str().unwrap()) && !text.contains("Go on"), "{text}");
}

#[tokio::test]
async fn approvals_and_verdicts_are_told_with_what_they_are_about() {
    let house = House::new().await;
    let request = house.submit(json!({})).await;
    house.work().await;
    let diff = house.get(Who::Reviewer, &format!("/api/requests/{request}/diff/")).await;
    let digest = diff.body["digest"].as_str().unwrap();
    house
        .post(Who::Reviewer, &format!("/api/chat/{request}/approve/"), json!({"digest": digest}))
        .await
        .has_status(202);

    let entries = house.audit();
    let request = request.as_str();
    let expected = [
        ["Maintainer", "api.submit_request", request, "201"],
        ["", "policy.decided", request, "allow"],
        ["Reviewer", "policy.decided", request, "allow"],
        ["Reviewer", "change.approved", request, "approved"],
        ["Reviewer", "api.chat_approve", request, "202"],
    ];
    assert_eq!(entries.iter().map(told).collect::<Vec<_>>(), expected);
    let details: Vec<Value> = entries.iter().map(|entry| serde_json::from_str(&entry.details).unwrap()).collect();
    for details in &details[1..4] {
        assert_eq!(details["digest"], digest, "{details}");
    }
    assert_eq!(details[1]["policy_version"], diff.body["verdict"]["policy_version"], "{}", diff.text);
    assert_eq!((entries[1].means.as_str(), &details[3]["binding"]), ("server", &json!("explicit")));
}

#[tokio::test]
async fn right_and_wrong_passwords_are_told_and_wrong_ones_only_in_part() {
    let store = Arc::new(MemoryAccountStore::default());
    let accounts = Accounts::new(store.clone()).with_registration(TenantId::new("acme"), Role::Observer);
    let house = House::with(|state| state.with_accounts(accounts)).await;
    let ada = Account {
        user: UserId::new("ada"),
        tenant: samples::tenant(),
        email: String::new(),
        password_hash: hash_password(&Secret::new("correct horse")).unwrap(),
        role: Role::Observer,
        is_active: false,
        created_at: samples::now(),
    };
    store.add_account(&ada).await.unwrap();
    let log_in = async |name: &str, password: &str| {
        house.post(Who::Nobody, "/api/auth/login/", json!({"username": name, "password": password})).await
    };
    let mira = json!({"username": "mira", "password": "correct horse"});
    house.post(Who::Nobody, "/api/auth/register/", mira).await.has_status(201);
    log_in("mira", "correct horse").await.has_status(200);
    log_in("mira", "wrong").await.has_status(401);
    log_in("ada", "correct horse").await.has_status(401);
    log_in("typed-my-password-here", "x").await.has_status(401);
    let expected = [
        ["mira", "user.registered", "mira", "done"],
        ["mira", "login.accepted", "mira", "done"],
        ["", "login.refused", "mira", "wrong_password"],
        ["", "login.refused", "ada", "disabled"],
        ["", "login.refused", "", "unknown_name"],
    ];
    assert_eq!(house.audit().iter().map(told).collect::<Vec<_>>(), expected);

    for _ in 0..20 {
        log_in("mira", "wrong").await;
    }
    assert_eq!(house.audit().len(), 9, "five of a name are written in a minute");
    house.spine.clock.advance(Duration::from_secs(60));
    log_in("mira", "wrong").await.has_status(429);
    let last = house.audit().pop().unwrap();
    assert_eq!((told(&last)[3], last.details.as_str()), ("too_many", r#"{"left_out":16}"#));
    let text = format!("{:?}", house.audit());
    assert!(!text.contains("horse") && !text.contains("typed"), "{text}");
}

#[tokio::test]
async fn wrong_keys_are_told_in_part_and_uses_of_keys_once_a_minute() {
    let house = House::new().await;
    for _ in 0..99 {
        let wrong = Request::delete("/api/api-keys/x/").header("x-api-key", "afk_wrong").body(Body::empty()).unwrap();
        house.send(wrong).await.has_status(401);
        house.get(Who::Observer, "/api/runs/").await.has_status(200);
    }
    let entries = house.spine.audit.entries(&samples::tenant());
    let wrong: Vec<_> = entries.iter().filter(|entry| entry.action == "key.refused").collect();
    assert_eq!((wrong.len(), wrong[0].subject.as_str()), (5, "revoke_api_key"));
    let used: Vec<_> = entries.iter().filter(|entry| entry.action == "key.used").collect();
    assert_eq!((used.len(), used[0].user.as_str()), (1, "Observer"));
    assert_eq!(used[0].means, format!("key:{}", used[0].subject));
    assert_eq!(entries.len(), 6);
}

#[tokio::test]
async fn administrators_read_their_own_audit_in_parts() {
    let house = House::new().await;
    for _ in 0..5 {
        house.post(Who::Admin, "/api/api-keys/", json!({"name": "x"})).await.has_status(201);
    }
    house.post(Who::Stranger, "/api/api-keys/", json!({"name": "theirs"})).await.has_status(201);
    let (mut path, mut seqs) = ("/api/audit/?limit=2".to_owned(), Vec::new());
    loop {
        let page = house.get(Who::Admin, &path).await;
        let items = page.has_status(200)["items"].as_array().unwrap();
        assert!((1..=2).contains(&items.len()), "{}", page.text);
        seqs.extend(items.iter().map(|entry| entry["seq"].as_u64().unwrap()));
        let Some(cursor) = page.body["next_cursor"].as_str() else { break };
        path = format!("/api/audit/?limit=2&cursor={cursor}");
    }
    assert_eq!(seqs, [6, 5, 4, 3, 2, 1], "one for the use of the key, and five for what was done");
    let page = house.get(Who::Admin, "/api/audit/").await.body;
    assert_eq!((page["items"].as_array().unwrap().len(), &page["next_cursor"]), (6, &Value::Null));
    let newest = &page["items"][0];
    assert_eq!((&newest["action"], &newest["details"]), (&json!("api.make_api_key"), &json!({"role": "admin"})));
    assert_eq!(newest["created_at"], "2026-03-01T12:00:00.000000Z");

    for path in ["/api/audit/", "/api/audit/export/", "/api/audit/verify/"] {
        house.get(Who::Maintainer, path).await.has_status(403);
        house.get(Who::Nobody, path).await.has_status(401);
    }
    for (query, field) in [("limit=0", "limit"), ("limit=1001", "limit"), ("cursor=x", "cursor")] {
        let refused = house.get(Who::Admin, &format!("/api/audit/?{query}")).await;
        assert!(refused.has_status(400)[field].is_array(), "{}", refused.text);
    }
    house.get(Who::Admin, "/api/audit/?limit=x").await.has_status(400);
}

#[tokio::test]
async fn an_export_has_every_entry_and_a_check_finds_what_was_changed() {
    let house = House::new().await;
    for _ in 0..4 {
        house.post(Who::Admin, "/api/api-keys/", json!({"name": "x"})).await.has_status(201);
    }
    let export = house.get(Who::Admin, "/api/audit/export/").await;
    assert_eq!(export.header("content-type"), "application/jsonl");
    let lines: Vec<Value> = export.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().map(|line| line["seq"].as_u64().unwrap()).eq(1..=5));

    let check = house.get(Who::Admin, "/api/audit/verify/").await;
    let head = format!("5:{}", lines[4]["hash"].as_str().unwrap());
    check.is(200, json!({"holds": true, "n_entries": 5, "head": head}));
    let expect = format!("/api/audit/verify/?expect={head}");
    assert_eq!(house.get(Who::Admin, &expect).await.body["holds"], true);
    assert!(house.get(Who::Admin, "/api/audit/verify/?expect=5").await.has_status(400)["expect"].is_array());

    house.spine.audit.tamper(&samples::tenant(), |chain| chain.entries[2].user = "eve".to_owned());
    let fault = "entry 3 is not as it was written: it was changed, moved, or put in";
    house.get(Who::Admin, "/api/audit/verify/").await.is(200, json!({"holds": false, "fault": fault}));
    house.spine.audit.tamper(&samples::tenant(), |chain| (chain.entries, chain.head) = (Vec::new(), None));
    let fault = "entry 5 was marked, and the chain ends with entry 0";
    house.get(Who::Admin, &expect).await.is(200, json!({"holds": false, "fault": fault}));
}

#[tokio::test]
async fn what_cannot_be_written_stops_no_call_and_is_counted() {
    let house = House::new().await;
    house.spine.audit.is_full(true);
    house.post(Who::Admin, "/api/api-keys/", json!({"name": "x"})).await.has_status(201);
    let metrics = house.get(Who::Observer, "/metrics").await.text;
    assert!(metrics.contains("\nastraforge_audit_lost_total 3\n"), "two uses of keys and a call: {metrics}");
}

#[tokio::test]
async fn who_hangs_up_leaves_an_entry_all_the_same() {
    let house = House::new().await;
    // A body that never comes.
    let body = Body::from_stream(futures::stream::pending::<Result<&str, std::io::Error>>());
    let request = Request::post("/api/chat/").header("x-api-key", house.key(Who::Reviewer));
    let call = house.app.clone().oneshot(request.header("content-type", "application/json").body(body).unwrap());
    assert!(tokio::time::timeout(Duration::from_millis(50), call).await.is_err());
    let written = async {
        while house.audit().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), written).await.unwrap();
    assert_eq!(told(&house.audit()[0]), ["Reviewer", "api.chat", "", "abandoned"]);
}

#[tokio::test]
async fn an_embedder_without_an_audit_has_none() {
    let house = House::new().await;
    let spine = &house.spine;
    let ports = spine.ports(astraforge_core::forge::Settings::default());
    let journal = astraforge_core::journal::Journal::new(
        spine.store.clone(),
        Arc::new(astraforge_core::testing::MemoryWakeups::default()),
        Arc::new(spine.clock.clone()),
        spine.redactor.clone(),
    );
    let forge = astraforge_core::forge::Forge::new(astraforge_core::forge::Ports { journal, ..ports });
    let app = astraforge_http::router(astraforge_http::AppState::builder(forge).build());
    let house = House { app, ..house };
    house.post(Who::Admin, "/api/api-keys/", json!({"name": "x"})).await.has_status(201);
    house.get(Who::Admin, "/api/audit/").await.is(404, json!({"detail": "This server keeps no audit."}));
    assert!(house.audit().is_empty());
}
