//! Who may do what: every operation, tried by every role, and by another tenant with the ids of what is there.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use astraforge_core::{
    access::{Action, Role},
    control_plane::{ControlPlane, ControlSettings},
    download_link::LinkKey,
    testing::{MemoryArtifacts, MemorySandboxStore, PlayedMachines, TestClock},
};
use serde_json::{Value, json};

use crate::{
    house::{House, Who},
    operations::{self, Operation, Things},
};

/// Each role, and who has it.
const ROLES: [(Role, Who); 4] = [
    (Role::Observer, Who::Observer),
    (Role::Reviewer, Who::Reviewer),
    (Role::Maintainer, Who::Maintainer),
    (Role::Admin, Who::Admin),
];

pub(crate) async fn house() -> House {
    let (store, artifacts) = (Arc::new(MemorySandboxStore::default()), Arc::new(MemoryArtifacts::default()));
    let settings = ControlSettings::default().with_link_key(LinkKey::new([7; 32]));
    let drivers = vec![Arc::new(PlayedMachines::default()) as _];
    let plane = ControlPlane::builder(store, artifacts, Arc::new(TestClock::new()), drivers, settings).build();
    House::with(|state| state.with_sandboxes(plane)).await
}

fn action_of(operation: &Operation) -> Option<Action> {
    let name = operation.action.as_deref()?;
    Some(Action::ALL.into_iter().find(|action| action.as_str() == name).unwrap_or_else(|| panic!("no action {name}")))
}

#[tokio::test]
async fn every_role_is_let_in_and_kept_out_as_the_table_says() {
    let house = house().await;
    let things = Things::nowhere();
    let (mut n_refused, mut n_allowed) = (0, 0);
    for operation in operations::all() {
        let Some(action) = action_of(&operation) else { continue };
        for (role, who) in ROLES {
            let path = things.path(&operation);
            let answer = house.call(who, &operation.method, &path, things.body(&operation)).await;
            let is_refused = answer.status == 403;
            assert_eq!(is_refused, !role.may(action), "{role}: {} {path}: {}", operation.id, answer.text);
            assert!(answer.status != 401 && answer.status != 500, "{role}: {}: {}", operation.id, answer.text);
            *if is_refused { &mut n_refused } else { &mut n_allowed } += 1;
        }
    }
    assert!(n_refused > 90 && n_allowed > 150, "{n_refused} refused, {n_allowed} allowed");
}

#[tokio::test]
async fn a_caller_who_may_not_learns_nothing_from_what_they_send() {
    let house = house().await;
    for (path, body) in [("/api/requests/", json!([])), ("/api/sandbox/sessions/", json!({"cpu": []}))] {
        house.post(Who::Reviewer, path, body.clone()).await.has_status(403);
        house.post(Who::Maintainer, path, body).await.has_status(400);
    }
    house.post(Who::Observer, "/api/sandbox/sessions/no-id/exec/", json!({})).await.has_status(403);
}

#[tokio::test]
async fn metrics_are_shown_to_whoever_may_look() {
    let house = house().await;
    assert!(house.get(Who::Observer, "/metrics").await.text.contains("astraforge_sandboxes 0"));
    house.get(Who::Nobody, "/metrics").await.has_status(401);
}

#[test]
fn the_documented_table_is_the_one_in_the_code() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api-compatibility.md")).unwrap();
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| `")).collect();
    for action in Action::ALL {
        let cells = Role::ALL.map(|role| if role.may(action) { " yes |" } else { " |" });
        let row = format!("| `{action}` |{}", cells.concat());
        assert!(rows.iter().any(|it| it.starts_with(&row)), "docs/api-compatibility.md lacks this row: {row} …");
    }
}

/// What there is of the house's tenant.
pub(crate) async fn furnish(house: &House) -> Things {
    let request = house.submit(json!({})).await;
    house.work().await;
    house.post(Who::Reviewer, &format!("/api/requests/{request}/approve/"), json!({})).await.has_status(202);
    house.work().await;
    let first =
        async |path: &str| house.get(Who::Admin, path).await.has_status(200)[0]["id"].as_str().unwrap().to_owned();
    let made = house.post(Who::Maintainer, "/api/sandbox/sessions/", json!({})).await;
    let sandbox = made.has_status(201)["id"].as_str().unwrap().to_owned();
    let below = format!("/api/sandbox/sessions/{sandbox}/");
    house.post(Who::Maintainer, &format!("{below}upload/"), json!({"path": "a", "content": "x"})).await.has_status(200);
    let snapshot = house.post(Who::Maintainer, &format!("{below}snapshots/"), json!({})).await;
    let artifact = house.post(Who::Maintainer, &format!("{below}files/export/"), json!({"path": "a"})).await;
    let key = house.post(Who::Admin, "/api/api-keys/", json!({"name": "spare"})).await;
    let id = |body: &Value| body["id"].as_str().unwrap().to_owned();
    Things {
        request,
        run: first("/api/runs/").await,
        merge_request: first("/api/merge-requests/").await,
        link: first("/api/repository-links/").await,
        key: id(key.has_status(201)),
        sandbox,
        snapshot: id(snapshot.has_status(201)),
        artifact: id(artifact.has_status(201)),
    }
}

/// All that the house's tenant can see of its things.
async fn inventory(house: &House, things: &Things) -> Vec<Value> {
    let mut all = Vec::new();
    let Things { request, run, merge_request, sandbox, .. } = things;
    for path in [
        "requests/".to_owned(),
        format!("requests/{request}/"),
        format!("requests/{request}/diff/"),
        format!("runs/{run}/"),
        format!("merge-requests/{merge_request}/"),
        "repository-links/".to_owned(),
        "api-keys/".to_owned(),
        format!("sandbox/sessions/{sandbox}/"),
        format!("sandbox/sessions/{sandbox}/snapshots/"),
        format!("sandbox/sessions/{sandbox}/artifacts/"),
    ] {
        all.push(house.get(Who::Admin, &format!("/api/{path}")).await.has_status(200).clone());
    }
    all
}

#[tokio::test]
async fn nothing_of_another_tenant_is_there_whatever_is_asked_for_it() {
    let house = house().await;
    let things = furnish(&house).await;
    let before = inventory(&house, &things).await;
    let mut tried = BTreeSet::new();
    for operation in operations::all() {
        let path = things.path(&operation);
        let body = things.body(&operation);
        let names_a_thing = operation.path.contains('{')
            || matches!(operation.id.as_str(), "chat" | "make_plan" | "execute_plan" | "create_sandbox");
        // The server holds no conversations, so it says so whatever is asked for them.
        if !names_a_thing || operation.action.as_deref().is_some_and(|_| operation.path.contains("/deepagent/")) {
            continue;
        }
        let answer = house.call(Who::Stranger, &operation.method, &path, body).await;
        assert_eq!(answer.status, 404, "{}: {}", operation.id, answer.text);
        assert!(answer.body["detail"].is_string(), "{}: {}", operation.id, answer.text);
        tried.insert(operation.id);
    }
    assert!(tried.len() > 55, "{} {tried:?}", tried.len());
    // One log has two names.
    house.get(Who::Stranger, &format!("/api/runs/{}/logs/stream", things.run)).await.has_status(404);
    assert_eq!(inventory(&house, &things).await, before);
}

#[tokio::test]
async fn things_of_another_tenant_are_of_no_use_with_ones_own() {
    let house = house().await;
    let theirs = furnish(&house).await;
    let before = inventory(&house, &theirs).await;
    let stranger = async |path: &str, body: Value| house.post(Who::Stranger, path, body).await;
    let link = json!({"provider": "local", "repository": "acme/loader"});
    let link = stranger("/api/repository-links/", link).await.has_status(201)["id"].clone();
    let own = stranger("/api/sandbox/sessions/", json!({})).await.has_status(201)["id"].as_str().unwrap().to_owned();
    let own = format!("/api/sandbox/sessions/{own}/");

    let no_snapshot = json!({"detail": "Snapshot not found"});
    let restore = json!({"snapshot_id": theirs.snapshot});
    stranger(&format!("{own}restore/"), restore).await.is(404, no_snapshot.clone());
    let made_from = json!({"restore_snapshot_id": theirs.snapshot});
    stranger("/api/sandbox/sessions/", made_from).await.is(404, no_snapshot.clone());
    let diff = house.get(Who::Stranger, &format!("{own}snapshots/{}/diff/", theirs.snapshot)).await;
    diff.is(404, no_snapshot);
    // The contract's own words for what is no project of the caller's.
    let foreign = json!({"prompt": "x", "project_id": theirs.link});
    let refused = json!({"project_id": ["Select a project linked to your account."]});
    stranger("/api/requests/", foreign).await.is(400, refused);
    // An id that a client chose can be taken, and that is all that is told.
    let taken = stranger("/api/requests/", json!({"id": theirs.request, "prompt": "x", "project_id": link})).await;
    assert!(!taken.has_status(409).to_string().contains("Cache"), "{}", taken.text);
    for list in ["requests", "runs", "merge-requests"] {
        house.get(Who::Stranger, &format!("/api/{list}/")).await.is(200, json!([]));
    }
    assert_eq!(inventory(&house, &theirs).await, before);
}
