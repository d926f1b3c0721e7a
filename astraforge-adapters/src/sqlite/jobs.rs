//! The job queue.

use astraforge_core::{
    id::{RequestId, TenantId},
    job::Job,
    ports::store::EndedJob,
};
use chrono::{DateTime, Utc};
use sqlx::{SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::row::{Columns as _, SqlResult, json, micros};

pub(super) async fn queue(connection: &mut SqliteConnection, job: &Job) -> SqlResult<()> {
    sqlx::query(
        "INSERT INTO jobs (id, tenant, request, kind, attempts, state, created_at) VALUES (?, ?, ?, ?, ?, 'waiting', ?)",
    )
    .bind(job.id.to_string())
    .bind(job.tenant.as_str())
    .bind(job.request.to_string())
    .bind(json(&job.kind)?)
    .bind(job.attempts)
    .bind(micros(job.created_at))
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn end(connection: &mut SqliteConnection, ended: &EndedJob) -> SqlResult<()> {
    sqlx::query("UPDATE jobs SET state = 'ended', error = ? WHERE id = ? AND state <> 'ended'")
        .bind(&ended.error)
        .bind(ended.id.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

/// Finds and marks the job in one statement, which SQLite runs under its write lock: no two workers get the same one.
pub(super) async fn claim(pool: &SqlitePool, now: DateTime<Utc>) -> SqlResult<Option<Job>> {
    let rows = sqlx::query(
        "UPDATE jobs SET state = 'running', attempts = attempts + 1, claimed_at = ? WHERE position = ( \
         SELECT position FROM jobs AS oldest WHERE state = 'waiting' AND NOT EXISTS ( \
         SELECT 1 FROM jobs AS other WHERE other.request = oldest.request AND other.state = 'running') \
         ORDER BY created_at, position LIMIT 1) RETURNING *",
    )
    .bind(micros(now))
    // All rows, though there is one at most: the statement commits when it is read to its end.
    .fetch_all(pool)
    .await?;
    rows.first().map(from_row).transpose()
}

pub(super) async fn running(pool: &SqlitePool) -> SqlResult<Vec<Job>> {
    let query = sqlx::query("SELECT * FROM jobs WHERE state = 'running' ORDER BY created_at, position");
    query.fetch_all(pool).await?.iter().map(from_row).collect()
}

pub(super) async fn waiting(pool: &SqlitePool, request: RequestId) -> SqlResult<Vec<Job>> {
    let query = sqlx::query("SELECT * FROM jobs WHERE state = 'waiting' AND request = ? ORDER BY created_at, position");
    query.bind(request.to_string()).fetch_all(pool).await?.iter().map(from_row).collect()
}

fn from_row(row: &SqliteRow) -> SqlResult<Job> {
    Ok(Job {
        id: row.parsed("id")?,
        tenant: row.wrapped("tenant", TenantId::new)?,
        request: row.parsed("request")?,
        kind: row.json("kind")?,
        attempts: row.number("attempts")?,
        created_at: row.time("created_at")?,
    })
}
