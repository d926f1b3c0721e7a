//! The worker: takes jobs from the queue, one at a time, and sees them through.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt,
    future::{Either, select},
};
use tracing::{error, info, warn};

use crate::{
    cancel::Cancellation,
    command::{OpenMergeRequest, ReviewMergeRequest},
    error::{ForgeError, chain},
    event::EventKind,
    forge::Forge,
    id::RunId,
    job::{Job, JobKind},
    ports::store::{Changes, EndedJob},
    run::{FailureCause, RunFailure, RunStatus},
};

mod execution;

/// Works through the queue. Start as many as runs may be at work at the same time.
///
/// A worker has no runtime of its own: [`run`](Self::run) is an ordinary future.
#[derive(Debug, Clone)]
pub struct Worker {
    forge: Forge,
}

impl Worker {
    /// How long a worker waits for work before it looks by itself.
    const LOOK_AGAIN: Duration = Duration::from_secs(1);
    /// How long a store that refuses the end of a job is asked again.
    const PATIENCE: Duration = Duration::from_secs(3600);
    /// How long it is left alone after the first refusal; each time twice as long.
    const FIRST_PAUSE: Duration = Duration::from_millis(100);
    /// How long it is left alone at most.
    const LONGEST_PAUSE: Duration = Duration::from_secs(10);

    /// A worker for the queue of `forge`.
    #[must_use]
    pub fn new(forge: Forge) -> Self {
        Self { forge }
    }

    /// Settles what an earlier process left at work: runs that had begun have failed; runs that had not, publications
    /// and reviews wait again.
    ///
    /// To be called once, before any worker runs, and after the sandboxes of that process were removed.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn recover(&self) -> Result<usize, ForgeError> {
        let left = self.forge.store().running_jobs().await?;
        for job in &left {
            warn!(job.id = %job.id, request.id = %job.request, "an earlier process left this job at work");
            match job.kind {
                JobKind::Execute { run } if !self.has_begun(job, run).await? => self.queue_again(job).await?,
                JobKind::Execute { run } => {
                    let message = "The server stopped while this run was at work, so its workspace is gone. \
                                   Nothing was published. Execute the request again to start over.";
                    let failure = RunFailure::new(FailureCause::Interrupted, message);
                    execution::settle(self.forge.ports(), job, run, Arc::new(Err(failure))).await?;
                }
                JobKind::OpenMergeRequest { .. } | JobKind::Review { .. } => self.queue_again(job).await?,
            }
        }
        Ok(left.len())
    }

    async fn has_begun(&self, job: &Job, run: RunId) -> Result<bool, ForgeError> {
        let run = self.forge.store().run(&job.tenant, run).await?;
        Ok(run.is_none_or(|run| run.status != RunStatus::Queued))
    }

    /// Works until `stop` is called; a run at work is then ended, and settled as interrupted.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the job at work marked as running, for [`recover`](Self::recover).
    pub async fn run(&self, stop: Cancellation) {
        let journal = self.forge.journal().clone();
        let mut queue = journal.watch_jobs();
        while !stop.is_cancelled() {
            match self.forge.store().claim_job(journal.clock().now()).await {
                Ok(Some(job)) => {
                    self.work(&job, &stop).await;
                    // The next job of the same request may have waited for this one.
                    journal.wake_jobs();
                    continue;
                }
                Ok(None) => {}
                Err(error) => error!(error = %chain(&error), "cannot take a job; will try again"),
            }
            let wake = select(queue.next(), journal.clock().sleep(Self::LOOK_AGAIN));
            select(wake, std::pin::pin!(stop.cancelled())).await;
        }
    }

    /// Does every job that waits, one after the other, and returns how many there were.
    ///
    /// # Errors
    /// Those of the store when a job cannot be taken. A job that fails is no error here: it has told why in the log.
    pub async fn drain(&self) -> Result<usize, ForgeError> {
        let journal = self.forge.journal();
        let mut n_done = 0;
        while let Some(job) = self.forge.store().claim_job(journal.clock().now()).await? {
            self.work(&job, &Cancellation::never()).await;
            n_done += 1;
        }
        Ok(n_done)
    }

    /// Does one job, and writes how it ended.
    async fn work(&self, job: &Job, stop: &Cancellation) {
        let began = self.forge.journal().clock().now();
        let done = AssertUnwindSafe(self.carry_out(job, stop)).catch_unwind().await;
        let error = match done {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(chain(&error)),
            Err(_panic) => Some("something of ours broke; the server's log has details".to_owned()),
        };
        let duration_ms = (self.forge.journal().clock().now() - began).num_milliseconds();
        match &error {
            None => info!(job.id = %job.id, request.id = %job.request, kind = ?job.kind, duration_ms, "job done"),
            Some(error) => {
                warn!(job.id = %job.id, request.id = %job.request, kind = ?job.kind, duration_ms, error, "job failed");
            }
        }
        if !matches!(job.kind, JobKind::Execute { .. }) {
            self.insist(job, stop, || self.end(job, error.clone())).await;
        }
    }

    async fn carry_out(&self, job: &Job, stop: &Cancellation) -> Result<(), ForgeError> {
        match job.kind {
            JobKind::Execute { run } => self.execute(job, run, stop).await,
            JobKind::OpenMergeRequest { change_set } => {
                let tenant = job.tenant.clone();
                let command = OpenMergeRequest { tenant, request: job.request, change_set };
                self.forge.open_merge_request(command).await.map(drop)
            }
            JobKind::Review { merge_request } => {
                let command = ReviewMergeRequest { tenant: job.tenant.clone(), merge_request };
                self.forge.review(command).await.map(drop)
            }
        }
    }

    /// Does a run, and writes how it ended, which ends its job too.
    async fn execute(&self, job: &Job, run: RunId, stop: &Cancellation) -> Result<(), ForgeError> {
        let ports = self.forge.ports();
        // Known until the end is written: what failed may tell of them.
        let mut secrets = Vec::new();
        let result = AssertUnwindSafe(execution::execute(ports, job, run, stop, &mut secrets)).catch_unwind().await;
        let result = result.unwrap_or_else(|_panic| {
            Err(RunFailure::new(FailureCause::Internal, "Something of ours broke; the server's log has details"))
        });
        let failure = result.as_ref().err().cloned();
        let result = Arc::new(result);
        if !self.insist(job, stop, || execution::settle(ports, job, run, result.clone())).await && failure.is_none() {
            let message = "What this run did could not be written; look at the server's log, and execute it again.";
            let lost = Arc::new(Err(RunFailure::new(FailureCause::Internal, message)));
            self.insist(job, stop, || execution::settle(ports, job, run, lost.clone())).await;
        }
        failure.map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// Writes how a job ended, again and again while the store refuses: a job without an end blocks its request. Tells
    /// whether it was written; if not, [`recover`](Self::recover) settles the job at the next start.
    async fn insist<F>(&self, job: &Job, stop: &Cancellation, write: impl Fn() -> F) -> bool
    where
        F: Future<Output = Result<(), ForgeError>> + Send,
    {
        let clock = self.forge.journal().clock();
        let give_up = clock.now() + Self::PATIENCE;
        let mut pause = Self::FIRST_PAUSE;
        loop {
            let Err(error) = write().await else { return true };
            error!(job.id = %job.id, error = %chain(&error), "cannot write how a job ended");
            if stop.is_cancelled() || !error.is_retryable() || clock.now() >= give_up {
                return false;
            }
            select(clock.sleep(pause), std::pin::pin!(stop.cancelled())).await;
            pause = (pause * 2).min(Self::LONGEST_PAUSE);
        }
    }

    /// Ends a job, and tells an error in the log.
    async fn end(&self, job: &Job, error: Option<String>) -> Result<(), ForgeError> {
        let journal = self.forge.journal();
        let stage = match job.kind {
            JobKind::Execute { .. } => "execution",
            JobKind::OpenMergeRequest { .. } => "mr",
            JobKind::Review { .. } => "review",
        };
        let events = error.clone().map(|message| {
            let kind = EventKind::Error { stage: Some(stage.to_owned()), message, output: None, exit_code: None };
            journal.event(job.request, None, kind)
        });
        let changes = Changes {
            ended_jobs: vec![EndedJob { id: job.id, error }],
            events: events.into_iter().collect(),
            ..Changes::default()
        };
        Ok(journal.commit(changes).await?)
    }

    /// Puts a job back to where it stood in the queue.
    async fn queue_again(&self, job: &Job) -> Result<(), ForgeError> {
        let journal = self.forge.journal();
        let again = Job::new(job.tenant.clone(), job.request, job.kind, job.created_at);
        let ended = EndedJob { id: job.id, error: Some("the server stopped; queued again".to_owned()) };
        Ok(journal.commit(Changes { new_jobs: vec![again], ended_jobs: vec![ended], ..Changes::default() }).await?)
    }
}

/// Waits for whichever comes first.
async fn either<A: Send, B: Send>(
    a: impl Future<Output = A> + Send,
    b: impl Future<Output = B> + Send,
) -> Either<A, B> {
    match select(std::pin::pin!(a), std::pin::pin!(b)).await {
        Either::Left((a, _)) => Either::Left(a),
        Either::Right((b, _)) => Either::Right(b),
    }
}
