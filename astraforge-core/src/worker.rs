//! The worker: takes jobs from the queue, one at a time, and sees them through.

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use futures::{
    FutureExt, StreamExt,
    future::{Either, select},
};
use tracing::{error, info, warn};

use crate::{
    cancel::{Cancellation, Canceller},
    command::{OpenMergeRequest, ReviewMergeRequest},
    error::{ForgeError, chain},
    event::EventKind,
    forge::Forge,
    id::RunId,
    job::{Claim, Job, JobKind, backoff},
    ports::store::{Changes, EndedJob, FailedJob},
    run::{FailureCause, RunFailure},
    wiring::Ports,
};

mod execution;

/// Works through the queue. Start as many as runs may be at work at the same time.
///
/// A worker has no runtime of its own: [`run`](Self::run) is an ordinary future.
#[derive(Debug, Clone)]
pub struct Worker {
    forge: Forge,
    lease: Duration,
}

impl Worker {
    /// How long a job is held without a sign of life, unless [`with_lease`](Self::with_lease) says otherwise.
    pub const LEASE: Duration = Duration::from_secs(15);
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
        Self { forge, lease: Self::LEASE }
    }

    /// Sets how long a job is held without a sign of life; it is renewed three times as often. So long it takes until
    /// somebody else settles what a worker leaves that was killed; a worker that gets no time or no answer from its
    /// store for so long loses its job. At least a second.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_secs(1));
        self
    }

    /// Settles what an earlier process left at work, though its leases need not have ended: it waits again, and need not
    /// wait long.
    ///
    /// To be called before any worker runs, by a process that knows that there is no other, and after the sandboxes of
    /// the earlier one were removed.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn recover(&self) -> Result<usize, ForgeError> {
        let mut n_settled = 0;
        while self.settle_left(DateTime::<Utc>::MAX_UTC, Duration::ZERO).await? {
            n_settled += 1;
        }
        Ok(n_settled)
    }

    /// Settles one job whose lease ended before `now`, and tells whether there was one: it waits, for `longest` at most,
    /// until its workers have been lost too often.
    async fn settle_left(&self, now: DateTime<Utc>, longest: Duration) -> Result<bool, ForgeError> {
        let Some(job) = self.forge.store().take_over_job(now, self.lease_end()).await? else { return Ok(false) };
        warn!(job.id = %job.id, request.id = %job.request, "whoever was at work on this job is gone");
        let wait = backoff::pause_after(&job).map(|pause| pause.min(longest));
        match job.kind {
            JobKind::Execute { run } => self.lose(&job, run, "its worker is gone", wait).await?,
            _ => self.fail(&job, "its worker is gone; look at the server's log", wait).await?,
        }
        Ok(true)
    }

    /// Has a run wait that lost its worker, for `wait`; without one that happened too often, and the run has failed.
    async fn lose(&self, job: &Job, run: RunId, why: &str, wait: Option<Duration>) -> Result<(), ForgeError> {
        let ports = self.forge.ports().under(job.claim());
        if wait.is_none() {
            return execution::settle(&ports, job, run, Arc::new(Err(lost_too_often()))).await;
        }
        let changes = self.failed(job, &format!("{why}; look at the server's log"), wait);
        execution::set_back(&ports, job, run, why, &changes).await
    }

    /// Works until `stop` is called; a run at work is then ended, and waits for a worker that begins it anew.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the job at work marked as running: whoever looks for work settles it once its lease has
    /// ended, [`recover`](Self::recover) at once.
    pub async fn run(&self, stop: Cancellation) {
        self.run_until(stop.clone(), stop).await;
    }

    /// Works until `drain` is called, and sees the job through that it is at then; `stop` ends that too, as for
    /// [`run`](Self::run).
    ///
    /// # Cancel safety
    /// That of [`run`](Self::run).
    pub async fn run_until(&self, drain: Cancellation, stop: Cancellation) {
        let journal = self.forge.journal().clone();
        let mut queue = journal.watch_jobs();
        while !drain.is_cancelled() && !stop.is_cancelled() {
            match self.next_job().await {
                Ok(Some((job, until))) => {
                    self.work(&job, until, &stop).await;
                    // The next job of the same request may have waited for this one.
                    journal.wake_jobs();
                    continue;
                }
                Ok(None) => {}
                Err(error) => error!(error = %chain(&error), "cannot take a job; will try again"),
            }
            let wake = select(queue.next(), journal.clock().sleep(Self::LOOK_AGAIN));
            select(wake, std::pin::pin!(either(drain.cancelled(), stop.cancelled()))).await;
        }
    }

    /// Does every job that waits, one after the other, and returns how many there were.
    ///
    /// # Errors
    /// Those of the store when a job cannot be taken. A job that fails is no error here: it has told why in the log.
    pub async fn drain(&self) -> Result<usize, ForgeError> {
        let mut n_done = 0;
        while let Some((job, until)) = self.next_job().await? {
            self.work(&job, until, &Cancellation::never()).await;
            n_done += 1;
        }
        Ok(n_done)
    }

    /// Takes the next job, after it has settled what others left. Tells too when the lease on it ends, counted from when
    /// it was asked for: the answer may have been on its way for long.
    async fn next_job(&self) -> Result<Option<(Job, DateTime<Utc>)>, ForgeError> {
        let now = self.forge.journal().clock().now();
        while self.settle_left(now, Duration::MAX).await? {}
        let limits = self.forge.ports().settings.limits;
        let until = self.lease_end();
        let claimed = self.forge.store().claim_job(now, until, limits).await?;
        Ok(claimed.map(|job| (job, until)))
    }

    fn lease_end(&self) -> DateTime<Utc> {
        self.forge.journal().clock().now() + self.lease
    }

    /// Does one job, and holds it meanwhile; its lease lasts `until` then.
    async fn work(&self, job: &Job, until: DateTime<Utc>, stop: &Cancellation) {
        let (canceller, ends) = Cancellation::pair();
        let hold = self.hold(job.claim(), until, stop, &canceller);
        match either(self.see_through(job, &ends, stop).boxed(), hold).await {
            Either::Left(()) => {}
            Either::Right(never) => match never {},
        }
    }

    /// Renews the lease of a job for ever. Has the job end when the worker is to stop, or no longer holds it.
    async fn hold(
        &self,
        claim: Claim,
        mut ends_at: DateTime<Utc>,
        stop: &Cancellation,
        canceller: &Canceller,
    ) -> Infallible {
        let clock = self.forge.journal().clock();
        let has_ended = |ends_at: DateTime<Utc>| clock.now() >= ends_at;
        // Not beyond the lease's end, while it has not come.
        let pause = |ends_at: DateTime<Utc>| match (ends_at - clock.now()).to_std() {
            Ok(left) if !left.is_zero() => left.min(self.lease / 3),
            _ => self.lease / 3,
        };
        if has_ended(ends_at) {
            canceller.cancel();
        }
        loop {
            if stop.is_cancelled() {
                canceller.cancel();
                clock.sleep(pause(ends_at)).await;
            } else if let Either::Right(()) = either(clock.sleep(pause(ends_at)), stop.cancelled()).await {
                continue;
            }
            if has_ended(ends_at) {
                canceller.cancel();
                yield_now().await;
            }
            let until = self.lease_end();
            // A store that does not answer is one that refuses.
            match either(self.forge.store().renew_lease(claim, until), clock.sleep(pause(ends_at))).await {
                Either::Left(Ok(true)) => ends_at = until,
                Either::Left(Ok(false)) => canceller.cancel(),
                Either::Left(Err(error)) => {
                    error!(job.id = %claim.job, error = %chain(&error), "cannot renew the lease of a job");
                }
                Either::Right(()) => error!(job.id = %claim.job, "the store does not answer to renew a lease"),
            }
            if has_ended(ends_at) {
                canceller.cancel();
            }
            // Whoever works gets a turn, whatever the clock is like.
            yield_now().await;
        }
    }

    /// Does one job, and writes how it ended. `ends` is told when it is to end, because the worker is to `stop` or has lost
    /// the job.
    async fn see_through(&self, job: &Job, ends: &Cancellation, stop: &Cancellation) {
        let began = self.forge.journal().clock().now();
        let done = AssertUnwindSafe(self.carry_out(job, ends, stop)).catch_unwind().await;
        let (error, may_pass) = match done {
            Ok(Ok(())) => (None, false),
            Ok(Err(error)) => (Some(chain(&error)), error.is_retryable()),
            Err(_panic) => (Some("something of ours broke; the server's log has details".to_owned()), false),
        };
        let duration_ms = (self.forge.journal().clock().now() - began).num_milliseconds();
        match &error {
            None => info!(job.id = %job.id, request.id = %job.request, kind = ?job.kind, duration_ms, "job done"),
            Some(error) => {
                warn!(job.id = %job.id, request.id = %job.request, kind = ?job.kind, duration_ms, error, "job failed");
            }
        }
        match error {
            // The end of a run ends its job too.
            _ if matches!(job.kind, JobKind::Execute { .. }) => {}
            Some(error) if may_pass => {
                let wait = backoff::pause_after(job);
                self.insist(job, ends, || self.fail(job, &error, wait)).await;
            }
            error => _ = self.insist(job, ends, || self.end(job, error.clone())).await,
        }
    }

    async fn carry_out(&self, job: &Job, ends: &Cancellation, stop: &Cancellation) -> Result<(), ForgeError> {
        match job.kind {
            JobKind::Execute { run } => self.execute(job, run, ends, stop).await,
            JobKind::OpenMergeRequest { change_set } => {
                let tenant = job.tenant.clone();
                let claim = Some(job.claim());
                let command = OpenMergeRequest { tenant, request: job.request, change_set, claim };
                self.forge.open_merge_request(command).await.map(drop)
            }
            JobKind::Review { merge_request } => {
                let claim = Some(job.claim());
                let command = ReviewMergeRequest { tenant: job.tenant.clone(), merge_request, claim };
                self.forge.review(command).await.map(drop)
            }
        }
    }

    /// Does a run, and writes how it ended, which ends its job too.
    async fn execute(&self, job: &Job, run: RunId, ends: &Cancellation, stop: &Cancellation) -> Result<(), ForgeError> {
        let ports = &self.forge.ports().under(job.claim());
        // Known until the end is written: what failed may tell of them.
        let mut secrets = Vec::new();
        let result = AssertUnwindSafe(execution::execute(ports, job, run, ends, &mut secrets)).catch_unwind().await;
        let result = result.unwrap_or_else(|_panic| {
            Err(RunFailure::new(FailureCause::Internal, "Something of ours broke; the server's log has details"))
        });
        let failure = result.as_ref().err().cloned();
        let result = Arc::new(result);
        let is_interrupted = failure.as_ref().is_some_and(|failure| failure.cause == FailureCause::Interrupted);
        if is_interrupted && stop.is_cancelled() {
            self.insist(job, ends, || self.hand_back(ports, job, run)).await;
        } else if is_interrupted {
            let wait = backoff::pause_after(job);
            self.insist(job, ends, || self.lose(job, run, "its worker lost hold of it", wait)).await;
        } else if !self.insist(job, ends, || execution::settle(ports, job, run, result.clone())).await
            && failure.is_none()
            && !stop.is_cancelled()
        {
            let message = "What this run did could not be written; look at the server's log, and execute it again.";
            let lost = Arc::new(Err(RunFailure::new(FailureCause::Internal, message)));
            self.insist(job, ends, || execution::settle(ports, job, run, lost.clone())).await;
        }
        failure.map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// Gives a run back that was to stop with its worker.
    async fn hand_back(&self, ports: &Ports, job: &Job, run: RunId) -> Result<(), ForgeError> {
        const WHY: &str = "The server was stopped";
        let again = EventKind::status("queue", format!("{WHY}; another worker begins the run anew"));
        let changes = Changes {
            handed_back_jobs: vec![job.id],
            events: vec![ports.journal.event(job.request, Some(run), again)],
            ..Changes::default()
        };
        execution::set_back(ports, job, run, WHY, &changes).await
    }

    /// Writes how a job ended, again and again while the store refuses: a job without an end blocks its request. Tells
    /// whether it was written; if not, the job is settled once its lease has ended.
    async fn insist<F>(&self, job: &Job, ends: &Cancellation, write: impl Fn() -> F) -> bool
    where
        F: Future<Output = Result<(), ForgeError>> + Send,
    {
        let clock = self.forge.journal().clock();
        let give_up = clock.now() + Self::PATIENCE;
        let mut pause = Self::FIRST_PAUSE;
        loop {
            let Err(error) = write().await else { return true };
            error!(job.id = %job.id, error = %chain(&error), "cannot write how a job ended");
            if ends.is_cancelled() || !error.is_retryable() || clock.now() >= give_up {
                return false;
            }
            select(clock.sleep(pause), std::pin::pin!(ends.cancelled())).await;
            pause = (pause * 2).min(Self::LONGEST_PAUSE);
        }
    }

    /// Ends a job, and tells an error in the log.
    async fn end(&self, job: &Job, error: Option<String>) -> Result<(), ForgeError> {
        let journal = self.forge.journal();
        let events = error.clone().map(|message| journal.event(job.request, None, job.kind.failed(message)));
        let changes = Changes {
            claim: Some(job.claim()),
            ended_jobs: vec![EndedJob { id: job.id, error }],
            events: events.into_iter().collect(),
            ..Changes::default()
        };
        journal.commit(changes).await?;
        journal.wake_log(job.request);
        Ok(())
    }

    /// Has a job wait that failed for a reason that may pass; without a `wait` it is dead. The log tells both.
    async fn fail(&self, job: &Job, error: &str, wait: Option<Duration>) -> Result<(), ForgeError> {
        Ok(self.forge.journal().commit(self.failed(job, error, wait)).await?)
    }

    fn failed(&self, job: &Job, error: &str, wait: Option<Duration>) -> Changes {
        let journal = self.forge.journal();
        let n_failed = job.failures + 1;
        let kind = match wait {
            Some(wait) => {
                let when = match wait.as_secs() {
                    _ if wait.is_zero() => "now".to_owned(),
                    seconds => format!("in about {} s", seconds.max(1)),
                };
                let most = backoff::MOST_FAILURES;
                EventKind::status("queue", format!("{error}; tried again {when} (failure {n_failed} of {most})"))
            }
            None => {
                let message = format!(
                    "{error}; given up after {n_failed} failures. Whoever runs the server can have it tried again: \
                     astraforge jobs retry {}",
                    job.id
                );
                job.kind.failed(message)
            }
        };
        let not_before = wait.map(|wait| journal.clock().now() + wait);
        Changes {
            claim: Some(job.claim()),
            failed_jobs: vec![FailedJob { id: job.id, error: error.to_owned(), not_before }],
            events: vec![journal.event(job.request, job.kind.run(), kind)],
            ..Changes::default()
        }
    }
}

/// Why a run is over that was begun so often that another time would not help.
fn lost_too_often() -> RunFailure {
    let message = "The worker of this run was lost again and again. Nothing was published. Look at the server's log, \
                   then execute the request again.";
    RunFailure::new(FailureCause::Interrupted, message)
}

/// Lets others have a turn.
async fn yield_now() {
    let mut has_yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
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
