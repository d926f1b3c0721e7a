//! A commit: every change, in the order that keeps the rules of the tables.

use astraforge_core::ports::store::{Changes, StoreError};

use super::{
    Dialect, changes,
    error::{failed, taken},
    jobs, log, requests, runs,
};

/// Applies changes, in the transaction of the caller, and returns the number of the last event.
pub(super) async fn apply<D: Dialect>(connection: &mut D::Connection, changes: &Changes) -> Result<u64, StoreError> {
    // The request first: the rest refers to it. And requests before jobs, always: who locks them in another order waits
    // for one that waits for it.
    if let Some(change) = &changes.request {
        requests::write(connection, change).await?;
    }
    log::lock::<D>(connection, &changes.events).await.map_err(failed("write events"))?;
    if let Some(claim) = changes.claim
        && !jobs::holds::<D>(connection, claim).await.map_err(failed("look at a claim"))?
    {
        return Err(StoreError::ClaimLost { job: claim.job });
    }
    if let Some((job, seen)) = changes.seen_job
        && !jobs::stands(connection, job, seen).await.map_err(failed("look at a job"))?
    {
        return Err(StoreError::JobMoved { job, seen });
    }
    apply_conversation::<D>(connection, changes).await?;
    for run in &changes.runs {
        runs::write(connection, run).await?;
    }
    apply_outcome::<D>(connection, changes).await?;
    for job in &changes.new_jobs {
        jobs::queue(connection, job).await.map_err(taken("queue a job", "job", job.id))?;
    }
    for ended in &changes.ended_jobs {
        jobs::end(connection, ended).await.map_err(failed("end a job"))?;
    }
    for job in &changes.handed_back_jobs {
        jobs::hand_back(connection, *job).await.map_err(failed("give a job back"))?;
    }
    for failure in &changes.failed_jobs {
        jobs::fail(connection, failure).await.map_err(failed("note that a job failed"))?;
    }
    for revived in &changes.revived_jobs {
        jobs::revive(connection, *revived).await.map_err(failed("have a job tried again"))?;
    }
    let last_seq = log::append::<D>(connection, &changes.events).await.map_err(failed("write events"))?;
    match &changes.request {
        Some(change) => log::last_seq::<D>(connection, change.request.id).await.map_err(failed("read the log")),
        None => Ok(last_seq),
    }
}

async fn apply_conversation<D: Dialect>(connection: &mut D::Connection, changes: &Changes) -> Result<(), StoreError> {
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

async fn apply_outcome<D: Dialect>(connection: &mut D::Connection, changes: &Changes) -> Result<(), StoreError> {
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
