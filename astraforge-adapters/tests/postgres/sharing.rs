//! Several servers on one database get in nobody's way.

use std::{collections::BTreeSet, sync::Arc};

use astraforge_adapters::{postgres::PostgresStore, secret_box::SecretKey};
use astraforge_core::{
    job::Limits,
    ports::store::{Changes, EndedJob, Expected, RequestChange, Store, StoreError},
    testing::samples,
};
use chrono::{TimeDelta, Utc};
use futures::future::join_all;

use crate::Database;

/// Four servers on one database.
async fn servers() -> Vec<PostgresStore> {
    let (database, key) = (Database::new().await, SecretKey::random().unwrap());
    join_all((0..4).map(|_| database.open(&key))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_many_append_at_once_are_numbered_without_gaps() {
    let servers = servers().await;
    let request = samples::request();
    servers[0].commit(samples::submitted(&request)).await.unwrap();
    let append = |i: usize| {
        let event = |j: usize| samples::log(request.id, format!("{i} {j}"));
        servers[i % servers.len()].append(vec![event(0), event(1), event(2)])
    };
    let last = join_all((0..40).map(append)).await.into_iter().map(Result::unwrap).max();
    assert_eq!(last, Some(120));
    let events = servers[0].events(request.id, 0, 1000).await.unwrap();
    assert!(events.iter().map(|event| event.seq).eq(1..=120));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_two_requests_in_either_order_lock_nobody_out() {
    let servers = servers().await;
    let (one, two) = (samples::request(), samples::request());
    for request in [&one, &two] {
        servers[0].commit(samples::submitted(request)).await.unwrap();
    }
    let append = |i: usize| {
        let mut ids = [one.id, two.id];
        ids.rotate_left(i % 2);
        servers[i % servers.len()].append(ids.map(|id| samples::log(id, i.to_string())).into())
    };
    for result in join_all((0..60).map(append)).await {
        result.unwrap();
    }
    assert_eq!(servers[1].events(two.id, 0, 1000).await.unwrap().len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_taken_by_one_and_one_job_of_a_request_at_a_time() {
    let servers = servers().await;
    let mut waiting = BTreeSet::new();
    for _ in 0..6 {
        let request = samples::request();
        servers[0].commit(samples::submitted(&request)).await.unwrap();
        let jobs: Vec<_> = (0..3).map(|_| samples::execute(&samples::run(&request))).collect();
        waiting.extend(jobs.iter().map(|job| job.id));
        servers[0].commit(Changes { new_jobs: jobs, ..Changes::default() }).await.unwrap();
    }
    let waiting_before = waiting.len();
    let mut taken = Vec::new();
    // Each round takes at most one of each request.
    while !waiting.is_empty() {
        let claims = join_all((0..16).map(|i| {
            servers[i % servers.len()].claim_job(Utc::now(), Utc::now() + TimeDelta::minutes(1), Limits::NONE)
        }))
        .await;
        let claimed: Vec<_> = claims.into_iter().filter_map(|claim| claim.unwrap()).collect();
        let requests: BTreeSet<_> = claimed.iter().map(|job| job.request).collect();
        assert_eq!(requests.len(), claimed.len(), "two jobs of one request run at once");
        assert!(!claimed.is_empty(), "{} jobs wait, and nobody gets one", waiting.len());
        for job in &claimed {
            assert!(waiting.remove(&job.id), "a job was taken twice");
        }
        let ended_jobs = claimed.iter().map(|job| EndedJob { id: job.id, error: None }).collect();
        servers[1].commit(Changes { ended_jobs, ..Changes::default() }).await.unwrap();
        taken.extend(claimed);
    }
    assert_eq!(taken.len(), waiting_before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_and_a_caller_on_one_request_lock_nobody_out() {
    let servers = servers().await;
    let until = Utc::now() + TimeDelta::minutes(1);
    for _ in 0..30 {
        let request = samples::request();
        servers[0].commit(samples::submitted(&request)).await.unwrap();
        let job = samples::execute(&samples::run(&request));
        servers[0].commit(Changes { new_jobs: vec![job.clone()], ..Changes::default() }).await.unwrap();
        let held = servers[0].claim_job(Utc::now(), until, Limits::NONE).await.unwrap().unwrap();
        // A worker tells of its run while somebody ends the job that still waited when they looked.
        let told = (0..6).map(|i| {
            let events = vec![samples::log(request.id, i.to_string())];
            servers[i % 3].commit(Changes { claim: Some(held.claim()), events, ..Changes::default() })
        });
        let ended = Changes {
            request: Some(RequestChange { request: request.clone(), expected: Expected::Version(1) }),
            ended_jobs: vec![EndedJob { id: job.id, error: None }],
            events: vec![samples::log(request.id, "ended")],
            ..Changes::default()
        };
        let (told, ended) = futures::join!(join_all(told), servers[3].commit(ended));
        ended.unwrap();
        for result in told {
            assert!(matches!(result, Ok(_) | Err(StoreError::ClaimLost { .. })), "{result:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_is_due_is_done_by_one_of_many_servers() {
    let servers = servers().await;
    for n in 1..=20 {
        let (now, lease) = (samples::at(10 * n), samples::at(10 * n + 5));
        let asked = join_all((0..16).map(|i| servers[i % servers.len()].take_turn("sweep", now, lease))).await;
        let taken: Vec<_> = asked.into_iter().filter_map(|turn| turn.unwrap()).collect();
        assert_eq!(taken.len(), 1, "{taken:?}");
        assert_eq!(taken[0].number, u64::try_from(n).unwrap());
        // Every other time the one that has it dies, and its lease ends.
        if n % 2 == 0 {
            assert!(servers[1].end_turn(&taken[0], samples::at(10 * n + 10)).await.unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_that_many_servers_archive_and_use_at_once_lose_and_double_nothing() {
    let servers = servers().await.into_iter().map(|server| Arc::new(server) as Arc<dyn Store>);
    crate::archiving::story(servers.collect()).await;
}
