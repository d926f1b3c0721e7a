//! A commit: everything in one transaction.

use astraforge_core::ports::store::{Changes, StoreError};
use sqlx::{Connection as _, Sqlite, SqliteConnection, SqlitePool, pool::PoolConnection};

use super::{
    changes,
    error::{failed, taken},
    jobs, log, requests,
    row::SqlResult,
    runs,
};

/// Applies changes; a transaction that is dropped on the way, by an error or with its future, is rolled back.
pub(super) async fn commit(writer: &SqlitePool, changes: &Changes) -> Result<u64, StoreError> {
    let mut connection = sound_connection(writer).await.map_err(failed("begin a commit"))?;
    let result = transact(&mut connection, changes).await;
    if matches!(result, Err(StoreError::Backend { .. })) {
        connection.close_on_drop();
    }
    result
}

/// Takes the connection that writes, or a new one if the last commit left it in a state of its own.
///
/// After some errors, such as a disk that is full at `COMMIT`, SQLite ends the transaction by itself. sqlx still counts
/// it as open, and would refuse every later one.
async fn sound_connection(writer: &SqlitePool) -> SqlResult<PoolConnection<Sqlite>> {
    loop {
        let mut connection = writer.acquire().await?;
        // The answer also says that a rollback which was queued before it is done.
        connection.ping().await?;
        if !connection.is_in_transaction() {
            return Ok(connection);
        }
        connection.close().await?;
    }
}

async fn transact(connection: &mut SqliteConnection, changes: &Changes) -> Result<u64, StoreError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed("begin a commit"))?;
    let last_seq = apply(&mut transaction, changes).await?;
    transaction.commit().await.map_err(failed("end a commit"))?;
    Ok(last_seq)
}

async fn apply(connection: &mut SqliteConnection, changes: &Changes) -> Result<u64, StoreError> {
    // The request first: the rest refers to it.
    if let Some(change) = &changes.request {
        requests::write(connection, change).await?;
    }
    apply_conversation(connection, changes).await?;
    for run in &changes.runs {
        runs::write(connection, run).await?;
    }
    apply_outcome(connection, changes).await?;
    for job in &changes.new_jobs {
        jobs::queue(connection, job).await.map_err(taken("queue a job", "job", job.id))?;
    }
    for ended in &changes.ended_jobs {
        jobs::end(connection, ended).await.map_err(failed("end a job"))?;
    }
    let last_seq = log::append(connection, &changes.events).await.map_err(failed("write events"))?;
    match &changes.request {
        Some(change) => log::last_seq(connection, change.request.id).await.map_err(failed("read the log")),
        None => Ok(last_seq),
    }
}

async fn apply_conversation(connection: &mut SqliteConnection, changes: &Changes) -> Result<(), StoreError> {
    for message in &changes.messages {
        let result = requests::add_message(connection, message).await;
        result.map_err(taken("add a message", "message", message.id))?;
    }
    for attachment in &changes.attachments {
        let result = requests::add_attachment(connection, attachment).await;
        result.map_err(taken("add an attachment", "attachment", attachment.id))?;
    }
    Ok(())
}

async fn apply_outcome(connection: &mut SqliteConnection, changes: &Changes) -> Result<(), StoreError> {
    if let Some(change_set) = &changes.change_set {
        let result = changes::add_change_set(connection, change_set).await;
        result.map_err(taken("add a change set", "change set", change_set.id))?;
    }
    if let Some(approval) = &changes.approval {
        let result = changes::add_approval(connection, approval).await;
        result.map_err(taken("add an approval", "approval", approval.id))?;
    }
    if let Some(merge_request) = &changes.merge_request {
        changes::write_merge_request(connection, merge_request).await?;
    }
    Ok(())
}
