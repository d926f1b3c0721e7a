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
    let mut last_of: BTreeMap<RequestId, u64> = events.iter().map(|event| (event.request, 0)).collect();
    for (request, last) in &mut last_of {
        *last = last_seq::<D>(connection, *request).await?;
    }
    let mut rows = Vec::with_capacity(events.len());
    let mut last = 0;
    for event in events {
        let counted = last_of.entry(event.request).or_default();
        *counted += 1;
        last = *counted;
        rows.push((event.request, number(last)?, event.run, json(&event.kind)?, micros(event.at)));
    }
    if !rows.is_empty() {
        // One statement for any number of rows, so that a batch costs one round trip and one plan.
        connection.execute(D::INSERT_EVENTS, values![json(&rows)?]).await?;
    }
    Ok(last)
}

pub(super) async fn last_seq<D: Dialect>(connection: &mut D::Connection, request: RequestId) -> SqlResult<u64> {
    let statement = "SELECT coalesce(max(seq), 0) AS seq FROM events WHERE request = $1";
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
    let statement = "SELECT id, (SELECT coalesce(max(seq), 0) FROM events WHERE request = recent.id) AS last FROM (\
                     SELECT * FROM (SELECT id, updated_at, position FROM requests WHERE updated_at >= $1 \
                     ORDER BY updated_at DESC, position DESC LIMIT $2) AS changed UNION ALL \
                     SELECT id, updated_at, position FROM requests WHERE updated_at < $1 \
                     AND id IN (SELECT request FROM jobs WHERE state = 'running')\
                     ) AS recent ORDER BY updated_at DESC, position DESC LIMIT $2";
    let rows = connection.rows(statement, [micros(since).into(), limit.into()]).await?;
    rows.iter().map(|row| Ok(LogEnd { request: row.parsed("id")?, last: row.number("last")? })).collect()
}

/// Reads how logs stand. `$wanted` is the condition on a request's `id`, with the placeholder for a list in JSON.
///
/// The questions about runs and jobs are no `EXISTS`, which PostgreSQL answers by reading a table from end to end when it
/// expects many requests.
macro_rules! standing {
    ($wanted:literal) => {
        concat!(
            "SELECT id, (SELECT coalesce(max(seq), 0) FROM events WHERE request = requests.id) AS last, \
             ((SELECT 1 FROM runs WHERE request = requests.id LIMIT 1) IS NULL \
             OR (SELECT 1 FROM runs WHERE request = requests.id AND status IN ('queued', 'running') LIMIT 1) = 1 \
             OR (SELECT 1 FROM jobs WHERE request = requests.id AND state = 'waiting' LIMIT 1) = 1 \
             OR (SELECT 1 FROM jobs WHERE request = requests.id AND state = 'running' LIMIT 1) = 1) IS TRUE \
             AS may_grow FROM requests WHERE ",
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
