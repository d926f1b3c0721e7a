//! The job queue.

use astraforge_core::{
    id::{RequestId, TenantId},
    job::{Claim, Job},
    ports::store::EndedJob,
};
use chrono::{DateTime, Utc};

use super::{
    Dialect,
    row::{Cells, Columns as _, SqlResult, json, micros},
    statement::{Statements, values},
};

pub(super) async fn queue(connection: &mut impl Statements, job: &Job) -> SqlResult<()> {
    let statement = "INSERT INTO jobs (id, tenant, request, kind, attempts, state, created_at) \
                     VALUES ($1, $2, $3, $4, $5, 'waiting', $6)";
    let values = values![
        job.id.to_string(),
        job.tenant.as_str(),
        job.request.to_string(),
        json(&job.kind)?,
        job.attempts,
        micros(job.created_at),
    ];
    connection.execute(statement, values).await.map(drop)
}

pub(super) async fn end(connection: &mut impl Statements, ended: &EndedJob) -> SqlResult<()> {
    let statement = "UPDATE jobs SET state = 'ended', error = $1 WHERE id = $2 AND state <> 'ended'";
    connection.execute(statement, values![&ended.error, ended.id.to_string()]).await.map(drop)
}

/// Finds and marks the job in one statement: no two workers get the same one.
pub(super) async fn claim<D: Dialect>(
    connection: &mut D::Connection,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> SqlResult<Option<Job>> {
    connection.row(D::CLAIM, values![micros(now), micros(until)]).await?.as_ref().map(from_row).transpose()
}

pub(super) async fn take_over<D: Dialect>(
    connection: &mut D::Connection,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> SqlResult<Option<Job>> {
    connection.row(D::TAKE_OVER, values![micros(now), micros(until)]).await?.as_ref().map(from_row).transpose()
}

pub(super) async fn renew(connection: &mut impl Statements, claim: Claim, until: DateTime<Utc>) -> SqlResult<bool> {
    let statement = "UPDATE jobs SET lease_until = $1 WHERE id = $2 AND attempts = $3 AND state = 'running'";
    Ok(connection.execute(statement, values![micros(until), claim.job.to_string(), claim.attempt]).await? > 0)
}

/// Tells whether a claim holds, which it then does until the transaction ends.
pub(super) async fn holds<D: Dialect>(connection: &mut D::Connection, claim: Claim) -> SqlResult<bool> {
    Ok(connection.row(D::CHECK_CLAIM, values![claim.job.to_string(), claim.attempt]).await?.is_some())
}

pub(super) async fn running(connection: &mut impl Statements) -> SqlResult<Vec<Job>> {
    let statement = "SELECT * FROM jobs WHERE state = 'running' ORDER BY created_at, position";
    connection.rows(statement, []).await?.iter().map(from_row).collect()
}

pub(super) async fn waiting(connection: &mut impl Statements, request: RequestId) -> SqlResult<Vec<Job>> {
    let statement = "SELECT * FROM jobs WHERE state = 'waiting' AND request = $1 ORDER BY created_at, position";
    connection.rows(statement, values![request.to_string()]).await?.iter().map(from_row).collect()
}

fn from_row(row: &impl Cells) -> SqlResult<Job> {
    Ok(Job {
        id: row.parsed("id")?,
        tenant: row.wrapped("tenant", TenantId::new)?,
        request: row.parsed("request")?,
        kind: row.json("kind")?,
        attempts: row.number("attempts")?,
        created_at: row.time("created_at")?,
    })
}
