//! Runs and what they used.

use astraforge_core::{
    id::{RequestId, RunId, TenantId},
    ports::store::StoreError,
    run::{Run, Usage},
};
use sqlx::{Row as _, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::{
    error::{already_exists, failed},
    row::{Columns as _, SqlResult, json, maybe_json, micros, number},
};

pub(super) async fn write(connection: &mut SqliteConnection, run: &Run) -> Result<(), StoreError> {
    match upsert(connection, run).await.map_err(failed("write a run"))? {
        0 => Err(already_exists("run", run.id)),
        _ => Ok(()),
    }
}

/// Leaves what was used as it is, keeps a cancellation, and touches no run of another request or tenant.
async fn upsert(connection: &mut SqliteConnection, run: &Run) -> SqlResult<u64> {
    let usage = run.usage;
    let done = sqlx::query(
        "INSERT INTO runs (id, request, tenant, prompt, status, attempts, cancel_requested, failure, final_message, \
         thread, rollout, change_set, exit_code, tests, calls, input_tokens, cached_input_tokens, output_tokens, \
         reasoning_tokens, created_at, started_at, finished_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (id) DO UPDATE SET prompt = excluded.prompt, status = excluded.status, \
         attempts = excluded.attempts, cancel_requested = max(cancel_requested, excluded.cancel_requested), \
         failure = excluded.failure, final_message = excluded.final_message, thread = excluded.thread, \
         rollout = excluded.rollout, change_set = excluded.change_set, exit_code = excluded.exit_code, \
         tests = excluded.tests, created_at = excluded.created_at, started_at = excluded.started_at, \
         finished_at = excluded.finished_at \
         WHERE runs.tenant = excluded.tenant AND runs.request = excluded.request",
    )
    .bind(run.id.to_string())
    .bind(run.request.to_string())
    .bind(run.tenant.as_str())
    .bind(&run.prompt)
    .bind(run.status.as_str())
    .bind(json(&run.attempts)?)
    .bind(run.cancel_requested)
    .bind(maybe_json(run.failure.as_ref())?)
    .bind(&run.final_message)
    .bind(&run.thread)
    .bind(&run.rollout)
    .bind(run.change_set.map(|id| id.to_string()))
    .bind(run.exit_code)
    .bind(maybe_json(run.tests.as_ref())?)
    .bind(number(usage.calls)?)
    .bind(number(usage.input_tokens)?)
    .bind(number(usage.cached_input_tokens)?)
    .bind(number(usage.output_tokens)?)
    .bind(number(usage.reasoning_tokens)?)
    .bind(micros(run.created_at))
    .bind(run.started_at.map(micros))
    .bind(run.finished_at.map(micros))
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

pub(super) async fn add_usage(pool: &SqlitePool, run: RunId, usage: Usage) -> SqlResult<()> {
    sqlx::query(
        "UPDATE runs SET calls = calls + ?, input_tokens = input_tokens + ?, \
         cached_input_tokens = cached_input_tokens + ?, output_tokens = output_tokens + ?, \
         reasoning_tokens = reasoning_tokens + ? WHERE id = ?",
    )
    .bind(number(usage.calls)?)
    .bind(number(usage.input_tokens)?)
    .bind(number(usage.cached_input_tokens)?)
    .bind(number(usage.output_tokens)?)
    .bind(number(usage.reasoning_tokens)?)
    .bind(run.to_string())
    .execute(pool)
    .await?;
    Ok(())
}

pub(super) async fn cancel_requested(pool: &SqlitePool, run: RunId) -> SqlResult<bool> {
    let query = sqlx::query_scalar("SELECT cancel_requested FROM runs WHERE id = ?").bind(run.to_string());
    Ok(query.fetch_optional(pool).await?.unwrap_or(false))
}

pub(super) async fn find(pool: &SqlitePool, tenant: &TenantId, id: RunId) -> SqlResult<Option<Run>> {
    let query = sqlx::query("SELECT * FROM runs WHERE id = ? AND tenant = ?");
    let row = query.bind(id.to_string()).bind(tenant.as_str()).fetch_optional(pool).await?;
    row.as_ref().map(from_row).transpose()
}

pub(super) async fn of_request(pool: &SqlitePool, request: RequestId) -> SqlResult<Vec<Run>> {
    let query = sqlx::query("SELECT * FROM runs WHERE request = ? ORDER BY created_at, position");
    query.bind(request.to_string()).fetch_all(pool).await?.iter().map(from_row).collect()
}

pub(super) async fn list(pool: &SqlitePool, tenant: &TenantId) -> SqlResult<Vec<Run>> {
    let query = sqlx::query("SELECT * FROM runs WHERE tenant = ? ORDER BY created_at DESC, position DESC");
    query.bind(tenant.as_str()).fetch_all(pool).await?.iter().map(from_row).collect()
}

fn from_row(row: &SqliteRow) -> SqlResult<Run> {
    Ok(Run {
        id: row.parsed("id")?,
        request: row.parsed("request")?,
        tenant: row.wrapped("tenant", TenantId::new)?,
        prompt: row.try_get("prompt")?,
        status: row.parsed("status")?,
        attempts: row.json("attempts")?,
        cancel_requested: row.try_get("cancel_requested")?,
        failure: row.maybe_json("failure")?,
        final_message: row.try_get("final_message")?,
        thread: row.try_get("thread")?,
        rollout: row.try_get("rollout")?,
        change_set: row.maybe_parsed("change_set")?,
        exit_code: row.try_get("exit_code")?,
        tests: row.maybe_json("tests")?,
        usage: Usage {
            calls: row.number("calls")?,
            input_tokens: row.number("input_tokens")?,
            cached_input_tokens: row.number("cached_input_tokens")?,
            output_tokens: row.number("output_tokens")?,
            reasoning_tokens: row.number("reasoning_tokens")?,
        },
        created_at: row.time("created_at")?,
        started_at: row.maybe_time("started_at")?,
        finished_at: row.maybe_time("finished_at")?,
    })
}
