//! The run log: events in order, without gaps.

use std::collections::{BTreeMap, BTreeSet};

use astraforge_core::{
    event::{NewEvent, RunEvent},
    id::{RequestId, RunId},
    ports::store::{LogEnd, LogState},
};
use chrono::{DateTime, Utc};

use super::{
    Dialect,
    row::{Cells, Columns as _, SqlResult, json, micros, number},
    statement::{Statements, Value, values},
};

/// The sequence number of a log's last event. Events that are rows come after those that are archived.
macro_rules! end_of {
    ($request:literal) => {
        concat!(
            "coalesce((SELECT max(seq) FROM events WHERE request = ",
            $request,
            "), (SELECT max(last_seq) FROM log_archives WHERE request = ",
            $request,
            "), 0)"
        )
    };
}

pub(crate) use end_of;

/// Has nobody else count the events of these requests until the transaction ends. They are locked in order, so that no two
/// transactions wait for each other.
pub(super) async fn lock<D: Dialect>(connection: &mut D::Connection, events: &[NewEvent]) -> SqlResult<()> {
    let Some(statement) = D::LOCK_REQUEST else { return Ok(()) };
    let requests: BTreeSet<RequestId> = events.iter().map(|event| event.request).collect();
    for request in requests {
        connection.rows(statement, values![request.to_string()]).await?;
    }
    Ok(())
}

/// Writes events in one statement, and returns the last one's sequence number. Their requests are locked.
pub(super) async fn append<D: Dialect>(connection: &mut D::Connection, events: &[NewEvent]) -> SqlResult<u64> {
    let kinds = events.iter().map(|event| json(&event.kind)).collect::<SqlResult<Vec<String>>>()?;
    let mut sizes: BTreeMap<RequestId, u64> = BTreeMap::new();
    for (event, kind) in events.iter().zip(&kinds) {
        *sizes.entry(event.request).or_default() += kind.len() as u64;
    }
    let mut last_of: BTreeMap<RequestId, u64> = BTreeMap::new();
    for (request, size) in sizes {
        last_of.insert(request, grow::<D>(connection, request, size).await?);
    }
    let mut rows = Vec::with_capacity(events.len());
    let mut last = 0;
    for (event, kind) in events.iter().zip(kinds) {
        let counted = last_of.entry(event.request).or_default();
        *counted += 1;
        last = *counted;
        rows.push((event.request, number(last)?, event.run, kind, micros(event.at)));
    }
    if !rows.is_empty() {
        // One statement for any number of rows, so that a batch costs one round trip and one plan.
        connection.execute(D::INSERT_EVENTS, values![json(&rows)?]).await?;
    }
    Ok(last)
}

/// Counts bytes that are added to a log, and tells where it ends without them.
async fn grow<D: Dialect>(connection: &mut D::Connection, request: RequestId, size: u64) -> SqlResult<u64> {
    let statement = concat!(
        "INSERT INTO log_sizes (request, n_bytes) VALUES ($1, $2) \
         ON CONFLICT (request) DO UPDATE SET n_bytes = log_sizes.n_bytes + $2 RETURNING n_bytes, ",
        end_of!("$1"),
        " AS seq"
    );
    let row = connection.row(statement, values![request.to_string(), number(size)?]).await?;
    let row = row.ok_or(sqlx::Error::RowNotFound)?;
    if row.number::<u64>("n_bytes")? == size {
        // Nothing of it was a row until now.
        let statement = "UPDATE requests SET has_events = true WHERE id = $1 AND NOT has_events";
        connection.execute(statement, values![request.to_string()]).await?;
    }
    row.number("seq")
}

pub(super) async fn last_seq<D: Dialect>(connection: &mut D::Connection, request: RequestId) -> SqlResult<u64> {
    let statement = concat!("SELECT ", end_of!("$1"), " AS seq");
    connection.row(statement, values![request.to_string()]).await?.map_or(Ok(0), |row| row.number("seq"))
}

pub(super) async fn after<D: Dialect>(
    connection: &mut D::Connection,
    request: RequestId,
    after: u64,
    limit: u32,
) -> SqlResult<Vec<RunEvent>> {
    let statement = "SELECT * FROM events WHERE request = $1 AND seq > $2 ORDER BY seq LIMIT $3";
    // A number that a database cannot hold is after every event.
    let after = Value::from(i64::try_from(after).unwrap_or(i64::MAX));
    connection.rows(statement, [request.to_string().into(), after, limit.into()]).await?.iter().map(from_row).collect()
}

pub(super) async fn of_run<D: Dialect>(connection: &mut D::Connection, run: RunId) -> SqlResult<Vec<RunEvent>> {
    let statement = "SELECT * FROM events WHERE run = $1 ORDER BY seq";
    connection.rows(statement, values![run.to_string()]).await?.iter().map(from_row).collect()
}

pub(super) async fn recent<D: Dialect>(
    connection: &mut D::Connection,
    since: DateTime<Utc>,
    limit: u32,
) -> SqlResult<Vec<LogEnd>> {
    // Two halves, because one condition with `OR` has every request read. What is at work and did not change comes after
    // what changed, so neither half repeats the other.
    let statement = concat!(
        "SELECT id, ",
        end_of!("recent.id"),
        " AS last FROM (\
         SELECT * FROM (SELECT id, updated_at, position FROM requests WHERE updated_at >= $1 \
         ORDER BY updated_at DESC, position DESC LIMIT $2) AS changed UNION ALL \
         SELECT id, updated_at, position FROM requests WHERE updated_at < $1 \
         AND id IN (SELECT request FROM jobs WHERE state = 'running')\
         ) AS recent ORDER BY updated_at DESC, position DESC LIMIT $2"
    );
    let rows = connection.rows(statement, [micros(since).into(), limit.into()]).await?;
    rows.iter().map(|row| Ok(LogEnd { request: row.parsed("id")?, last: row.number("last")? })).collect()
}

/// Whether the log of a request may grow without a person acting.
///
/// The questions about runs and jobs are no `EXISTS`, which PostgreSQL answers by reading a table from end to end when it
/// expects many requests.
macro_rules! may_grow {
    () => {
        "((SELECT 1 FROM runs WHERE request = requests.id LIMIT 1) IS NULL \
         OR (SELECT 1 FROM runs WHERE request = requests.id AND status IN ('queued', 'running') LIMIT 1) = 1 \
         OR (SELECT 1 FROM jobs WHERE request = requests.id AND state = 'waiting' LIMIT 1) = 1 \
         OR (SELECT 1 FROM jobs WHERE request = requests.id AND state = 'running' LIMIT 1) = 1) IS TRUE"
    };
}

pub(crate) use may_grow;

/// Reads how logs stand. `$wanted` is the condition on a request's `id`, with the placeholder for a list in JSON.
macro_rules! standing {
    ($wanted:literal) => {
        concat!(
            "SELECT id, ",
            $crate::sql::log::end_of!("requests.id"),
            " AS last, ",
            $crate::sql::log::may_grow!(),
            " AS may_grow FROM requests WHERE ",
            $wanted
        )
    };
}

pub(crate) use standing;

pub(super) async fn states<D: Dialect>(
    connection: &mut D::Connection,
    requests: &[RequestId],
) -> SqlResult<Vec<LogState>> {
    let state = |row: &<D::Connection as Statements>::Row| {
        let end = LogEnd { request: row.parsed("id")?, last: row.number("last")? };
        Ok(LogState { end, may_grow: row.flag("may_grow")? })
    };
    connection.rows(D::LOG_STATES, values![json(&requests)?]).await?.iter().map(state).collect()
}

fn from_row(row: &impl Cells) -> SqlResult<RunEvent> {
    Ok(RunEvent {
        seq: row.number("seq")?,
        request_id: row.parsed("request")?,
        run_id: row.maybe_parsed("run")?,
        kind: row.json("kind")?,
        created_at: row.time("created_at")?,
    })
}
