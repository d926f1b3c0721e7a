//! How PostgreSQL carries out what the store asks, beside a million events: over indexes.
//!
//! The server counts the scans of whole tables itself, so this is about the statements that really ran.

use std::{collections::BTreeMap, num::NonZeroU32};

use astraforge_adapters::secret_box::SecretKey;
use astraforge_core::{
    id::{JobId, MergeRequestId, RequestId, RunId, TenantId},
    job::{JobState, Limits},
    page::Page,
    ports::store::{Changes, EndedJob, FailedJob, Store},
    request::{Request, RequestState},
    run::{Run, RunStatus, Usage},
    testing::samples::{self, at},
};
use sqlx::{Connection as _, Executor as _, Row as _};

use crate::{Database, until};

/// A thousand requests with a thousand events each; of runs and jobs that are over, twenty of each.
const MANY: &str = "INSERT INTO requests (id, tenant, requester, source, sender, title, prompt, repository, state, version, \
    created_at, updated_at) SELECT '00000000-0000-0000-0000-' || lpad(i::text, 12, '0'), 'tenant-' || i % 50, 'ada', 'x', '', \
    'x', 'x', '00000000-0000-0000-0000-000000000000', 'REVIEWED', 1, i, i FROM generate_series(1, 1000) AS i; \
    INSERT INTO events (request, seq, run, kind, created_at) SELECT '00000000-0000-0000-0000-' || lpad((i / 1000 + 1)::text, \
    12, '0'), i % 1000 + 1, '00000000-0000-0000-0001-' || lpad((i / 50)::text, 12, '0'), \
    '{\"type\":\"log\",\"message\":\"x\"}', i FROM generate_series(0, 999999) AS i; \
    INSERT INTO log_sizes (request, n_bytes) SELECT request, sum(octet_length(kind)) FROM events GROUP BY request; \
    UPDATE requests SET has_events = true; \
    INSERT INTO runs (id, request, tenant, prompt, status, attempts, cancel_requested, calls, input_tokens, \
    cached_input_tokens, output_tokens, reasoning_tokens, created_at) SELECT '00000000-0000-0000-0001-' || \
    lpad(i::text, 12, '0'), '00000000-0000-0000-0000-' || lpad((i / 20 + 1)::text, 12, '0'), 'tenant-' || i % 50, 'x', \
    'completed', '[]', false, 0, 0, 0, 0, 0, i FROM generate_series(0, 19999) AS i; \
    INSERT INTO jobs (id, tenant, request, kind, attempts, state, created_at) SELECT '00000000-0000-0000-0002-' || \
    lpad(i::text, 12, '0'), 'tenant-' || i % 50, '00000000-0000-0000-0000-' || lpad((i / 20 + 1)::text, 12, '0'), '{}', 1, \
    'ended', i FROM generate_series(0, 19999) AS i; \
    ANALYZE";

/// How often each large table was read from end to end.
async fn scans(database: &Database) -> BTreeMap<String, i64> {
    let mut connection = database.raw().await;
    let counts = "SELECT relname::text AS name, seq_scan FROM pg_stat_user_tables \
                  WHERE relname IN ('events', 'requests', 'runs', 'jobs')";
    let rows = sqlx::query(counts).fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    rows.iter().map(|row| (row.get("name"), row.get("seq_scan"))).collect()
}

/// Reads all events, and waits until the server has counted that, and with it whatever ended before.
async fn scan_once(database: &Database) -> BTreeMap<String, i64> {
    let before = scans(database).await["events"];
    let mut connection = database.raw().await;
    connection.execute("SET max_parallel_workers_per_gather = 0").await.unwrap();
    connection.execute("SELECT count(kind) FROM events").await.unwrap();
    connection.close().await.unwrap();
    until("the scan of all events is counted", async || scans(database).await["events"] > before).await;
    scans(database).await
}

#[tokio::test]
async fn beside_a_million_events_no_large_table_is_read_from_end_to_end() {
    let database = Database::new().await;
    let key = SecretKey::random().unwrap();
    database.open(&key).await.close().await;
    sqlx::raw_sql(MANY).execute(&mut database.raw().await).await.unwrap();
    let before = scan_once(&database).await;

    let store = database.open(&key).await;
    use_everything(&store).await;
    store.close().await;
    let mut after = scan_once(&database).await;
    *after.get_mut("events").unwrap() -= 1;
    assert_eq!(after, before, "the second reading of all events aside");
}

async fn use_everything(store: &impl Store) {
    let request = samples::request();
    let run = samples::run(&request);
    let job = samples::execute(&run);
    let new_jobs = vec![job.clone(), samples::execute(&run)];
    let events = vec![samples::log(request.id, "x")];
    let changes = Changes { runs: vec![run.clone()], new_jobs, events, ..samples::submitted(&request) };
    store.commit(changes).await.unwrap();
    let claimed = store
        .claim_job(at(9), at(20), Limits { per_tenant: NonZeroU32::new(3), in_all: NonZeroU32::new(9) })
        .await
        .unwrap()
        .unwrap();
    store.renew_lease(claimed.claim(), at(21)).await.unwrap();
    let taken = store.take_over_job(at(50), at(90)).await.unwrap().unwrap();
    let failed_jobs = vec![FailedJob { id: job.id, error: "x".to_owned(), not_before: None }];
    store.commit(Changes { claim: Some(taken.claim()), failed_jobs, ..Changes::default() }).await.unwrap();
    store.commit(Changes { revived_jobs: vec![job.id], ..Changes::default() }).await.unwrap();
    let ended_jobs = vec![EndedJob { id: job.id, error: None }];
    store.commit(Changes { ended_jobs, ..Changes::default() }).await.unwrap();

    let tenant = TenantId::new("tenant-7");
    let old: RequestId = "00000000-0000-0000-0000-000000000500".parse().unwrap();
    let old_run: RunId = "00000000-0000-0000-0001-000000000500".parse().unwrap();
    assert_eq!(store.events(old, 990, 100).await.unwrap().len(), 10);
    assert_eq!(store.append(vec![samples::log(old, "one more")]).await.unwrap(), 1001);
    assert_eq!(store.events_of_run(old_run).await.unwrap().len(), 50);
    assert_eq!(store.log_states(&[old]).await.unwrap().len(), 1);
    assert_eq!(store.last_event(old).await.unwrap(), 1001);
    assert_eq!(store.recent_logs(at(0), 1000).await.unwrap().len(), 1);
    store.request(&tenant, old).await.unwrap();
    assert_eq!(store.requests(&tenant).await.unwrap().len(), 20);
    for state in [None, Some(RequestState::Reviewed)] {
        let first = store.requests_page(&tenant, state, Page::first(9)).await.unwrap();
        let second = store.requests_page(&tenant, state, Page { after: first.next, limit: 11 }).await.unwrap();
        assert_eq!((second.items.len(), second.next), (11, None));
    }
    for of in [None, Some(old)] {
        assert_eq!(
            store.runs_page(&tenant, of, Page::first(9)).await.unwrap().items.len(),
            if of.is_none() { 9 } else { 0 }
        );
        store.merge_requests_page(&tenant, of, Page::first(9)).await.unwrap();
    }
    store.links_page(&tenant, Page::first(9)).await.unwrap();
    store.api_keys_page(&tenant, Page::first(9)).await.unwrap();
    store.run(&tenant, old_run).await.unwrap();
    assert_eq!(store.runs_of(old).await.unwrap().len(), 20);
    assert_eq!(store.runs(&tenant).await.unwrap().len(), 400);
    store.cancel_requested(old_run).await.unwrap();
    store.add_usage(old_run, Usage::default()).await.unwrap();
    store.merge_request(&tenant, MergeRequestId::random()).await.unwrap();
    store.merge_request_of(old).await.unwrap();
    store.latest_change_set(old).await.unwrap();
    store.running_jobs().await.unwrap();
    store.waiting_jobs(old).await.unwrap();
    store.dead_jobs(old).await.unwrap();
    store.job(JobId::random()).await.unwrap();
    for state in JobState::ALL {
        store.jobs(state, 10).await.unwrap();
    }
    assert_eq!(store.resting_logs(100).await.unwrap().len(), 100);
    let resting = Request { state: RequestState::Reviewed, ..samples::request() };
    let over = Run { status: RunStatus::Completed, ..samples::run(&resting) };
    let events = vec![samples::log(resting.id, "x")];
    store.commit(Changes { runs: vec![over], events, ..samples::submitted(&resting) }).await.unwrap();
    assert!(store.archive(&samples::archive(resting.id, 1, 1)).await.unwrap());
    assert_eq!(store.archives(resting.id).await.unwrap().len(), 1);
    store.logs_size().await.unwrap();
    let turn = store.take_turn("sweep", at(9), at(20)).await.unwrap().unwrap();
    store.renew_turn(&turn, at(30)).await.unwrap();
    store.end_turn(&turn, at(40)).await.unwrap();
}
