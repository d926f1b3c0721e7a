//! Stops what is at work, drops what is queued, and settles the request as cancelled.

use futures::FutureExt;

use crate::{
    access::Action,
    command::{CancelRun, CancelTarget},
    error::ForgeError,
    event::EventKind,
    id::{JobId, RequestId, RunId},
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

    let others_open = runs.iter().any(|run| !wanted(run) && !run.status.is_over());
    let at_work = open.iter().any(|run| run.status != RunStatus::Queued);
    // A run at work is settled by its worker; a request with another run at work is not cancelled with this one.
    let settles = !at_work && !others_open && settles_with(&request, only, open.len());
    if settles {
        check_not_publishing(ports, request.id).await?;
    }

    let mut changes = drop_jobs(ports, request.id, &open, settles).await?;
    if settles && open.is_empty() {
        let cancelled = EventKind::status("cancel", "Request cancelled");
        changes.events.push(ports.journal.event(request.id, None, cancelled));
    }
    for run in open {
        let mut run = run.clone();
        run.cancel_requested = true;
        if run.status == RunStatus::Queued {
            run.status = RunStatus::Cancelled;
            run.finished_at = Some(now);
            let again = if run.attempts.is_empty() { "" } else { " again" };
            let message = format!("Run cancelled before it began{again}");
            run.failure = Some(RunFailure::new(FailureCause::Cancelled, message.clone()));
            changes.events.push(ports.journal.event(request.id, Some(run.id), EventKind::Cancelled { message }));
        } else {
            let stopping = EventKind::status("cancel", "Stopping the run");
            changes.events.push(ports.journal.event(request.id, Some(run.id), stopping));
        }
        changes.runs.push(run);
    }
    if settles {
        request.become_state(RequestState::Cancelled, now)?;
    }
    Ok((Some(request.clone()), changes, request))
}

/// Tells whether a request is cancelled when its last open runs are. A single run takes only a request with it that had
/// nothing else: what waits for approval, is published, or has settled already stays as it is.
fn settles_with(request: &Request, only: Option<RunId>, n_dropped: usize) -> bool {
    use RequestState::{ChatReviewed, Executing, PlanReady, Received, SpecReady};
    match only {
        Some(_) => matches!(request.state, Received | SpecReady | ChatReviewed | PlanReady | Executing),
        None => n_dropped == 0 || !request.state.is_settled(),
    }
}

/// Refuses while a change is on its way to the repository: what leaves in the same moment is not cancelled.
async fn check_not_publishing(ports: &Ports, request: RequestId) -> Result<(), ForgeError> {
    let running = ports.journal.store().running_jobs().await?;
    let publishes = |kind: &JobKind| matches!(kind, JobKind::OpenMergeRequest { .. });
    if running.iter().any(|job| job.request == request && publishes(&job.kind)) {
        return Err(ForgeError::conflict(
            "its change is being published at this moment; cancel again when that is done",
        ));
    }
    Ok(())
}

/// Takes the jobs of runs that have not begun out of the queue; and the publication of a request that is `settled`.
async fn drop_jobs(ports: &Ports, request: RequestId, runs: &[&Run], settled: bool) -> Result<Changes, ForgeError> {
    let waits = |run| runs.iter().any(|open| open.id == run && open.status == RunStatus::Queued);
    let jobs = ports.journal.store().waiting_jobs(request).await?;
    let dropped = jobs.iter().filter(|job| job.kind.run().is_some_and(waits));
    let mut changes = Changes { ended_jobs: dropped.map(|job| ended(job.id)).collect(), ..Changes::default() };
    if settled {
        changes.absorb_jobs(drop_publications(ports, request).await?);
    }
    Ok(changes)
}

/// Takes the publication of a cancelled request out of the queue. One that was tried already may have left something at
/// the host: it is done at once, dead or not, and takes that back.
pub(crate) async fn drop_publications(ports: &Ports, request: RequestId) -> Result<Changes, ForgeError> {
    let store = ports.journal.store();
    let mut changes = Changes::default();
    for job in store.waiting_jobs(request).await?.into_iter().chain(store.dead_jobs(request).await?) {
        match job.kind {
            JobKind::OpenMergeRequest { .. } if job.attempts > 0 => changes.revived_jobs.push(job.id),
            JobKind::OpenMergeRequest { .. } => changes.ended_jobs.push(ended(job.id)),
            _ => {}
        }
    }
    Ok(changes)
}

fn ended(id: JobId) -> EndedJob {
    EndedJob { id, error: Some("cancelled".to_owned()) }
}
