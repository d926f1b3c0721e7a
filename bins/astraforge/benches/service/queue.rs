//! Queueing and claiming jobs, beside the statements that they are made of.

use std::time::{Duration, Instant};

use astraforge_adapters::sql::Dialect;
use astraforge_core::{
    job::{Job, JobKind, Limits},
    ports::store::{Changes, Store as _},
    testing::samples,
};
use chrono::{TimeDelta, Utc};
use sqlx::{Connection as _, Executor as _, PgConnection, Postgres};

use crate::{
    forge::{Node, fresh},
    samples::{Failure, Section},
};

const ROUNDS: usize = 400;

pub(crate) async fn measure(url: &str) -> Result<(), Failure> {
    let database = fresh(url).await?;
    let node = Node::open(&database).await?;
    let mut raw = PgConnection::connect(&database).await?;
    let mut jobs = Vec::new();
    for _ in 0..2 * ROUNDS {
        let (request, run) = node.add_request().await?;
        jobs.push(Job::new(samples::tenant(), request, JobKind::Execute { run }, Utc::now()));
    }
    enqueue(&node, &mut raw, &jobs).await?;
    claim(&node, &mut raw).await
}

async fn enqueue(node: &Node, raw: &mut PgConnection, jobs: &[Job]) -> Result<(), Failure> {
    const INSERT: &str = "INSERT INTO jobs (id, tenant, request, kind, attempts, failures, state, created_at) \
                          VALUES ($1, $2, $3, $4, $5, $6, 'waiting', $7)";
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for pair in jobs.chunks_exact(2) {
        let changes = Changes { new_jobs: vec![pair[0].clone()], ..Changes::default() };
        ours.push(timed(async { Ok(node.store.commit(changes).await.map(drop)?) }).await?);
        let job = &pair[1];
        theirs.push(
            timed(async {
                let mut transaction = raw.begin().await?;
                let insert = sqlx::query(INSERT)
                    .bind(job.id.to_string())
                    .bind(job.tenant.as_str())
                    .bind(job.request.to_string())
                    .bind(serde_json::to_string(&job.kind)?)
                    .bind(0_i64)
                    .bind(0_i64)
                    .bind(job.created_at.timestamp_micros());
                transaction.execute(insert).await?;
                Ok(transaction.commit().await?)
            })
            .await?,
        );
    }
    let section = Section::new("enqueue", "a job put into the queue, in a transaction of its own");
    section.print("store", "Store::commit", &ours);
    section.print("raw SQL", "BEGIN; INSERT INTO jobs …; COMMIT", &theirs);
    Ok(())
}

async fn claim(node: &Node, raw: &mut PgConnection) -> Result<(), Failure> {
    let lock = <Postgres as Dialect>::LOCK_CLAIMS.ok_or("claims are not locked")?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let now = Utc::now();
        let until = now + TimeDelta::minutes(10);
        let claimed =
            timed(async { Ok(node.store.claim_job(now, until, Limits::NONE).await?.map(drop).ok_or("no job")?) });
        ours.push(claimed.await?);
        theirs.push(
            timed(async {
                let mut transaction = raw.begin().await?;
                transaction.execute(sqlx::query(lock)).await?;
                let claim = sqlx::query(<Postgres as Dialect>::CLAIM)
                    .bind(now.timestamp_micros())
                    .bind(until.timestamp_micros())
                    .bind(i64::from(u32::MAX))
                    .bind(i64::from(u32::MAX));
                transaction.fetch_one(claim).await?;
                Ok(transaction.commit().await?)
            })
            .await?,
        );
    }
    let section = Section::new("claim", "a job taken from the queue");
    section.print("store", "Store::claim_job", &ours);
    section.print("raw SQL", "BEGIN; lock; UPDATE jobs … RETURNING *; COMMIT", &theirs);
    Ok(())
}

pub(crate) async fn timed(work: impl Future<Output = Result<(), Failure>>) -> Result<Duration, Failure> {
    let start = Instant::now();
    work.await?;
    Ok(start.elapsed())
}
