//! `jobs` and `migrate`, on a database that a server left.

use std::{
    path::Path,
    process::{Command, Output},
};

use astraforge_adapters::{secret_box::SecretKey, sqlite::SqliteStore};
use astraforge_core::{
    event::EventKind,
    id::{ChangeSetId, RepositoryLinkId, RequestId, TenantId, UserId},
    job::{Job, JobKind, Limits},
    ports::store::{Changes, Expected, FailedJob, RequestChange, Store as _},
    request::{Request, RequestState},
};
use chrono::Utc;
use serde_json::Value;
use tempfile::TempDir;

fn astraforge(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_astraforge"));
    command.env_clear().arg("--data").arg(data).args(arguments).output().unwrap()
}

#[track_caller]
fn works(data: &Path, arguments: &[&str]) -> String {
    let output = astraforge(data, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn fails(data: &Path, arguments: &[&str], words: &str) {
    let output = astraforge(data, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains(words), "{arguments:?}: {error}");
}

async fn store(data: &Path) -> SqliteStore {
    let key = SecretKey::load_or_create(data.join("secret.key")).unwrap();
    SqliteStore::open(data.join("astraforge.db"), key).await.unwrap()
}

/// A data folder whose database holds a dead publication, and another one that waits.
async fn folder() -> (TempDir, RequestId, [Job; 2]) {
    let data = tempfile::tempdir().unwrap();
    let store = store(data.path()).await;
    let now = Utc::now();
    let request = |id| Request {
        id,
        tenant: TenantId::new("acme"),
        requester: UserId::new("ada"),
        source: "direct_user".to_owned(),
        sender: String::new(),
        title: "x".to_owned(),
        prompt: "x".parse().unwrap(),
        repository: RepositoryLinkId::random(),
        state: RequestState::PatchReady,
        plan: None,
        version: 1,
        created_at: now,
        updated_at: now,
    };
    let mut jobs = Vec::new();
    for id in [RequestId::random(), RequestId::random()] {
        let request = request(id);
        let kind = JobKind::OpenMergeRequest { change_set: ChangeSetId::random() };
        let job = Job::new(request.tenant.clone(), id, kind, now);
        let change = RequestChange { request, expected: Expected::Absent };
        let changes = Changes { request: Some(change), new_jobs: vec![job.clone()], ..Changes::default() };
        store.commit(changes).await.unwrap();
        if jobs.is_empty() {
            store.claim_job(now, now, Limits::NONE).await.unwrap().unwrap();
            let error = "the host is \u{1b}[31maway".to_owned();
            let failed = FailedJob { id: job.id, error, not_before: None };
            store.commit(Changes { failed_jobs: vec![failed], ..Changes::default() }).await.unwrap();
        }
        jobs.push(job);
    }
    store.close().await;
    let [dead, waiting] = <[Job; 2]>::try_from(jobs).unwrap();
    (data, dead.request, [dead, waiting])
}

#[tokio::test]
async fn jobs_are_listed_as_a_table_and_as_json() {
    let (data, request, [dead, waiting]) = folder().await;
    let table = works(data.path(), &["jobs", "ls"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with(&dead.id.to_string()) && lines[0].contains("dead"), "{table}");
    assert!(lines[1].starts_with(&waiting.id.to_string()) && lines[1].contains("waiting"), "{table}");
    assert!(table.contains("away") && !table.contains('\u{1b}'), "an error cannot steer the terminal: {table}");

    let listed: Value =
        serde_json::from_str(&works(data.path(), &["jobs", "ls", "--state", "dead", "--json"])).unwrap();
    let only = &listed.as_array().unwrap()[0];
    assert_eq!(only["request_id"], request.to_string());
    assert_eq!((&only["kind"], &only["failures"], &only["state"]), (&"publish".into(), &1.into(), &"dead".into()));
    assert_eq!(listed.as_array().unwrap().len(), 1);
    fails(data.path(), &["jobs", "ls", "--state", "gone"], "expected waiting, running or dead");
}

#[tokio::test]
async fn a_dead_job_is_tried_again_or_dropped_and_its_request_is_told() {
    let (data, request, [dead, waiting]) = folder().await;
    let (dead, waiting) = (dead.id.to_string(), waiting.id.to_string());
    fails(data.path(), &["jobs", "drop", &waiting], "only dead ones are dropped");
    assert!(works(data.path(), &["jobs", "retry", &dead]).contains("is tried again"));
    assert!(works(data.path(), &["jobs", "ls", "--state", "dead"]).contains("No jobs"));

    let store = store(data.path()).await;
    let job = store.job(dead.parse().unwrap()).await.unwrap().unwrap().job;
    assert_eq!((job.attempts, job.failures), (1, 0));
    let now = Utc::now();
    while store.claim_job(now, now, Limits::NONE).await.unwrap().is_some() {}
    let failed = FailedJob { id: job.id, error: "still away".to_owned(), not_before: None };
    store.commit(Changes { failed_jobs: vec![failed], ..Changes::default() }).await.unwrap();
    fails(data.path(), &["jobs", "retry", &waiting], "is running");
    works(data.path(), &["jobs", "drop", &dead]);
    fails(data.path(), &["jobs", "drop", &dead], "not found");
    let events: Vec<EventKind> =
        store.events(request, 0, 10).await.unwrap().into_iter().map(|event| event.kind).collect();
    let [EventKind::Status { stage, .. }, EventKind::Error { message, .. }] = &events[..] else { panic!("{events:?}") };
    assert!(stage == "queue" && message.contains("dropped") && message.contains("still away"), "{events:?}");
    let audit = works(data.path(), &["audit", "export", "--tenant", "acme"]);
    let entries: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = entries.iter().map(|entry| [&entry["action"], &entry["subject"]]).collect();
    assert_eq!(told, [["job.retry", &dead], ["job.drop", &dead]], "what was refused is not there");
}

#[tokio::test]
async fn rubbish_is_refused_in_words() {
    let (data, _, [dead, _]) = folder().await;
    fails(data.path(), &["jobs", "retry", "rubbish"], "`astraforge jobs ls` lists the ids");
    fails(data.path(), &["jobs", "retry"], "JOB");
    let unknown = RequestId::random().to_string();
    let output = astraforge(data.path(), &["jobs", "retry", &unknown, &dead.id.to_string(), "--json"]);
    assert!(!output.status.success(), "one of them is unknown");
    let changed: Vec<String> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(changed, [dead.id.to_string()], "the other one is tried again all the same");
    fails(data.path(), &["--server", "http://127.0.0.1:1", "jobs", "ls"], "run it where the server runs");
}

#[test]
fn a_migration_is_told_and_the_second_has_nothing_to_do() {
    let data = tempfile::tempdir().unwrap();
    assert!(works(data.path(), &["migrate"]).starts_with("made the database"));
    assert!(works(data.path(), &["migrate"]).starts_with("nothing to do"));
    let told: Value = serde_json::from_str(&works(data.path(), &["migrate", "--json"])).unwrap();
    assert_eq!(told["from"], told["to"]);
    std::fs::write(data.path().join("astraforge.db"), "rubbish").unwrap();
    fails(data.path(), &["migrate"], "is not a database");
}
