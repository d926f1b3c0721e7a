//! The run log: events in order, without gaps.

use std::collections::HashMap;

use astraforge_core::{
    event::{NewEvent, RunEvent},
    id::{RequestId, RunId},
};
use sqlx::{SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::row::{Columns as _, SqlResult, json, micros, number};

/// Writes events in one statement, and returns the last one's sequence number. The caller holds the write lock, so
/// nobody else counts at the same time.
pub(super) async fn append(connection: &mut SqliteConnection, events: &[NewEvent]) -> SqlResult<u64> {
    let mut last_of: HashMap<RequestId, u64> = HashMap::new();
    let mut rows = Vec::with_capacity(events.len());
    let mut last = 0;
    for event in events {
        let counted = match last_of.get(&event.request) {
            Some(seq) => *seq,
            None => last_seq(connection, event.request).await?,
        };
        last = counted + 1;
        last_of.insert(event.request, last);
        rows.push((event.request, number(last)?, event.run, json(&event.kind)?, micros(event.at)));
    }
    if !rows.is_empty() {
        insert(connection, json(&rows)?).await?;
    }
    Ok(last)
}

/// One statement for any number of rows, so that a batch costs one round trip and one plan.
async fn insert(connection: &mut SqliteConnection, rows: String) -> SqlResult<()> {
    sqlx::query(
        "INSERT INTO events (request, seq, run, kind, created_at) \
         SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?)",
    )
    .bind(rows)
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn last_seq(connection: &mut SqliteConnection, request: RequestId) -> SqlResult<u64> {
    let query = sqlx::query("SELECT coalesce(max(seq), 0) AS seq FROM events WHERE request = ?");
    query.bind(request.to_string()).fetch_one(connection).await?.number("seq")
}

pub(super) async fn after(pool: &SqlitePool, request: RequestId, after: u64, limit: u32) -> SqlResult<Vec<RunEvent>> {
    let query = sqlx::query("SELECT * FROM events WHERE request = ? AND seq > ? ORDER BY seq LIMIT ?");
    // A number that SQLite cannot hold is after every event.
    let query = query.bind(request.to_string()).bind(i64::try_from(after).unwrap_or(i64::MAX)).bind(limit);
    query.fetch_all(pool).await?.iter().map(from_row).collect()
}

pub(super) async fn of_run(pool: &SqlitePool, run: RunId) -> SqlResult<Vec<RunEvent>> {
    let query = sqlx::query("SELECT * FROM events WHERE run = ? ORDER BY seq").bind(run.to_string());
    query.fetch_all(pool).await?.iter().map(from_row).collect()
}

fn from_row(row: &SqliteRow) -> SqlResult<RunEvent> {
    Ok(RunEvent {
        seq: row.number("seq")?,
        request_id: row.parsed("request")?,
        run_id: row.maybe_parsed("run")?,
        kind: row.json("kind")?,
        created_at: row.time("created_at")?,
    })
}
