//! Sandboxes over HTTP, on played machines; on real ones they are tried with the whole program.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use astraforge_core::{
    control_plane::{ControlPlane, ControlSettings},
    download_link::LinkKey,
    testing::{MemoryArtifacts, MemorySandboxStore, PlayedMachines, TestClock},
};
use serde_json::{Value, json};

use crate::house::{Answer, House, Who};

const PATH: &str = "/api/sandbox/sessions/";
const UNKNOWN: &str = "No SandboxSession matches the given query.";

struct Yard {
    house: House,
    machines: Arc<PlayedMachines>,
    plane: ControlPlane,
}

impl Yard {
    async fn new() -> Self {
        let machines = Arc::new(PlayedMachines::default());
        let settings = ControlSettings::default().with_link_key(LinkKey::new([7; 32]));
        let (store, artifacts) = (Arc::new(MemorySandboxStore::default()), Arc::new(MemoryArtifacts::default()));
        let drivers = vec![machines.clone() as _];
        let plane = ControlPlane::builder(store, artifacts, Arc::new(TestClock::new()), drivers, settings).build();
        let house = House::with(|state| state.with_sandboxes(plane.clone()).with_link_base("https://forge.test")).await;
        Self { house, machines, plane }
    }

    /// Makes a sandbox, and returns its path.
    async fn make(&self, body: Value) -> String {
        let answer = self.house.post(Who::Maintainer, PATH, body).await;
        assert_eq!(answer.has_status(201)["status"], "ready");
        format!("{PATH}{}/", answer.body["id"].as_str().unwrap())
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.house.post(Who::Maintainer, path, body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.house.get(Who::Maintainer, path).await
    }
}

#[tokio::test]
async fn a_sandbox_is_shown_in_the_contracts_shape() {
    let yard = Yard::new().await;
    let body = json!({"cpu": 2, "memory": "512m", "ephemeral_storage": "1Gi", "image": "busybox", "mode": "played",
        "idle_timeout_sec": "60", "max_lifetime_sec": 600, "artifact_base_url": "ignored"});
    let answer = yard.post(PATH, body).await;
    let id = answer.body["id"].clone();
    assert_eq!(answer.header("location"), id.as_str().unwrap());
    let reference = format!("played://sandbox-{}", id.as_str().unwrap());
    let now = "2026-03-01T12:00:00.000000Z";
    answer.is(
        201,
        json!({"id": id, "mode": "played", "image": "busybox", "cpu": "2", "memory": "512Mi",
            "ephemeral_storage": "1Gi", "restore_snapshot_id": null, "status": "ready", "ref": reference,
            "control_endpoint": reference, "workspace_path": "/workspace", "artifact_base_url": "",
            "idle_timeout_sec": 60, "max_lifetime_sec": 600, "last_activity_at": now, "last_heartbeat_at": now,
            "expires_at": "2026-03-01T12:10:00.000000Z", "error_message": "", "metadata": {}, "snapshot_ids": [],
            "artifacts_count": 0, "created_at": now, "updated_at": now, "egress": "public", "usage": null,
            "processes": 512, "files_on": "disk", "enforced": false, "roots": ["/workspace", "/tmp"]}),
    );
    yard.get(&format!("{PATH}{}", id.as_str().unwrap())).await.is(200, answer.body.clone());
    yard.get("/api/sandbox/sessions.json").await.is(200, json!([answer.body]));
    let again = yard.post(PATH, json!({"id": id, "memory": "9Gi"})).await;
    assert_eq!(again.has_status(200)["memory"], "512Mi", "what is there already stays as it is");
    yard.plane.sample_usage().await.unwrap();
    let usage = &yard.get(&format!("{PATH}{}/", id.as_str().unwrap())).await.body["usage"];
    assert_eq!(usage["cpu_seconds"], Value::Null, "a played machine tells nothing, and that is told: {usage}");
}

#[tokio::test]
async fn each_field_of_a_new_sandbox_is_judged() {
    let yard = Yard::new().await;
    let check = async |body: Value, mistakes: Value| yard.post(PATH, body).await.is(400, mistakes);
    check(
        json!({"mode": "docker"}),
        json!({"mode": ["\"docker\" is not a valid choice. What this server has: played."]}),
    )
    .await;
    check(json!({"id": "7"}), json!({"id": ["Must be a valid UUID."]})).await;
    check(json!({"image": " "}), json!({"image": ["This field may not be blank."]})).await;
    let image = "`--privileged` names no image: write name:tag, registry/name@sha256:digest, or an absolute path";
    check(json!({"image": "--privileged"}), json!({"image": [image]})).await;
    let seconds = json!({"idle_timeout_sec": 59, "max_lifetime_sec": "x"});
    let mistakes = json!({"idle_timeout_sec": ["Ensure this value is greater than or equal to 60."],
        "max_lifetime_sec": ["A valid integer is required."]});
    check(seconds, mistakes).await;
    let order = json!({"idle_timeout_sec": 400, "max_lifetime_sec": 300});
    check(order, json!({"non_field_errors": ["idle_timeout_sec cannot exceed max_lifetime_sec"]})).await;
    let egress =
        "`all` is not an egress: write off, public, or allow:HOST,… such as allow:example.com,*.example.org:8443";
    check(json!({"egress": "all"}), json!({"egress": [egress]})).await;
    let snapshot = json!({"restore_snapshot_id": "0d5d5f0a-2f0e-4c55-9b43-5b6b6f7f2a10"});
    yard.post(PATH, snapshot).await.is(404, json!({"detail": "Snapshot not found"}));
    assert!(yard.machines.live().is_empty());
}

#[tokio::test]
async fn what_a_driver_cannot_do_is_the_calls_fault_as_in_the_contract() {
    let yard = Yard::new().await;
    yard.machines.refuses.store(true, Ordering::SeqCst);
    let answer = yard.post(PATH, json!({})).await;
    let detail = "a machine is not supported by this sandbox driver: the test says so";
    let failure = json!({"error": "unsupported", "what": "a machine", "reason": "the test says so"});
    answer.is(400, json!({"detail": detail, "code": "not_supported", "failure": failure}));
    let rows = yard.get(PATH).await;
    let row = &rows.has_status(200)[0];
    assert_eq!((row["status"].as_str(), row["error_message"].as_str()), (Some("failed"), Some(detail)));
}

#[tokio::test]
async fn a_sandbox_is_used_stopped_and_deleted() {
    let yard = Yard::new().await;
    let path = yard.make(json!({})).await;
    let id = path.trim_start_matches(PATH).trim_end_matches('/').to_owned();
    yard.machines.write(id.parse().unwrap(), "/workspace/a", "precious");
    let snapshot = yard.post(&format!("{path}snapshot/"), json!({"label": " first "})).await;
    snapshot.has_status(201);
    assert_eq!((&snapshot.body["label"], &snapshot.body["include_paths"]), (&json!("first"), &json!(["/workspace"])));
    let key = format!("snapshots/{id}/{}.tar.zst", snapshot.body["id"].as_str().unwrap());
    assert_eq!((&snapshot.body["s3_key"], &snapshot.body["archive_path"]), (&json!(key), &json!("")));
    let listed = yard.get(&format!("{path}snapshots/")).await;
    listed.is(200, json!({"session_id": id, "snapshots": [snapshot.body]}));

    let artifact = yard.post(&format!("{path}files/export/"), json!({"path": "a", "filename": "b\r\n.txt"})).await;
    artifact.has_status(201);
    let url = artifact.body["download_url"].as_str().unwrap();
    assert_eq!((&artifact.body["storage_path"], &artifact.body["size_bytes"]), (&json!("/workspace/a"), &json!(8)));
    let download = yard.house.get(Who::Nobody, url.strip_prefix("https://forge.test").unwrap()).await;
    assert_eq!((download.status.as_u16(), download.text.as_str()), (200, "precious"));
    let artifacts = yard.get(&format!("{path}artifacts/")).await;
    assert_eq!(artifacts.has_status(200)["artifacts"][0]["id"], artifact.body["id"]);

    let beat = yard.post(&format!("{path}heartbeat/"), json!({})).await;
    beat.is(200, json!({"status": "ready", "last_heartbeat_at": "2026-03-01T12:00:00.000000Z"}));
    yard.post(&format!("{path}stop/"), json!({})).await.has_status(204);
    let stopped = yard.get(&path).await;
    let row = stopped.has_status(200);
    let expected = (&json!("terminated"), &json!("stopped"), &json!(1));
    assert_eq!((&row["status"], &row["metadata"]["terminated_reason"], &row["artifacts_count"]), expected);
    assert_eq!(row["snapshot_ids"].as_array().unwrap().len(), 2, "it was kept before it was stopped");

    let fork = yard.post(&format!("{path}fork/"), json!({})).await;
    let fork = fork.has_status(201)["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(yard.machines.read(fork, "/workspace/a").as_deref(), Some("precious"), "it came back, and was copied");
    for _ in 0..2 {
        yard.house.call(Who::Maintainer, "DELETE", &path, None).await.has_status(204);
    }
    yard.get(&path).await.is(404, json!({"detail": UNKNOWN}));
    yard.post(&format!("{path}shell/"), json!({"command": "true"})).await.is(404, json!({"detail": UNKNOWN}));
}

#[tokio::test]
async fn a_snapshot_is_brought_back_when_it_is_asked_for_and_not_in_passing() {
    let yard = Yard::new().await;
    let path = yard.make(json!({})).await;
    let id = path.trim_start_matches(PATH).trim_end_matches('/').to_owned();
    let write = |text: &str| yard.machines.write(id.parse().unwrap(), "/workspace/a", text);
    let read = || yard.machines.read(id.parse().unwrap(), "/workspace/a").unwrap();
    write("old");
    let snapshot = yard.post(&format!("{path}snapshots/"), json!({})).await.body["id"].clone();
    write("new");
    // Clients of the contract do this before each call once they think that the sandbox has expired.
    let again = json!({"id": id, "restore_snapshot_id": snapshot});
    yard.post(PATH, again.clone()).await.has_status(200);
    assert_eq!(read(), "new", "nothing is rolled back behind the user's back");
    let diff = yard.get(&format!("{path}snapshots/{}/diff/", snapshot.as_str().unwrap())).await;
    assert_eq!(diff.has_status(200)["changes"][0]["path"], "/workspace/a");
    yard.post(&format!("{path}restore/"), json!({"snapshot_id": snapshot})).await.has_status(204);
    assert_eq!(read(), "old");
    write("newest");
    yard.post(&format!("{path}snapshots/"), json!({})).await.has_status(201);
    yard.post(PATH, again).await.has_status(200);
    assert_eq!(read(), "old", "another snapshot than the latest is what somebody wants");
    let unknown = json!({"snapshot_id": "0d5d5f0a-2f0e-4c55-9b43-5b6b6f7f2a10"});
    yard.post(&format!("{path}restore/"), unknown).await.is(404, json!({"detail": "Snapshot not found"}));
}

#[tokio::test]
async fn files_that_cannot_come_back_are_told() {
    let yard = Yard::new().await;
    let path = yard.make(json!({})).await;
    let id = path.trim_start_matches(PATH).trim_end_matches('/').to_owned();
    yard.machines.kill(id.parse().unwrap(), false);
    let lost = yard.post(&format!("{path}shell/"), json!({"command": "true"})).await;
    assert_eq!(lost.has_status(400)["code"], "restore_failed");
    let detail = lost.body["detail"].as_str().unwrap();
    assert!(detail.starts_with("Sandbox was not ready and auto-restore failed: the files of sandbox"), "{detail}");
}

#[tokio::test]
async fn strangers_and_observers_are_kept_out() {
    let yard = Yard::new().await;
    let path = yard.make(json!({})).await;
    let document = serde_json::to_value(astraforge_http::server::openapi()).unwrap();
    let mut n_tried = 0;
    for (route, item) in document["paths"].as_object().unwrap() {
        let Some(rest) = route.strip_prefix("/api/sandbox/sessions/{id}/") else { continue };
        let id = "0d5d5f0a-2f0e-4c55-9b43-5b6b6f7f2a10";
        let rest = rest.replace("{name}", "x").replace("{snapshot}", id).replace("{execution}", id);
        for method in item.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            let path = format!("{path}{rest}?path=a&pattern=a&replace=a&include=a");
            let body = json!({"path": "a", "content": "", "command": "true", "old": "a", "new": "b", "from": "a", "to": "b",
                "snapshot_id": "0d5d5f0a-2f0e-4c55-9b43-5b6b6f7f2a10", "action": "scroll", "notches": 1, "text": "a",
                "signal": "kill", "rows": 1, "columns": 1, "egress": "off", "include": ["a"]});
            let call = async |who| yard.house.call(who, &method, &path, Some(body.clone())).await;
            let stranger = call(Who::Stranger).await;
            // What a heartbeat or a snapshot is refused for is the sandbox, and nothing tells that it is there.
            assert_eq!(stranger.status, 404, "{method} {route}: {}", stranger.text);
            assert_eq!(call(Who::Nobody).await.status, 401, "{method} {route}");
            let looks = method == "GET"
                && matches!(rest.as_str(), "" | "artifacts/" | "snapshots/" | "usage/" | "egress/" | "stream/view/");
            if !looks {
                let observer = call(Who::Observer).await;
                assert_eq!(observer.status, 403, "{method} {route}: {}", observer.text);
            }
            n_tried += 1;
        }
    }
    assert!(n_tried > 30, "{n_tried}");
    yard.get(&path).await.has_status(200);
    yard.get(&format!("{PATH}not-an-id/")).await.is(404, json!({"detail": "Not found."}));
    assert_eq!(yard.house.get(Who::Stranger, PATH).await.has_status(200), &json!([]));
}

#[tokio::test]
async fn what_is_not_said_right_is_told() {
    let yard = Yard::new().await;
    let path = yard.make(json!({})).await;
    let check = async |rest: &str, body: Value, answer: Value| {
        yard.post(&format!("{path}{rest}"), body).await.is(400, answer);
    };
    check("exec/", json!({}), json!({"command": ["This field is required."]})).await;
    check("exec/", json!({"command": 7}), json!({"command": ["Must be a string or list of strings"]})).await;
    check("exec/", json!({"command": []}), json!({"command": ["This list may not be empty."]})).await;
    check("exec/", json!({"command": "a\u{0}"}), json!({"command": ["Null characters are not allowed."]})).await;
    let timeout = json!({"command": "x", "timeout_sec": 0});
    check("exec/", timeout, json!({"timeout_sec": ["Ensure this value is greater than or equal to 1."]})).await;
    let upload = json!({"path": "a", "content": "!!!", "encoding": "base64"});
    check("upload/", upload, json!({"content": ["Invalid base64 content"]})).await;
    check("files/upload/", json!({"path": "a"}), json!({"detail": "path is required"})).await;
    check(
        "files/upload/?path=a&mode=9",
        json!({}),
        json!({"mode": ["Write permission bits in octal, such as 644 or 755."]}),
    )
    .await;
    let keyboard = json!({"non_field_errors": ["Say what to type as `text`, or what to press as `keys`."]});
    check("input/keyboard/", json!({}), keyboard).await;
    check("input/mouse/", json!({"action": "jump"}), json!({"action": ["\"jump\" is not a valid choice."]})).await;
    yard.get(&format!("{path}files/content/")).await.is(400, json!({"detail": "path is required"}));
    yard.get(&format!("{path}files/glob/")).await.has_status(400);
    let name = yard.get(&format!("{path}processes/a%20b/")).await;
    assert!(name.has_status(404)["detail"].as_str().unwrap().contains("is not a tag"));
    let view = yard.get(&format!("{path}stream/view/")).await;
    assert_eq!(view.has_status(501)["code"], "not_supported");
}

#[tokio::test]
async fn limits_are_what_was_asked_for() {
    let yard = Yard::new().await;
    let body = json!({"processes": 64, "files_on": "memory", "ephemeral_storage": "16Mi", "enforced": true});
    let path = yard.make(body).await;
    let view = yard.get(&path).await.body;
    let expected = (&json!(64), &json!("memory"), &json!(true), &json!("16Mi"));
    assert_eq!((&view["processes"], &view["files_on"], &view["enforced"], &view["ephemeral_storage"]), expected);
    yard.post(PATH, json!({"processes": 0, "files_on": "tape"})).await.is(
        400,
        json!({"processes": ["A number from 1 on is required."], "files_on": ["\"tape\" is not a valid choice."]}),
    );
}

#[tokio::test]
async fn a_file_that_was_taken_out_is_read_and_linked_to_by_its_tenant_only() {
    let yard = Yard::new().await;
    let path = yard.make(json!({})).await;
    let id = path.trim_start_matches(PATH).trim_end_matches('/').to_owned();
    yard.machines.write(id.parse().unwrap(), "/workspace/a", "precious");
    let artifact = yard.post(&format!("{path}files/export/"), json!({"path": "a"})).await;
    let artifact = format!("/api/sandbox/artifacts/{}", artifact.has_status(201)["id"].as_str().unwrap());
    let content = format!("{artifact}/content/");
    let read = yard.house.get(Who::Observer, &content).await;
    assert_eq!((read.status.as_u16(), read.text.as_str()), (200, "precious"));
    assert_eq!(read.header("content-disposition").split(';').next(), Some("attachment"));
    yard.house.get(Who::Stranger, &content).await.is(404, json!({"detail": "Artifact not found"}));
    assert_eq!(yard.house.get(Who::Nobody, &content).await.status, 401);
    let link = yard.house.post(Who::Observer, &format!("{artifact}/link/"), json!({"expires_sec": 60})).await;
    assert_eq!(link.has_status(201)["expires_at"], "2026-03-01T12:01:00.000000Z");
    let url = link.body["url"].as_str().unwrap().strip_prefix("https://forge.test").unwrap();
    assert_eq!(yard.house.get(Who::Nobody, url).await.text, "precious");
    let link = yard.house.post(Who::Observer, &format!("{artifact}/link/"), json!({"expires_sec": 604_801})).await;
    assert!(link.has_status(400)["expires"][0].as_str().unwrap().contains("1 to 604800 seconds"), "{}", link.text);
    yard.house.post(Who::Stranger, &format!("{artifact}/link/"), json!({})).await.has_status(404);
}

#[tokio::test]
async fn what_a_sandbox_tried_to_reach_is_told_from_the_log() {
    use astraforge_core::egress::{EgressEvent, EgressOutcome};
    let yard = Yard::new().await;
    let path = yard.make(json!({})).await;
    let egress = format!("{path}egress/");
    yard.get(&egress).await.is(200, json!({"egress": "public", "events": []}));
    let house = House::with(|state| {
        state.with_sandboxes(yard.plane.clone()).with_egress_log(|_, n| {
            let outcome = EgressOutcome::Refused { reason: "no rule".to_owned() };
            let event = |port| EgressEvent {
                at: chrono::DateTime::UNIX_EPOCH,
                host: "x".to_owned(),
                port,
                outcome: outcome.clone(),
            };
            Ok((1..=u16::try_from(n).unwrap()).map(event).collect())
        })
    })
    .await;
    let told = async |query: &str| {
        let answer = house.get(Who::Observer, &format!("{egress}{query}")).await;
        answer.has_status(200)["events"].as_array().unwrap().len()
    };
    assert_eq!((told("").await, told("?last=3").await, told("?last=5000").await), (20, 3, 1000));
    assert_eq!(house.get(Who::Observer, &egress).await.body["events"][0]["outcome"]["outcome"], "refused");
}

#[tokio::test]
async fn archives_come_and_go_within_the_folders_of_callers() {
    let yard = Yard::new().await;
    let path = yard.make(json!({})).await;
    let id: astraforge_core::id::SandboxId = path.trim_start_matches(PATH).trim_end_matches('/').parse().unwrap();
    yard.machines.write(id, "/workspace/a", "old");
    let archive = yard.post(&format!("{path}archives/pack/"), json!({"include": ["/workspace"]})).await;
    assert_eq!((archive.status.as_u16(), archive.header("content-type")), (200, "application/octet-stream"));
    yard.machines.write(id, "/workspace/a", "new");
    let files: Value = serde_json::from_str(&archive.text).unwrap();
    let compared = yard.post(&format!("{path}archives/compare/?include=/workspace"), files.clone()).await;
    assert_eq!(compared.has_status(200)["changes"][0]["change"], "modified");
    yard.post(&format!("{path}archives/unpack/?replace=/workspace"), files.clone()).await.has_status(200);
    assert_eq!(yard.machines.read(id, "/workspace/a").as_deref(), Some("old"));
    let outside = yard.post(&format!("{path}archives/unpack/?replace=/workspace&replace=/etc"), files.clone()).await;
    assert_eq!(outside.has_status(400)["code"], "outside_roots");
    let nowhere = yard.post(&format!("{path}archives/unpack/"), files.clone()).await;
    nowhere.is(400, json!({"replace": ["Name a folder whose content is replaced."]}));
    let odd = yard.post(&format!("{path}archives/unpack/?replace=a&compression=rar"), files.clone()).await;
    odd.is(400, json!({"compression": ["Write zstd, gzip or none."]}));
    let odd = yard.post(&format!("{path}archives/unpack/?replace=a&max_bytes=many"), files.clone()).await;
    odd.is(400, json!({"max_bytes": ["A valid integer is required."]}));
    let no_archive = yard.post(&format!("{path}restore/archive/"), files).await;
    assert!(no_archive.has_status(400)["archive"][0].as_str().unwrap().contains("no archive"), "{}", no_archive.text);
}

#[tokio::test]
async fn a_command_that_ended_with_its_caller_is_told_so() {
    let yard = Yard::new().await;
    let path = yard.make(json!({})).await;
    let tagged = yard.post(&format!("{path}executions/"), json!({"command": "true", "tag": "x"})).await;
    assert!(tagged.has_status(400)["tag"][0].as_str().unwrap().contains("start it as a process"));
    let gone = format!("{path}executions/0d5d5f0a-2f0e-4c55-9b43-5b6b6f7f2a10/");
    assert_eq!(yard.get(&format!("{gone}output/")).await.has_status(404)["code"], "no_such_execution");
    let ended = yard.house.call(Who::Maintainer, "DELETE", &gone, None).await;
    assert_eq!(ended.has_status(404)["code"], "no_such_execution");
}

#[tokio::test]
async fn a_server_without_sandboxes_says_so() {
    let house = House::new().await;
    let detail = json!({"detail": "Sandboxes cannot be used on this server; its log says why."});
    house.get(Who::Admin, PATH).await.is(503, detail.clone());
    house.post(Who::Admin, PATH, json!({})).await.is(503, detail);
    let talk = house.post(Who::Admin, "/api/deepagent/conversations", json!({})).await;
    assert_eq!(talk.has_status(501)["code"], "not_supported");
    house.get(Who::Admin, "/api/deepagent/conversations/").await.has_status(405);
}

#[tokio::test]
async fn the_time_of_ordinary_calls_does_not_bound_those_of_sandboxes() {
    let yard = Yard::new().await;
    let house = House::with(|state| state.with_sandboxes(yard.plane.clone()).with_timeout(Duration::ZERO)).await;
    // Making a machine takes more than no time at all.
    house.post(Who::Maintainer, PATH, json!({})).await.has_status(201);
}
