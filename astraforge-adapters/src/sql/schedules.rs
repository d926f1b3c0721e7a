//! Schedules: when rounds are due, and who is at them.

use astraforge_core::schedule::Turn;
use chrono::{DateTime, Utc};

use super::{
    row::{Columns as _, SqlResult, micros, number},
    statement::{Statements, values},
};

/// Takes a turn in one statement, so that of many who ask at once one gets it.
pub(super) async fn take(
    connection: &mut impl Statements,
    schedule: &str,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> SqlResult<Option<Turn>> {
    let statement = "INSERT INTO schedules (name, due_at, turn, lease_until) VALUES ($1, $2, 1, $3) \
                     ON CONFLICT (name) DO UPDATE SET turn = schedules.turn + 1, lease_until = $3 \
                     WHERE schedules.due_at <= $2 AND coalesce(schedules.lease_until, 0) < $2 RETURNING turn";
    let taken = connection.row(statement, values![schedule, micros(now), micros(until)]).await?;
    taken.map(|row| Ok(Turn { schedule: schedule.to_owned(), number: row.number("turn")? })).transpose()
}

pub(super) async fn renew(connection: &mut impl Statements, turn: &Turn, until: DateTime<Utc>) -> SqlResult<bool> {
    let statement = "UPDATE schedules SET lease_until = $1 WHERE name = $2 AND turn = $3 AND lease_until IS NOT NULL";
    let values = values![micros(until), &turn.schedule, number(turn.number)?];
    Ok(connection.execute(statement, values).await? > 0)
}

pub(super) async fn end(connection: &mut impl Statements, turn: &Turn, due_at: DateTime<Utc>) -> SqlResult<bool> {
    let statement = "UPDATE schedules SET due_at = $1, lease_until = NULL \
                     WHERE name = $2 AND turn = $3 AND lease_until IS NOT NULL";
    let values = values![micros(due_at), &turn.schedule, number(turn.number)?];
    Ok(connection.execute(statement, values).await? > 0)
}
