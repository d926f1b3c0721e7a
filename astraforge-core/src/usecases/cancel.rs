//! Stops what is at work, drops what is queued, and settles the request as cancelled.

use futures::FutureExt;

use crate::{
    access::Action,
    command::{CancelRun, CancelTarget},
    error::ForgeError,
    event::EventKind,
    id::{RequestId, RunId},
    job::JobKind,
    ports::store::{Changes, EndedJob},
    request::{Request, RequestState},
    run::{FailureCause, Run, RunFailure, RunStatus},
    usecases::decide,
    wiring::Ports,
};

/// Carries out [`CancelRun`].
///
/// A run at work is only asked to stop here; the worker that holds it ends it and settles the request.
pub(crate) async fn cancel(ports: &Ports, command: CancelRun) -> Result<Request, ForgeError> {
    command.caller.may(Action::Cancel)?;
    let tenant = &command.caller.tenant;
    let (id, only) = match command.target {
        CancelTarget::Request(id) => (id, None),
        CancelTarget::Run(run) => {
            let found = ports.journal.store().run(tenant, run).await?;
            (found.ok_or_else(|| ForgeError::not_found("Run"))?.request, Some(run))
        }
    };
    let request = decide(ports, tenant, id, |ports, request| cancel_in(ports, request, only).boxed()).await?;
    ports.journal.wake_jobs();
    Ok(request)
}

async fn cancel_in(
    ports: &Ports,
    mut request: Request,
    only: Option<RunId>,
) -> Result<(Option<Request>, Changes, Request), ForgeError> {
    let now = ports.journal.clock().now();
    let runs = ports.journal.store().runs_of(request.id).await?;
    let wanted = |run: &Run| only.is_none_or(|id| id == run.id);
    let open: Vec<&Run> = runs.iter().filter(|run| wanted(run) && !run.status.is_over()).collect();
    if let (true, Some(id)) = (open.is_empty(), only) {
        return Err(ForgeError::conflict(format!("run {id} is over already; there is nothing to cancel")));
    }

    let mut changes = drop_jobs(ports, request.id, &open).await?;
    let mut at_work = false;
    for run in open {
        let mut run = run.clone();
        run.cancel_requested = true;
        if run.status == RunStatus::Queued {
            run.status = RunStatus::Cancelled;
            run.finished_at = Some(now);
            run.failure = Some(RunFailure::new(FailureCause::Cancelled, "Cancelled before it began"));
            let message = "Run cancelled before it began".to_owned();
            changes.events.push(ports.journal.event(request.id, Some(run.id), EventKind::Cancelled { message }));
        } else {
            at_work = true;
            let stopping = EventKind::status("cancel", "Stopping the run");
            changes.events.push(ports.journal.event(request.id, Some(run.id), stopping));
        }
        changes.runs.push(run);
    }
    // A run at work is settled by its worker; a request with another run at work is not cancelled with this one.
    let others_open = runs.iter().any(|run| !wanted(run) && !run.status.is_over());
    if !at_work && !others_open {
        request.become_state(RequestState::Cancelled, now)?;
    }
    Ok((Some(request.clone()), changes, request))
}

/// Takes the jobs of runs that have not begun out of the queue.
async fn drop_jobs(ports: &Ports, request: RequestId, runs: &[&Run]) -> Result<Changes, ForgeError> {
    let jobs = ports.journal.store().waiting_jobs(request).await?;
    let dropped = jobs.into_iter().filter(|job| match job.kind {
        JobKind::Execute { run } => runs.iter().any(|open| open.id == run && open.status == RunStatus::Queued),
        _ => false,
    });
    let ended_jobs = dropped.map(|job| EndedJob { id: job.id, error: Some("cancelled".to_owned()) }).collect();
    Ok(Changes { ended_jobs, ..Changes::default() })
}
