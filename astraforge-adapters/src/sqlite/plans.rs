//! How SQLite carries out the statements that the store really runs: over indexes, whatever the tables hold.

use std::{collections::BTreeSet, num::NonZeroU32, time::Instant};

use astraforge_core::{
    access::Role,
    account::{Account, Login},
    audit::chain::AuditKey,
    id::{
        ApiKeyId, ArtifactId, AttemptId, JobId, MergeRequestId, NodeId, RepositoryLinkId, RequestId, RunId, SandboxId,
        SnapshotId, UserId,
    },
    idempotency::{Attempt, Begun, CallName, Fingerprint, Outcome},
    identity::Subject,
    job::{JobState, Limits},
    node::Node,
    page::Page,
    ports::{
        account_store::AccountStore as _,
        audit_log::AuditLog as _,
        call_store::CallStore as _,
        sandbox_store::SandboxStore as _,
        store::{Changes, EndedJob, FailedJob, Store as _},
    },
    request::{Request, RequestState},
    run::{Run, RunStatus, Usage},
    testing::{
        audit_log_conformance,
        samples::{self, at},
    },
};
use sqlx::Row as _;

use super::SqliteStore;
use crate::{secret_box::SecretKey, sql::statement::seen};

/// What may be read from end to end or sorted, and why: a part of the statement, a part of the plan's line.
const ALLOWED: &[(&str, &str)] = &[
    // The whole table is the answer.
    ("SELECT * FROM nodes", "SCAN nodes"),
    ("DELETE FROM nodes", "SCAN nodes"),
    ("count(*) AS n FROM api_keys", "SCAN api_keys"),
    // One narrow row a log, once an hour in the whole installation.
    ("AS size FROM log_sizes", "SCAN log_sizes"),
    // In the order of the index, of logs that are not archived yet, up to the limit.
    ("FROM requests WHERE has_events", "SCAN requests USING INDEX requests_with_events"),
    // What a statement brings along, a row of its own, and the tenants with waiting jobs, are small and no table.
    ("json_each($1)", "SCAN json_each"),
    ("SELECT coalesce((SELECT max(seq)", "SCAN CONSTANT ROW"),
    ("WITH RECURSIVE tenants", "SCAN tenants"),
    ("WITH RECURSIVE tenants", "SCAN firsts"),
    ("WITH RECURSIVE tenants", "SCAN CONSTANT ROW"),
    ("WITH RECURSIVE tenants", "USE TEMP B-TREE FOR ORDER BY"),
    // Jobs at work are as many as there are workers, and live sandboxes as many as the machines bear.
    ("state = 'running' ORDER BY created_at", "USE TEMP B-TREE FOR ORDER BY"),
    ("state = 'running' ORDER BY created_at", "SCAN jobs USING INDEX jobs_"),
    ("jobs AS working", "SCAN working USING COVERING INDEX jobs_"),
    ("lease_until, 0) < $1", "SCAN jobs USING COVERING INDEX jobs_leases"),
    ("status IN ('starting', 'ready')", "USE TEMP B-TREE FOR ORDER BY"),
    // As many logs as are asked for, and those at work.
    ("AS recent ORDER BY", "SCAN changed"),
    ("AS recent ORDER BY", "SCAN recent"),
    ("AS recent ORDER BY", "SCAN jobs USING COVERING INDEX jobs_running"),
    ("AS recent ORDER BY", "USE TEMP B-TREE FOR ORDER BY"),
    // One row a tenant.
    ("WITH RECURSIVE audited", "SCAN audited"),
    ("WITH RECURSIVE audited", "SCAN audit_heads"),
    ("WITH RECURSIVE audited", "SCAN CONSTANT ROW"),
    ("WITH RECURSIVE audited", "TEMP B-TREE"),
    // In the order of the index, up to the limit.
    ("ORDER BY created_at, position LIMIT $1", "SCAN jobs USING INDEX jobs_"),
];

/// Calls everything that the store can do once, so that its statements are seen.
async fn use_everything(store: &SqliteStore) {
    let request = samples::request();
    let run = samples::run(&request);
    let (job, other) = (samples::execute(&run), samples::execute(&run));
    let change_set = samples::change_set(&run);
    let changes = Changes {
        messages: vec![samples::message(request.id)],
        attachments: vec![samples::attachment(request.id)],
        runs: vec![run.clone()],
        approval: Some(samples::approval(&change_set)),
        merge_request: Some(samples::merge_request(&change_set)),
        change_set: Some(change_set.clone()),
        new_jobs: vec![job.clone(), other.clone()],
        events: vec![samples::log(request.id, "x")],
        ..samples::submitted(&request)
    };
    store.commit(changes).await.unwrap();
    let claimed = store
        .claim_job(at(9), at(20), Limits { per_tenant: NonZeroU32::new(3), in_all: NonZeroU32::new(9) })
        .await
        .unwrap()
        .unwrap();
    store.renew_lease(claimed.claim(), at(21)).await.unwrap();
    let taken = store.take_over_job(at(50), at(90)).await.unwrap().unwrap();
    let failed = FailedJob { id: job.id, error: "x".to_owned(), not_before: None };
    let changes = Changes {
        claim: Some(taken.claim()),
        request: Some(astraforge_core::ports::store::RequestChange {
            request: request.clone(),
            expected: astraforge_core::ports::store::Expected::Version(1),
        }),
        failed_jobs: vec![failed],
        ended_jobs: vec![EndedJob { id: other.id, error: None }],
        ..Changes::default()
    };
    store.commit(changes).await.unwrap();
    store.commit(Changes { revived_jobs: vec![job.id], ..Changes::default() }).await.unwrap();

    let tenant = samples::tenant();
    store.request(&tenant, request.id).await.unwrap();
    store.requests(&tenant).await.unwrap();
    for state in [None, Some(RequestState::Reviewed)] {
        store.requests_page(&tenant, state, Page::first(9)).await.unwrap();
    }
    store.messages(request.id).await.unwrap();
    store.attachments(request.id).await.unwrap();
    store.run(&tenant, run.id).await.unwrap();
    store.runs_of(request.id).await.unwrap();
    store.runs(&tenant).await.unwrap();
    for of in [None, Some(request.id)] {
        store.runs_page(&tenant, of, Page::first(9)).await.unwrap();
        store.merge_requests_page(&tenant, of, Page::first(9)).await.unwrap();
    }
    store.cancel_requested(run.id).await.unwrap();
    store.add_usage(run.id, Usage::default()).await.unwrap();
    store.change_set(change_set.id).await.unwrap();
    store.latest_change_set(request.id).await.unwrap();
    store.approvals(request.id).await.unwrap();
    store.merge_request(&tenant, MergeRequestId::random()).await.unwrap();
    store.merge_request_of(request.id).await.unwrap();
    store.merge_requests(&tenant).await.unwrap();
    store.events(request.id, 0, 10).await.unwrap();
    store.events_of_run(run.id).await.unwrap();
    store.log_states(&[request.id]).await.unwrap();
    store.last_event(request.id).await.unwrap();
    store.recent_logs(at(0), 1000).await.unwrap();
    store.logs_size().await.unwrap();
    let resting = Request { state: RequestState::Reviewed, ..samples::request() };
    let over = Run { status: RunStatus::Completed, ..samples::run(&resting) };
    let events = vec![samples::log(resting.id, "x")];
    store.commit(Changes { runs: vec![over], events, ..samples::submitted(&resting) }).await.unwrap();
    store.resting_logs(100).await.unwrap();
    assert!(store.archive(&samples::archive(resting.id, 1, 1)).await.unwrap());
    store.archives(resting.id).await.unwrap();
    store.running_jobs().await.unwrap();
    store.waiting_jobs(request.id).await.unwrap();
    store.dead_jobs(request.id).await.unwrap();
    store.job(JobId::random()).await.unwrap();
    for state in JobState::ALL {
        store.jobs(state, 10).await.unwrap();
    }
    let turn = store.take_turn("sweep", at(9), at(20)).await.unwrap().unwrap();
    store.renew_turn(&turn, at(30)).await.unwrap();
    store.end_turn(&turn, at(40)).await.unwrap();
    store.add_link(samples::link()).await.unwrap();
    store.link(&tenant, RepositoryLinkId::random()).await.unwrap();
    store.links(&tenant).await.unwrap();
    store.links_page(&tenant, Page::first(9)).await.unwrap();
    store.update_link(samples::link()).await.unwrap();
    store.remove_link(&tenant, RepositoryLinkId::random()).await.unwrap();
    let key = samples::api_key();
    store.add_api_key(key.clone()).await.unwrap();
    store.api_key_by_hash("x").await.unwrap();
    store.api_keys(&tenant).await.unwrap();
    store.api_keys_page(&tenant, Page::first(9)).await.unwrap();
    store.count_api_keys().await.unwrap();
    store.touch_api_key(key.id, at(600)).await.unwrap();
    store.revoke_api_key(&tenant, ApiKeyId::random()).await.unwrap();

    let sandbox = samples::sandbox();
    store.add_sandbox(&sandbox).await.unwrap();
    store.sandbox(sandbox.id).await.unwrap();
    store.sandboxes(&tenant).await.unwrap();
    store.sandboxes_page(&tenant, Page::first(9)).await.unwrap();
    store.live_sandboxes().await.unwrap();
    store.update_sandbox(&sandbox).await.unwrap();
    store.note_activity(sandbox.id, at(9)).await.unwrap();
    store.note_heartbeat(sandbox.id, at(9)).await.unwrap();
    store.snapshot(&tenant, SnapshotId::random()).await.unwrap();
    store.snapshots(sandbox.id).await.unwrap();
    store.snapshots_page(sandbox.id, Page::first(9)).await.unwrap();
    store.remove_snapshot(SnapshotId::random()).await.unwrap();
    store.artifact(&tenant, ArtifactId::random()).await.unwrap();
    store.artifacts(SandboxId::random()).await.unwrap();
    store.artifacts_page(SandboxId::random(), Page::first(9)).await.unwrap();
    store.kept(&[SandboxId::random()]).await.unwrap();
    let account = Account {
        user: UserId::new("mira"),
        tenant: samples::tenant(),
        email: String::new(),
        password_hash: String::new(),
        role: Role::Admin,
        is_active: true,
        created_at: at(1),
    };
    store.add_account(&account).await.unwrap();
    store.account(&account.user).await.unwrap();
    let subject = Subject { issuer: "https://provider.example".to_owned(), id: "1".to_owned() };
    store.account_of(&subject).await.unwrap();
    store.refresh_account(&account.user, "", Role::Admin).await.unwrap();
    store.add_account_of(&subject, &Account { user: UserId::new("ada"), ..account.clone() }).await.unwrap();
    store.add_account_of(&subject, &Account { user: UserId::new("zoe"), ..account.clone() }).await.unwrap();
    store.accounts(&account.tenant).await.unwrap();
    store.change_account(&account).await.unwrap();
    let login = Login { hash: "x".to_owned(), user: account.user.clone(), created_at: at(1), expires_at: at(2) };
    store.add_login(&login, &account).await.unwrap();
    store.logged_in("x", at(1)).await.unwrap();
    store.remove_login("x").await.unwrap();
    use_calls(store).await;
    let node = Node { id: NodeId::random(), url: None, seen_at: at(1), has_stopped: false };
    store.note_node(&node).await.unwrap();
    store.nodes().await.unwrap();
    let key = AuditKey::new([7; 32]);
    store.add_entry(&key, &audit_log_conformance::entry("x"), at(1)).await.unwrap();
    store.entries_after(&tenant, 0, 10).await.unwrap();
    store.entries_before(&tenant, 9, 10).await.unwrap();
    store.audit_head(&tenant).await.unwrap();
    store.audited_tenants().await.unwrap();
    store.forget_nodes(at(1)).await.unwrap();
}

async fn use_calls(store: &SqliteStore) {
    let call = CallName { caller: samples::caller("ada", Role::Admin), key: "k".parse().unwrap() };
    let print = Fingerprint::of("POST", "/", b"");
    for seconds in [1, 50] {
        let begun = store.begin_call(&call, print, at(seconds), at(seconds + 9)).await.unwrap();
        let Begun::Attempt(attempt) = begun else { panic!("{begun:?}") };
        store.renew_attempt(&attempt, at(seconds + 20)).await.unwrap();
        store.end_call(&Attempt { id: AttemptId::random(), ..attempt }, &Outcome::TooLong, at(9)).await.unwrap();
    }
    let begun = store.begin_call(&call, print, at(90), at(99)).await.unwrap();
    let Begun::Attempt(attempt) = begun else { panic!("{begun:?}") };
    store.give_up_attempt(&attempt).await.unwrap();
    store.forget_calls(at(99), 10).await.unwrap();
}

async fn fresh() -> (tempfile::TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("db"), SecretKey::random().unwrap()).await.unwrap();
    (folder, store)
}

/// The lines of plans that read a table from end to end, or sort, and are not allowed.
async fn dear(store: &SqliteStore, statements: &BTreeSet<&'static str>) -> Vec<String> {
    let mut dear = Vec::new();
    for statement in statements {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        for row in sqlx::query(explain).fetch_all(&store.readers).await.unwrap() {
            let line: String = row.get("detail");
            let is_dear = line.starts_with("SCAN") || line.contains("TEMP B-TREE");
            let is_allowed = ALLOWED.iter().any(|(of, part)| statement.contains(of) && line.contains(part));
            if is_dear && !is_allowed {
                dear.push(format!("{line}: {statement}"));
            }
        }
    }
    dear
}

#[tokio::test]
async fn every_statement_finds_its_rows_in_an_index() {
    let (_folder, store) = fresh().await;
    use_everything(&store).await;
    let statements: BTreeSet<&'static str> =
        seen::all().into_iter().filter(|text| !text.starts_with("PRAGMA")).collect();
    assert!(statements.len() > 55, "only {} statements were seen", statements.len());
    let dear = dear(&store, &statements).await;
    assert!(dear.is_empty(), "{}", dear.join("\n"));
}

#[tokio::test]
async fn a_page_begins_in_the_index_where_the_last_one_ended() {
    let (_folder, store) = fresh().await;
    use_everything(&store).await;
    let is_page = |text: &str| text.contains("(created_at, position) ") || text.contains("WHERE sandbox = $3");
    let pages: Vec<&'static str> = seen::all().into_iter().filter(|text| is_page(text)).collect();
    assert_eq!(pages.len(), 11, "{pages:?}");
    for statement in pages {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let plan = sqlx::query(explain).fetch_all(&store.readers).await.unwrap();
        let line: String = plan[0].get("detail");
        // It begins at the time; of rows of that very time those of earlier pages are read once more.
        let begins = ["=? AND created_at<?)", "=? AND created_at>?)", "(sandbox=? AND position<?)"];
        assert!(begins.iter().any(|part| line.contains(part)), "{line}: {statement}");
    }
}

#[tokio::test]
async fn a_statement_without_an_index_is_found() {
    let (_folder, store) = fresh().await;
    let bad =
        BTreeSet::from(["SELECT * FROM events WHERE kind = $1", "SELECT * FROM runs WHERE id > $1 ORDER BY prompt"]);
    assert_eq!(dear(&store, &bad).await.len(), 2);
}

/// A million events of a thousand requests, and as many jobs that are over.
#[tokio::test]
#[ignore = "takes a minute where SQLite is built without optimisation"]
async fn soak_a_million_events_make_nothing_slow() {
    let (_folder, store) = fresh().await;
    let many = "INSERT INTO requests (id, tenant, requester, source, sender, title, prompt, repository, state, version, \
                created_at, updated_at) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) \
                SELECT printf('00000000-0000-0000-0000-%012d', i), 'big', 'ada', 'x', '', 'x', 'x', \
                '00000000-0000-0000-0000-000000000000', 'REVIEWED', 1, i, i FROM n; \
                INSERT INTO events (request, seq, run, kind, created_at) \
                WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999999) \
                SELECT printf('00000000-0000-0000-0000-%012d', i / 1000 + 1), i % 1000 + 1, \
                printf('00000000-0000-0000-0001-%012d', i / 1000 + 1), '{\"type\":\"log\",\"message\":\"x\"}', i FROM n; \
                INSERT INTO log_sizes (request, n_bytes) \
                SELECT request, sum(octet_length(kind)) FROM events GROUP BY request; \
                UPDATE requests SET has_events = 1; \
                INSERT INTO jobs (id, tenant, request, kind, attempts, state, created_at) \
                WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999999) \
                SELECT printf('00000000-0000-0000-0002-%012d', i), 'big', \
                printf('00000000-0000-0000-0000-%012d', i / 1000 + 1), '{}', 1, 'ended', i FROM n";
    sqlx::raw_sql(many).execute(&store.writer).await.unwrap();
    let begun = Instant::now();
    use_everything(&store).await;
    let request: RequestId = "00000000-0000-0000-0000-000000000500".parse().unwrap();
    let run: RunId = "00000000-0000-0000-0001-000000000500".parse().unwrap();
    assert_eq!(store.events(request, 990, 100).await.unwrap().len(), 10);
    assert_eq!(store.append(vec![samples::log(request, "one more")]).await.unwrap(), 1001);
    assert_eq!(store.events_of_run(run).await.unwrap().len(), 1000);
    let took = begun.elapsed();
    // One scan of a million rows takes longer than all of these calls.
    assert!(took.as_millis() < 2000, "every call once took {took:?}");
}
