//! Archives of run logs: their rows, and those of the events that they take the place of.

use astraforge_core::{
    id::RequestId,
    ports::store::{RestingLog, StoreError},
    run_log::LogArchive,
};

use super::{
    Dialect,
    error::failed,
    log::may_grow,
    row::{Cells, Columns as _, SqlResult, micros, number},
    statement::{Statements, values},
};

/// The condition on a request whose log may be archived, as far as its row and those of runs and jobs tell.
macro_rules! at_rest {
    () => {
        concat!("state IN ('PATCH_READY', 'REVIEWED', 'DONE', 'FAILED', 'CANCELLED') AND NOT (", may_grow!(), ")")
    };
}

pub(super) async fn logs_size(connection: &mut impl Statements) -> SqlResult<u64> {
    let row = connection.row("SELECT CAST(coalesce(sum(n_bytes), 0) AS BIGINT) AS size FROM log_sizes", []).await?;
    row.map_or(Ok(0), |row| row.number("size"))
}

pub(super) async fn resting(connection: &mut impl Statements, limit: u32) -> SqlResult<Vec<RestingLog>> {
    let statement = concat!(
        "SELECT id, updated_at, (SELECT n_bytes FROM log_sizes WHERE request = requests.id) AS size \
         FROM requests WHERE has_events AND ",
        at_rest!(),
        " ORDER BY updated_at, position LIMIT $1"
    );
    connection.rows(statement, values![limit]).await?.iter().map(resting_from_row).collect()
}

pub(super) async fn of_log(connection: &mut impl Statements, request: RequestId) -> SqlResult<Vec<LogArchive>> {
    let statement = "SELECT * FROM log_archives WHERE request = $1 ORDER BY last_seq";
    connection.rows(statement, values![request.to_string()]).await?.iter().map(from_row).collect()
}

/// Puts an archive in the place of the rows of its events, in the transaction of the caller; tells whether it did.
pub(super) async fn archive<D: Dialect>(
    connection: &mut D::Connection,
    archive: &LogArchive,
) -> Result<bool, StoreError> {
    replace::<D>(connection, archive).await.map_err(failed("archive events"))
}

async fn replace<D: Dialect>(connection: &mut D::Connection, archive: &LogArchive) -> SqlResult<bool> {
    let request = archive.request.to_string();
    // Nobody else counts or archives events of this log until the transaction ends.
    if let Some(lock) = D::LOCK_REQUEST {
        connection.rows(lock, values![&request]).await?;
    }
    let statement = concat!("SELECT 1 AS found FROM requests WHERE id = $1 AND ", at_rest!());
    if connection.row(statement, values![&request]).await?.is_none() {
        return Ok(false);
    }
    let last = number(archive.last)?;
    let statement = "SELECT count(*) AS n, coalesce(min(seq), 0) AS first, coalesce(max(seq), 0) AS last, \
                     coalesce(sum(octet_length(kind)), 0) AS size FROM events WHERE request = $1 AND seq <= $2";
    let Some(rows) = connection.row(statement, values![&request, last]).await? else { return Ok(false) };
    let found = (rows.number("first")?, rows.number("last")?, rows.number("n")?);
    if found != (archive.first, archive.last, (archive.last + 1).saturating_sub(archive.first)) {
        return Ok(false);
    }
    let size: i64 = rows.number("size")?;
    add(connection, archive).await?;
    connection.execute("DELETE FROM events WHERE request = $1 AND seq <= $2", values![&request, last]).await?;
    let statement = "UPDATE log_sizes SET n_bytes = CASE WHEN n_bytes > $2 THEN n_bytes - $2 ELSE 0 END \
                     WHERE request = $1";
    connection.execute(statement, values![&request, size]).await?;
    let statement = "UPDATE requests SET has_events = \
                     (SELECT 1 FROM events WHERE request = requests.id LIMIT 1) IS NOT NULL WHERE id = $1";
    connection.execute(statement, values![&request]).await?;
    Ok(true)
}

async fn add(connection: &mut impl Statements, archive: &LogArchive) -> SqlResult<()> {
    let statement = "INSERT INTO log_archives (request, first_seq, last_seq, key, sha256, size, created_at) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let values = values![
        archive.request.to_string(),
        number(archive.first)?,
        number(archive.last)?,
        &archive.key,
        &archive.sha256,
        number(archive.size)?,
        micros(archive.created_at),
    ];
    connection.execute(statement, values).await.map(drop)
}

fn resting_from_row(row: &impl Cells) -> SqlResult<RestingLog> {
    Ok(RestingLog { request: row.parsed("id")?, since: row.time("updated_at")?, size: row.number("size")? })
}

fn from_row(row: &impl Cells) -> SqlResult<LogArchive> {
    Ok(LogArchive {
        request: row.parsed("request")?,
        first: row.number("first_seq")?,
        last: row.number("last_seq")?,
        key: row.string("key")?,
        sha256: row.string("sha256")?,
        size: row.number("size")?,
        created_at: row.time("created_at")?,
    })
}

#[cfg(test)]
mod tests {
    use astraforge_core::request::RequestState;

    use super::may_grow;

    #[test]
    fn the_states_at_rest_are_those_of_the_table() {
        for state in RequestState::ALL {
            assert_eq!(at_rest!().contains(&format!("'{state}'")), state.is_at_rest(), "{state}");
        }
    }
}
