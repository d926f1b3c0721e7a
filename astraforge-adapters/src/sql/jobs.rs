//! The job queue.

use std::num::NonZeroU32;

use astraforge_core::{
    id::{JobId, RequestId, TenantId},
    job::{Claim, Job, JobState, Limits, QueuedJob},
    ports::store::{EndedJob, FailedJob},
};
use chrono::{DateTime, Utc};

use super::{
    Dialect,
    row::{Cells, Columns as _, SqlResult, json, micros},
    statement::{Statements, values},
};

/// Finds and marks the job in one statement. The placeholders are the time, the lease's end, and the most that a tenant
/// and all of them may have at work.
///
/// The queue may be long and the tenants few: tenants are found one after the other in an index, and of each one the first
/// job that may be begun. `$lock` keeps that job from others while it is taken.
macro_rules! claiming {
    ($lock:literal) => {
        concat!(
            "WITH RECURSIVE tenants (tenant) AS ( \
             SELECT min(tenant) FROM jobs WHERE state = 'waiting' \
             UNION ALL SELECT (SELECT min(jobs.tenant) FROM jobs \
             WHERE jobs.state = 'waiting' AND jobs.tenant > tenants.tenant) \
             FROM tenants WHERE tenants.tenant IS NOT NULL), \
             firsts (first, at_work) AS ( \
             SELECT (SELECT due.position FROM jobs AS due \
             WHERE due.state = 'waiting' AND due.tenant = tenants.tenant \
             AND (due.not_before IS NULL OR due.not_before <= $1) \
             AND NOT EXISTS (SELECT 1 FROM jobs AS other \
             WHERE other.state = 'running' AND other.request = due.request) \
             AND NOT EXISTS (SELECT 1 FROM jobs AS older WHERE older.state = 'waiting' \
             AND older.request = due.request \
             AND (older.created_at, older.position) < (due.created_at, due.position)) \
             ORDER BY due.priority DESC, due.created_at, due.position LIMIT 1), \
             (SELECT count(*) FROM jobs AS busy WHERE busy.state = 'running' AND busy.tenant = tenants.tenant) \
             FROM tenants WHERE tenants.tenant IS NOT NULL) \
             UPDATE jobs SET state = 'running', attempts = attempts + 1, claimed_at = $1, lease_until = $2 \
             WHERE position = (SELECT jobs.position FROM firsts JOIN jobs ON jobs.position = firsts.first \
             WHERE firsts.at_work < $3 AND jobs.state = 'waiting' \
             AND (SELECT count(*) FROM jobs AS working WHERE working.state = 'running') < $4 \
             ORDER BY firsts.at_work, jobs.priority DESC, jobs.created_at, jobs.position LIMIT 1",
            $lock,
            ") RETURNING *"
        )
    };
}

pub(crate) use claiming;

pub(super) async fn queue(connection: &mut impl Statements, job: &Job) -> SqlResult<()> {
    let statement = "INSERT INTO jobs (id, tenant, request, kind, priority, attempts, failures, state, created_at) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, 'waiting', $8)";
    let values = values![
        job.id.to_string(),
        job.tenant.as_str(),
        job.request.to_string(),
        json(&job.kind)?,
        u32::from(job.kind.priority()),
        job.attempts,
        job.failures,
        micros(job.created_at),
    ];
    connection.execute(statement, values).await.map(drop)
}

pub(super) async fn end(connection: &mut impl Statements, ended: &EndedJob) -> SqlResult<()> {
    let statement = "UPDATE jobs SET state = 'ended', error = $1 WHERE id = $2 AND state <> 'ended'";
    connection.execute(statement, values![&ended.error, ended.id.to_string()]).await.map(drop)
}

pub(super) async fn fail(connection: &mut impl Statements, failed: &FailedJob) -> SqlResult<()> {
    let statement = "UPDATE jobs SET state = $1, error = $2, not_before = $3, failures = failures + 1 \
                     WHERE id = $4 AND state = 'running'";
    let state = if failed.not_before.is_some() { JobState::Waiting } else { JobState::Dead };
    let values = values![state.as_str(), &failed.error, failed.not_before.map(micros), failed.id.to_string()];
    connection.execute(statement, values).await.map(drop)
}

pub(super) async fn hand_back(connection: &mut impl Statements, id: JobId) -> SqlResult<()> {
    let statement = "UPDATE jobs SET state = 'waiting', not_before = NULL WHERE id = $1 AND state = 'running'";
    connection.execute(statement, values![id.to_string()]).await.map(drop)
}

pub(super) async fn revive(connection: &mut impl Statements, id: JobId) -> SqlResult<()> {
    let statement = "UPDATE jobs SET state = 'waiting', failures = 0, not_before = NULL \
                     WHERE id = $1 AND state IN ('dead', 'waiting')";
    connection.execute(statement, values![id.to_string()]).await.map(drop)
}

/// Marks the job whose turn it is, alone until the transaction ends: who counts what a tenant has at work must not do so
/// beside another.
pub(super) async fn claim<D: Dialect>(
    connection: &mut D::Connection,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
    limits: Limits,
) -> SqlResult<Option<Job>> {
    if let Some(lock) = D::LOCK_CLAIMS {
        connection.rows(lock, []).await?;
    }
    let most = |limit: Option<NonZeroU32>| limit.map_or(u32::MAX, NonZeroU32::get);
    connection
        .row(D::CLAIM, values![micros(now), micros(until), most(limits.per_tenant), most(limits.in_all)])
        .await?
        .as_ref()
        .map(from_row)
        .transpose()
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

/// Tells whether a job is in a state, which it then is until the transaction ends.
pub(super) async fn stands(connection: &mut impl Statements, id: JobId, state: JobState) -> SqlResult<bool> {
    // A change of nothing keeps the row from others in either dialect.
    let statement = "UPDATE jobs SET state = state WHERE id = $1 AND state = $2";
    Ok(connection.execute(statement, values![id.to_string(), state.as_str()]).await? > 0)
}

pub(super) async fn running(connection: &mut impl Statements) -> SqlResult<Vec<Job>> {
    let statement = "SELECT * FROM jobs WHERE state = 'running' ORDER BY created_at, position";
    connection.rows(statement, []).await?.iter().map(from_row).collect()
}

pub(super) async fn waiting(connection: &mut impl Statements, request: RequestId) -> SqlResult<Vec<Job>> {
    let statement = "SELECT * FROM jobs WHERE state = 'waiting' AND request = $1 ORDER BY created_at, position";
    connection.rows(statement, values![request.to_string()]).await?.iter().map(from_row).collect()
}

pub(super) async fn dead(connection: &mut impl Statements, request: RequestId) -> SqlResult<Vec<Job>> {
    let statement = "SELECT * FROM jobs WHERE state = 'dead' AND request = $1 ORDER BY created_at, position";
    connection.rows(statement, values![request.to_string()]).await?.iter().map(from_row).collect()
}

pub(super) async fn find(connection: &mut impl Statements, id: JobId) -> SqlResult<Option<QueuedJob>> {
    let statement = "SELECT * FROM jobs WHERE id = $1 AND state <> 'ended'";
    connection.row(statement, values![id.to_string()]).await?.as_ref().map(queued_from_row).transpose()
}

pub(super) async fn list(connection: &mut impl Statements, state: JobState, limit: u32) -> SqlResult<Vec<QueuedJob>> {
    // Spelled out, because the indexes are of one state each.
    let statement = match state {
        JobState::Waiting => "SELECT * FROM jobs WHERE state = 'waiting' ORDER BY created_at, position LIMIT $1",
        JobState::Running => "SELECT * FROM jobs WHERE state = 'running' ORDER BY created_at, position LIMIT $1",
        JobState::Dead => "SELECT * FROM jobs WHERE state = 'dead' ORDER BY created_at, position LIMIT $1",
    };
    connection.rows(statement, values![limit]).await?.iter().map(queued_from_row).collect()
}

fn queued_from_row(row: &impl Cells) -> SqlResult<QueuedJob> {
    Ok(QueuedJob {
        job: from_row(row)?,
        state: row.parsed("state")?,
        not_before: row.maybe_time("not_before")?,
        error: row.maybe_string("error")?,
    })
}

fn from_row(row: &impl Cells) -> SqlResult<Job> {
    Ok(Job {
        id: row.parsed("id")?,
        tenant: row.wrapped("tenant", TenantId::new)?,
        request: row.parsed("request")?,
        kind: row.json("kind")?,
        attempts: row.number("attempts")?,
        failures: row.number("failures")?,
        created_at: row.time("created_at")?,
    })
}
