//! Runs and what they used.

use astraforge_core::{
    id::{RequestId, RunId, TenantId},
    page::{Page, Paged},
    ports::store::StoreError,
    run::{Run, Usage},
};

use super::{
    error::{already_exists, failed},
    pages::{self, End, newest_first},
    row::{Cells, Columns as _, SqlResult, json, maybe_json, micros, number},
    statement::{Statements, Value, values},
};

pub(super) async fn write(connection: &mut impl Statements, run: &Run) -> Result<(), StoreError> {
    match upsert(connection, run).await.map_err(failed("write a run"))? {
        0 => Err(already_exists("run", run.id)),
        _ => Ok(()),
    }
}

/// Leaves what was used as it is, keeps a cancellation, and touches no run of another request or tenant.
async fn upsert(connection: &mut impl Statements, run: &Run) -> SqlResult<u64> {
    let statement = "INSERT INTO runs (id, request, tenant, prompt, status, attempts, cancel_requested, failure, \
                     final_message, thread, rollout, change_set, exit_code, tests, calls, input_tokens, \
                     cached_input_tokens, output_tokens, reasoning_tokens, created_at, started_at, finished_at) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, \
                     $20, $21, $22) \
                     ON CONFLICT (id) DO UPDATE SET prompt = excluded.prompt, status = excluded.status, \
                     attempts = excluded.attempts, \
                     cancel_requested = runs.cancel_requested OR excluded.cancel_requested, \
                     failure = excluded.failure, final_message = excluded.final_message, thread = excluded.thread, \
                     rollout = excluded.rollout, change_set = excluded.change_set, exit_code = excluded.exit_code, \
                     tests = excluded.tests, created_at = excluded.created_at, started_at = excluded.started_at, \
                     finished_at = excluded.finished_at \
                     WHERE runs.tenant = excluded.tenant AND runs.request = excluded.request";
    let usage = run.usage;
    let values = values![
        run.id.to_string(),
        run.request.to_string(),
        run.tenant.as_str(),
        &run.prompt,
        run.status.as_str(),
        json(&run.attempts)?,
        run.cancel_requested,
        maybe_json(run.failure.as_ref())?,
        &run.final_message,
        &run.thread,
        &run.rollout,
        run.change_set.map(|id| id.to_string()),
        run.exit_code,
        maybe_json(run.tests.as_ref())?,
        number(usage.calls)?,
        number(usage.input_tokens)?,
        number(usage.cached_input_tokens)?,
        number(usage.output_tokens)?,
        number(usage.reasoning_tokens)?,
        micros(run.created_at),
        run.started_at.map(micros),
        run.finished_at.map(micros),
    ];
    connection.execute(statement, values).await
}

pub(super) async fn add_usage(connection: &mut impl Statements, run: RunId, usage: Usage) -> SqlResult<()> {
    let statement = "UPDATE runs SET calls = calls + $1, input_tokens = input_tokens + $2, \
                     cached_input_tokens = cached_input_tokens + $3, output_tokens = output_tokens + $4, \
                     reasoning_tokens = reasoning_tokens + $5 WHERE id = $6";
    let values = values![
        number(usage.calls)?,
        number(usage.input_tokens)?,
        number(usage.cached_input_tokens)?,
        number(usage.output_tokens)?,
        number(usage.reasoning_tokens)?,
        run.to_string(),
    ];
    connection.execute(statement, values).await.map(drop)
}

pub(super) async fn cancel_requested(connection: &mut impl Statements, run: RunId) -> SqlResult<bool> {
    let row = connection.row("SELECT cancel_requested FROM runs WHERE id = $1", values![run.to_string()]).await?;
    row.map_or(Ok(false), |row| row.flag("cancel_requested"))
}

pub(super) async fn find(connection: &mut impl Statements, tenant: &TenantId, id: RunId) -> SqlResult<Option<Run>> {
    let statement = "SELECT * FROM runs WHERE id = $1 AND tenant = $2";
    connection.row(statement, values![id.to_string(), tenant.as_str()]).await?.as_ref().map(from_row).transpose()
}

pub(super) async fn of_request(connection: &mut impl Statements, request: RequestId) -> SqlResult<Vec<Run>> {
    let statement = "SELECT * FROM runs WHERE request = $1 ORDER BY created_at, position";
    connection.rows(statement, values![request.to_string()]).await?.iter().map(from_row).collect()
}

pub(super) async fn list(connection: &mut impl Statements, tenant: &TenantId) -> SqlResult<Vec<Run>> {
    let statement = "SELECT * FROM runs WHERE tenant = $1 ORDER BY created_at DESC, position DESC";
    connection.rows(statement, values![tenant.as_str()]).await?.iter().map(from_row).collect()
}

pub(super) async fn page(
    connection: &mut impl Statements,
    tenant: &TenantId,
    request: Option<RequestId>,
    page: Page,
) -> SqlResult<Paged<Run>> {
    const OF_TENANT: &str = newest_first!("runs", "tenant = $4");
    const OF_REQUEST: &str = newest_first!("runs", "request = (SELECT id FROM requests WHERE tenant = $4 AND id = $5)");
    let request = request.map(|id| id.to_string());
    let statement = if request.is_some() { OF_REQUEST } else { OF_TENANT };
    let filters = [Some(tenant.to_string()), request].into_iter().flatten().map(Value::from);
    pages::read(connection, statement, End::Newest, page, filters, from_row).await
}

fn from_row(row: &impl Cells) -> SqlResult<Run> {
    Ok(Run {
        id: row.parsed("id")?,
        request: row.parsed("request")?,
        tenant: row.wrapped("tenant", TenantId::new)?,
        prompt: row.string("prompt")?,
        status: row.parsed("status")?,
        attempts: row.json("attempts")?,
        cancel_requested: row.flag("cancel_requested")?,
        failure: row.maybe_json("failure")?,
        final_message: row.maybe_string("final_message")?,
        thread: row.maybe_string("thread")?,
        rollout: row.maybe_string("rollout")?,
        change_set: row.maybe_parsed("change_set")?,
        exit_code: row.maybe_number("exit_code")?,
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
