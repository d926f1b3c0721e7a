//! One run, from the claimed job to the change that waits for approval.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{FutureExt, StreamExt, future::Either};

use super::either;
use crate::{
    audit::Actor,
    cancel::Cancellation,
    error::{ForgeError, chain},
    event::EventKind,
    id::{MessageId, RunId},
    job::Job,
    ports::{
        executor::{AgentOutcome, Assignment, Thread},
        git::{Base, GitError},
        store::{Changes, EndedJob, StoreError},
    },
    redact::KnownSecret,
    repository::RepositoryLink,
    request::{
        Attachment, Message, MessageRole, Request, RequestState,
        change_set::{Change, ChangeSet},
    },
    run::{Attempt, FailureCause, Run, RunFailure, RunStatus},
    usecases::{cancel, decide, verdict_on},
    wiring::Ports,
};

/// How often a run at work looks whether a person asked for it to stop, when no hint came.
const LOOK_FOR_CANCEL: Duration = Duration::from_millis(500);

/// What a run came to.
pub(super) struct Done {
    outcome: AgentOutcome,
    change_set: Option<ChangeSet>,
    rollout: Option<String>,
}

/// Does one run. Writes its progress, but not its end: that is [`settle`]'s.
///
/// What becomes known as secret on the way stays so while `secrets` lives.
pub(super) async fn execute(
    ports: &Ports,
    job: &Job,
    run: RunId,
    stop: &Cancellation,
    secrets: &mut Vec<KnownSecret>,
) -> Result<Done, RunFailure> {
    let (request, run) = begin(ports, job, run).await?;
    let (canceller, cancellation) = Cancellation::pair();
    let work = work(ports, &request, &run, &cancellation, secrets);
    let mut work = std::pin::pin!(work.fuse());
    match either(&mut work, wait_for_end(ports, run.id, stop)).await {
        Either::Left(result) => result,
        Either::Right(cause) => {
            canceller.cancel();
            // The executor tears its workspace down before it returns.
            match work.await {
                // It was done before it noticed.
                Ok(done) if cause == FailureCause::Interrupted => Ok(done),
                _ => Err(match cause {
                    FailureCause::Cancelled => RunFailure::new(cause, "Run cancelled"),
                    _ => RunFailure::new(cause, "This run was interrupted at work."),
                }),
            }
        }
    }
}

/// Waits until a person asks for the run to stop, or the server does.
async fn wait_for_end(ports: &Ports, run: RunId, stop: &Cancellation) -> FailureCause {
    let mut hints = ports.journal.watch_jobs();
    loop {
        if stop.is_cancelled() {
            return FailureCause::Interrupted;
        }
        match either(ports.journal.store().cancel_requested(run), stop.cancelled()).await {
            Either::Left(Ok(true)) => return FailureCause::Cancelled,
            // A store that cannot be read is no reason to stop a run; the next look may succeed.
            Either::Left(Ok(false) | Err(_)) => {}
            Either::Right(()) => return FailureCause::Interrupted,
        }
        let look_again = either(hints.next(), ports.journal.clock().sleep(LOOK_FOR_CANCEL));
        either(look_again, stop.cancelled()).await;
    }
}

/// Marks request and run as at work.
async fn begin(ports: &Ports, job: &Job, run: RunId) -> Result<(Request, Run), RunFailure> {
    let begun = decide(ports, &job.tenant, job.request, |ports, mut request| {
        async move {
            let now = ports.journal.clock().now();
            let run = ports.journal.store().run(&request.tenant, run).await?;
            let mut run = run.ok_or_else(|| ForgeError::not_found("Run"))?;
            if run.cancel_requested || run.status.is_over() {
                return Err(RunFailure::new(FailureCause::Cancelled, "Run cancelled").into());
            }
            request.become_state(RequestState::Executing, now)?;
            run.status = RunStatus::Running;
            run.started_at.get_or_insert(now);
            let number = u32::try_from(run.attempts.len()).unwrap_or(u32::MAX).saturating_add(1);
            run.attempts.push(Attempt { number, started_at: now, finished_at: None, failure: None });
            let event = EventKind::status("provisioning", "Provisioning workspace");
            let changes = Changes {
                runs: vec![run.clone()],
                events: vec![ports.journal.event(request.id, Some(run.id), event)],
                ..Changes::default()
            };
            Ok((Some(request.clone()), changes, (request, run)))
        }
        .boxed()
    })
    .await;
    begun.map_err(failure_of)
}

/// The work itself: repository, agent, change, verdict.
async fn work(
    ports: &Ports,
    request: &Request,
    run: &Run,
    cancel: &Cancellation,
    secrets: &mut Vec<KnownSecret>,
) -> Result<Done, RunFailure> {
    let reporter = ports.journal.reporter(request.id, run.id);
    let link = ports.journal.store().link(&request.tenant, request.repository).await.map_err(store_failure)?;
    let link = link.ok_or_else(|| {
        let gone = "The link to the repository was removed; link it again and submit a new request.";
        RunFailure::new(FailureCause::Repository, gone)
    })?;
    secrets.extend(link.access_token.clone().map(|token| ports.journal.redactor().learn(token)));
    let base = unless_cancelled(cancel, open_repository(ports, request, &link)).await?;
    reporter
        .emit(EventKind::status("clone", format!("Fetched {} of {} into quarantine", base.branch, link.repository)))
        .await
        .map_err(store_failure)?;

    let assignment = assign(ports, request, run, &link, &base).await?;
    let work_branch = assignment.work_branch.clone();
    let outcome = ports.executor.execute(assignment, reporter.clone(), cancel.clone()).await?;
    let rollout = keep_rollout(ports, run, outcome.thread.as_ref()).await?;
    // Without a commit of this run, what an earlier one pushed still stands.
    let change_set = match outcome.head_commit.as_ref().or(base.work_head.as_ref()) {
        Some(head) => unless_cancelled(cancel, change_of(ports, request, run, &base, &work_branch, head)).await?,
        None => None,
    };
    let told = match (&outcome.head_commit, &change_set) {
        (None, _) => "Working tree clean; nothing to change".to_owned(),
        (_, Some(set)) => format!("Collected workspace diff: {} files, {}", set.change.files.len(), set.digest),
        (_, None) => "Nothing is left of the change: the workspace is as the base branch is".to_owned(),
    };
    reporter.emit(EventKind::status("diff", told)).await.map_err(store_failure)?;
    Ok(Done { outcome, change_set, rollout })
}

/// Waits for what a store or a git can be left in the middle of.
async fn unless_cancelled<T: Send>(
    cancel: &Cancellation,
    step: impl Future<Output = Result<T, RunFailure>> + Send,
) -> Result<T, RunFailure> {
    match either(step, cancel.cancelled()).await {
        Either::Left(result) => result,
        Either::Right(()) => Err(RunFailure::new(FailureCause::Cancelled, "Run cancelled")),
    }
}

async fn open_repository(ports: &Ports, request: &Request, link: &RepositoryLink) -> Result<Base, RunFailure> {
    let provider = ports.providers.resolve(&link.provider).map_err(|error| failure_of(error.into()))?;
    let remote = provider.remote(link).await.map_err(git_failure)?;
    let branch = link.environment.base_branch.as_deref();
    let standing = standing_change(ports, request).await?;
    ports.broker.mirror(request.id, &remote, branch, standing.as_ref()).await.map_err(git_failure)
}

/// The change of the newest run that came to its end.
async fn standing_change(ports: &Ports, request: &Request) -> Result<Option<Change>, RunFailure> {
    let runs = ports.journal.store().runs_of(request.id).await.map_err(store_failure)?;
    let newest = runs.into_iter().rev().find(|run| run.status == RunStatus::Completed);
    let Some(id) = newest.and_then(|run| run.change_set) else { return Ok(None) };
    let found = ports.journal.store().change_set(id).await.map_err(store_failure)?;
    Ok(found.map(|set| set.change))
}

async fn assign(
    ports: &Ports,
    request: &Request,
    run: &Run,
    link: &RepositoryLink,
    base: &Base,
) -> Result<Assignment, RunFailure> {
    let work_branch = format!("astraforge/{}", request.id);
    Ok(Assignment {
        request: request.id,
        run: run.id,
        tenant: request.tenant.clone(),
        prompt: run.prompt.clone(),
        environment: link.environment.clone(),
        repository: ports.broker.service(request.id, &work_branch),
        base_branch: base.branch.clone(),
        start_commit: base.work_head.clone().unwrap_or_else(|| base.commit.clone()),
        work_branch,
        resume: last_thread(ports, request).await?,
        attachments: load_attachments(ports, request).await?,
    })
}

/// The conversation of the newest run that left one.
async fn last_thread(ports: &Ports, request: &Request) -> Result<Option<Thread>, RunFailure> {
    let runs = ports.journal.store().runs_of(request.id).await.map_err(store_failure)?;
    for run in runs.into_iter().rev() {
        if let (Some(id), Some(key)) = (run.thread, run.rollout)
            && let Some(rollout) = ports.artifacts.get(&key).await.map_err(|error| failure_of(error.into()))?
        {
            return Ok(Some(Thread { id, rollout }));
        }
    }
    Ok(None)
}

async fn load_attachments(ports: &Ports, request: &Request) -> Result<Vec<(Attachment, Bytes)>, RunFailure> {
    let attachments = ports.journal.store().attachments(request.id).await.map_err(store_failure)?;
    let mut loaded = Vec::with_capacity(attachments.len());
    for attachment in attachments {
        let bytes = ports.artifacts.get(&attachment.artifact).await.map_err(|error| failure_of(error.into()))?;
        let lost = || RunFailure::new(FailureCause::Internal, format!("Attachment `{}` was lost", attachment.name));
        loaded.push((attachment.clone(), bytes.ok_or_else(lost)?));
    }
    Ok(loaded)
}

async fn keep_rollout(ports: &Ports, run: &Run, thread: Option<&Thread>) -> Result<Option<String>, RunFailure> {
    let Some(thread) = thread else { return Ok(None) };
    let key = format!("rollouts/{}/{}.jsonl", run.request, run.id);
    // The agent's own notes may hold what its commands printed.
    let text = String::from_utf8_lossy(&thread.rollout);
    let clean = match ports.journal.redactor().knows_secret_in(&text) {
        true => ports.journal.redactor().redact_known(&text).into(),
        false => thread.rollout.clone(),
    };
    ports.artifacts.put(&key, clean).await.map_err(|error| failure_of(error.into()))?;
    Ok(Some(key))
}

/// What was pushed to the quarantine as `head`, judged. A change with a known secret in it is thrown away.
async fn change_of(
    ports: &Ports,
    request: &Request,
    run: &Run,
    base: &Base,
    work_branch: &str,
    head: &str,
) -> Result<Option<ChangeSet>, RunFailure> {
    let change = ports.broker.change(request.id, base, work_branch).await.map_err(git_failure)?;
    let Some(change) = change else { return Ok(None) };
    // A process that the agent left may push until its sandbox is gone.
    if change.head_commit != head {
        return Err(RunFailure::new(
            FailureCause::Push,
            format!(
                "Something in the sandbox pushed another commit after {head} was collected and tested. Execute again."
            ),
        ));
    }
    if ports.journal.redactor().knows_secret_in(&change.diff) {
        ports.broker.discard(request.id).await.map_err(git_failure)?;
        return Err(RunFailure::new(
            FailureCause::SecretInChange,
            "The agent wrote a known secret into a file, so its change was thrown away. Rotate that secret if the \
             agent should not have seen it, and execute again.",
        ));
    }
    ports.broker.keep(request.id, &change).await.map_err(git_failure)?;
    let verdict = ports.policy.evaluate(&change).await.map_err(|error| failure_of(error.into()))?;
    let found = ChangeSet::new(request.id, run.id, change, verdict, ports.journal.clock().now());
    ports.journal.note(verdict_on(&found, request, Actor::server()).with("run", run.id.to_string())).await;
    // The same change again is the one that may be approved already.
    let latest = ports.journal.store().latest_change_set(request.id).await.map_err(store_failure)?;
    Ok(Some(latest.filter(|latest| latest.digest == found.digest).unwrap_or(found)))
}

/// Writes how a run ended, in one transaction: its row and its job, the request's state, the answer, and the event that
/// ends the log. Of a run that is over already, only the job is ended.
pub(super) async fn settle(
    ports: &Ports,
    job: &Job,
    run: RunId,
    result: Arc<Result<Done, RunFailure>>,
) -> Result<(), ForgeError> {
    let job_id = job.id;
    decide(ports, &job.tenant, job.request, |ports, request| {
        let result = result.clone();
        async move {
            let found = ports.journal.store().run(&request.tenant, run).await?;
            let found = found.ok_or_else(|| ForgeError::not_found("Run"))?;
            let (request, mut changes) = match found.status.is_over() {
                true => (None, Changes::default()),
                false => settled(ports, request, found, (*result).as_ref()),
            };
            if let Some(request) = request.as_ref().filter(|request| request.state == RequestState::Cancelled) {
                changes.absorb_jobs(cancel::drop_publications(ports, request.id).await?);
            }
            let error = result.as_ref().as_ref().err().map(|failure| failure.message.clone());
            changes.ended_jobs.push(EndedJob { id: job_id, error });
            Ok((request, changes, ()))
        }
        .boxed()
    })
    .await
}

/// Has a run wait to be begun anew whose worker is gone or stops, in one transaction with what `changes` make of its job.
/// One that a person asked to stop is over instead.
pub(super) async fn set_back(
    ports: &Ports,
    job: &Job,
    run: RunId,
    why: &str,
    changes: &Changes,
) -> Result<(), ForgeError> {
    let is_over = decide(ports, &job.tenant, job.request, |ports, request| {
        let (failure, changes) = (RunFailure::new(FailureCause::Interrupted, why), changes.clone());
        async move {
            let found = ports.journal.store().run(&request.tenant, run).await?;
            let mut run = found.ok_or_else(|| ForgeError::not_found("Run"))?;
            if run.cancel_requested || run.status.is_over() {
                return Ok((None, Changes::default(), true));
            }
            run.status = RunStatus::Queued;
            end_attempt(&mut run, ports.journal.clock().now(), Some(&failure));
            // With the request, so that whoever cancels it meanwhile decides anew.
            Ok((Some(request), Changes { runs: vec![run], ..changes }, false))
        }
        .boxed()
    })
    .await?;
    if is_over {
        let cancelled = RunFailure::new(FailureCause::Cancelled, "Run cancelled");
        settle(ports, job, run, Arc::new(Err(cancelled))).await?;
    }
    Ok(())
}

/// Ends the attempt that is open, if one is.
fn end_attempt(run: &mut Run, now: DateTime<Utc>, failure: Option<&RunFailure>) {
    if let Some(attempt) = run.attempts.last_mut().filter(|attempt| attempt.finished_at.is_none()) {
        attempt.finished_at = Some(now);
        attempt.failure = failure.cloned();
    }
}

fn settled(
    ports: &Ports,
    mut request: Request,
    mut run: Run,
    result: Result<&Done, &RunFailure>,
) -> (Option<Request>, Changes) {
    let now = ports.journal.clock().now();
    let mut changes = Changes::default();
    run.finished_at = Some(now);
    end_attempt(&mut run, now, result.err());
    let (state, ending) = match result {
        Ok(done) => (RequestState::PatchReady, complete(&mut run, done, &mut changes, now)),
        Err(failure) if failure.cause == FailureCause::Cancelled => {
            run.status = RunStatus::Cancelled;
            (RequestState::Cancelled, EventKind::Cancelled { message: failure.message.clone() })
        }
        Err(failure) => {
            run.status = RunStatus::Failed;
            (RequestState::Failed, EventKind::failed(failure.message.clone()))
        }
    };
    run.failure = result.err().cloned();
    // A run that was refused before it began leaves the request as it is: DONE stays DONE.
    if let Err(forbidden) = request.become_state(state, now) {
        tracing::warn!(request.id = %request.id, %forbidden, "the run ended, the request stays as it is");
    }
    if let EventKind::Completed { .. } = ending
        && let Some(answer) = run.final_message.clone()
    {
        changes.events.push(ports.journal.event(request.id, Some(run.id), EventKind::assistant_message(answer)));
    }
    changes.events.push(ports.journal.event(request.id, Some(run.id), ending));
    changes.runs.push(run);
    (Some(request), changes)
}

/// Takes what the agent did into the run's row.
fn complete(run: &mut Run, done: &Done, changes: &mut Changes, now: DateTime<Utc>) -> EventKind {
    let outcome = &done.outcome;
    run.status = RunStatus::Completed;
    run.final_message = outcome.final_message.clone();
    run.thread = outcome.thread.as_ref().map(|thread| thread.id.clone());
    run.rollout = done.rollout.clone();
    run.exit_code = outcome.exit_code;
    run.tests = outcome.tests.clone();
    run.change_set = done.change_set.as_ref().map(|set| set.id);
    changes.change_set = done.change_set.clone().filter(|set| set.run == run.id);
    if let Some(text) = outcome.final_message.clone() {
        changes.messages.push(Message {
            id: MessageId::random(),
            request: run.request,
            role: MessageRole::Assistant,
            text,
            run: Some(run.id),
            created_at: now,
        });
    }
    EventKind::Completed { message: "Execution finished".to_owned() }
}

fn git_failure(error: GitError) -> RunFailure {
    RunFailure::new(FailureCause::Repository, chain(&error))
}

fn store_failure(error: StoreError) -> RunFailure {
    failure_of(error.into())
}

/// Any error as the failure of a run.
fn failure_of(error: ForgeError) -> RunFailure {
    match error {
        ForgeError::Run(failure) => failure,
        ForgeError::Git(error) => git_failure(error),
        error => RunFailure::new(FailureCause::Internal, chain(&error)),
    }
}
