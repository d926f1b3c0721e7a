//! What whoever runs the server can do about dead jobs: have them tried again, or drop them.

use super::{JobState, QueuedJob};
use crate::{
    error::ForgeError,
    event::EventKind,
    id::JobId,
    journal::Journal,
    ports::store::{Changes, EndedJob},
};

/// Has a job tried again that is dead, or at once if it waits for its time. Its failures are forgotten.
///
/// # Errors
/// [`ForgeError::NotFound`] for a job that is over or unknown, [`ForgeError::Conflict`] for one that is at work, and those
/// of the store, [`StoreError::JobMoved`](crate::ports::store::StoreError::JobMoved) when somebody is faster.
pub async fn retry(journal: &Journal, id: JobId) -> Result<QueuedJob, ForgeError> {
    let queued = find(journal, id).await?;
    if queued.state == JobState::Running {
        return Err(ForgeError::conflict(format!("job {id} is running; see what becomes of it")));
    }
    let request = queued.job.request;
    let event = journal.event(request, None, EventKind::status("queue", "Tried again by whoever runs the server"));
    write(journal, queued, Changes { revived_jobs: vec![id], events: vec![event], ..Changes::default() }).await
}

/// Ends a dead job without its work, and tells why in the log of its request.
///
/// # Errors
/// [`ForgeError::NotFound`] for a job that is over or unknown, [`ForgeError::Conflict`] for one that is not dead, and those
/// of the store, [`StoreError::JobMoved`](crate::ports::store::StoreError::JobMoved) when somebody is faster.
pub async fn drop(journal: &Journal, id: JobId) -> Result<QueuedJob, ForgeError> {
    let queued = find(journal, id).await?;
    if queued.state != JobState::Dead {
        let state = queued.state;
        return Err(ForgeError::conflict(format!(
            "job {id} is {state}; only dead ones are dropped: cancel its request"
        )));
    }
    let why = queued.error.as_deref().unwrap_or("nobody knows why it failed");
    let message = format!("dropped by whoever runs the server: {why}");
    let event = journal.event(queued.job.request, None, queued.job.kind.failed(message.clone()));
    let ended = EndedJob { id, error: Some(message) };
    write(journal, queued, Changes { ended_jobs: vec![ended], events: vec![event], ..Changes::default() }).await
}

/// Writes what is right for a job as it was found.
async fn write(journal: &Journal, found: QueuedJob, changes: Changes) -> Result<QueuedJob, ForgeError> {
    let seen_job = Some((found.job.id, found.state));
    journal.commit(Changes { seen_job, ..changes }).await?;
    Ok(found)
}

async fn find(journal: &Journal, id: JobId) -> Result<QueuedJob, ForgeError> {
    let queued = journal.store().job(id).await?;
    queued.ok_or_else(|| ForgeError::not_found(format!("Job {id}, waiting, running or dead,")))
}
