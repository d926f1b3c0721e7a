//! What must hold at the end of every story, by the rows and by what really happened.

use std::fmt;

use astraforge_core::{
    event::{EventKind, RunEvent},
    id::RequestId,
    job::backoff,
    ports::store::Store as _,
    request::{Request, RequestState},
    run::{Attempt, FailureCause, Run, RunStatus},
    testing::samples,
};

use super::world::World;

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    ComesToRest,
    RequestsSettle,
    RunsEndOnce,
    AttemptsFollowEachOther,
    EventsHaveNoGap,
    NothingAfterTheEnd,
    OneWriterOfAJob,
    AgentsStopWithTheirJob,
    OnlyWhatIsApprovedLeaves,
    OneMergeRequest,
    NothingIsLeft,
    NothingIsForgotten,
}

/// A rule that was broken, and how.
#[derive(Debug)]
pub(super) struct Violation {
    pub(super) rule: Rule,
    pub(super) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// Collects what is broken.
#[derive(Default)]
struct Broken(Vec<Violation>);

impl Broken {
    fn unless(&mut self, holds: bool, rule: Rule, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Violation { rule, what: what() });
        }
    }
}

/// Looks at everything, and returns what is wrong.
pub(super) async fn judge(world: &World, requests: &[RequestId]) -> Vec<Violation> {
    let mut broken = Broken::default();
    for (rule, what) in world.state().book.seen.drain(..) {
        broken.0.push(Violation { rule, what });
    }
    for id in requests {
        let Some(request) = world.store.request(&samples::tenant(), *id).await.unwrap() else {
            broken.unless(false, Rule::NothingIsForgotten, || "a request that was accepted is not there".to_owned());
            continue;
        };
        let runs = world.store.runs_of(*id).await.unwrap();
        let events = world.store.events(*id, 0, u32::MAX).await.unwrap();
        judge_request(&mut broken, &request, &runs, &events);
        judge_runs(&mut broken, world, &runs, &events);
        judge_publication(&mut broken, world, &request, &runs, &events).await;
    }
    broken.0
}

fn judge_request(broken: &mut Broken, request: &Request, runs: &[Run], events: &[RunEvent]) {
    use RequestState::{Cancelled, Executing, Failed, PatchReady, Received};
    let state = request.state;
    broken.unless(!matches!(state, Received | Executing), Rule::RequestsSettle, || format!("a request stays {state}"));
    // A run that was cancelled before it began changes nothing.
    let counts = |run: &&Run| run.started_at.is_some() || run.status != RunStatus::Cancelled;
    let ended = events.iter().rev().filter(|event| event.kind.ends_run()).filter_map(|event| event.run_id);
    let last = ended.filter_map(|id| runs.iter().find(|run| run.id == id)).find(counts);
    let fits = match (state, last.map(|run| run.status)) {
        (Failed, last) => last.is_none_or(|status| status == RunStatus::Failed),
        (PatchReady, last) => last == Some(RunStatus::Completed),
        (Cancelled, _) => true,
        (_, last) => last == Some(RunStatus::Completed),
    };
    let told = || format!("a request is {state}, its last run {:?}", last.map(|run| run.status));
    broken.unless(fits, Rule::RequestsSettle, told);
}

fn judge_runs(broken: &mut Broken, world: &World, runs: &[Run], events: &[RunEvent]) {
    let numbers: Vec<u64> = events.iter().map(|event| event.seq).collect();
    let counted = numbers.iter().copied().eq(1..=events.len() as u64);
    broken.unless(counted, Rule::EventsHaveNoGap, || format!("the log is numbered {numbers:?}"));
    for run in runs {
        let status = run.status;
        broken.unless(status.is_over(), Rule::RunsEndOnce, || format!("a run stays {status}"));
        let of_run: Vec<&RunEvent> = events.iter().filter(|event| event.run_id == Some(run.id)).collect();
        let ends: Vec<&RunEvent> = of_run.iter().copied().filter(|event| event.kind.ends_run()).collect();
        let fits = matches!(
            (status, ends.first().map(|end| &end.kind)),
            (RunStatus::Completed, Some(EventKind::Completed { .. }))
                | (RunStatus::Failed, Some(EventKind::Error { .. }))
                | (RunStatus::Cancelled, Some(EventKind::Cancelled { .. }))
        );
        broken.unless(fits && ends.len() == 1, Rule::RunsEndOnce, || format!("a run is {status}, its ends {ends:?}"));
        let end = ends.first().map_or(u64::MAX, |end| end.seq);
        let late: Vec<&&RunEvent> = of_run.iter().filter(|event| event.seq > end && !is_of_change(event)).collect();
        broken.unless(late.is_empty(), Rule::NothingAfterTheEnd, || format!("after the end of a run: {late:?}"));

        judge_attempts(broken, world, run);
    }
}

/// Only the death or the end of a worker earns a run another attempt, after the one before.
fn judge_attempts(broken: &mut Broken, world: &World, run: &Run) {
    let attempts = &run.attempts;
    let n_begun = world.state().book.executions.get(&run.id).copied().unwrap_or_default();
    let told = || format!("agents were set to work {n_begun} times on one run, attempts {attempts:?}");
    broken.unless(n_begun as usize <= attempts.len(), Rule::AttemptsFollowEachOther, told);
    let open = attempts.iter().filter(|attempt| attempt.finished_at.is_none()).count();
    broken.unless(open == 0, Rule::RunsEndOnce, || format!("an attempt has no end: {attempts:?}"));
    let follows = |pair: &[Attempt]| {
        let cause = pair[0].failure.as_ref().map(|failure| failure.cause);
        cause == Some(FailureCause::Interrupted) && pair[0].finished_at.is_some_and(|end| end <= pair[1].started_at)
    };
    let numbers = attempts.iter().map(|attempt| attempt.number as usize);
    let in_order = numbers.eq(1..=attempts.len()) && attempts.windows(2).all(follows);
    broken.unless(in_order, Rule::AttemptsFollowEachOther, || format!("attempts are out of order: {attempts:?}"));
    let (stopped, lost): (Vec<_>, Vec<_>) = attempts
        .iter()
        .filter_map(|attempt| attempt.failure.as_ref().filter(|failure| failure.cause == FailureCause::Interrupted))
        .partition(|failure| failure.message == "The server was stopped");
    let n_stops = world.state().book.n_stops;
    let earned = stopped.len() <= n_stops && lost.len() <= backoff::MOST_FAILURES as usize;
    broken.unless(earned, Rule::AttemptsFollowEachOther, || format!("{n_stops} stops, attempts {attempts:?}"));
    let Some(last) = attempts.last() else { return };
    // A run that waits for another attempt may be cancelled or given up.
    let waited = last.failure.as_ref().is_some_and(|failure| failure.cause == FailureCause::Interrupted);
    let fits = last.failure == run.failure || (waited && run.failure.is_some());
    broken.unless(fits, Rule::RunsEndOnce, || format!("a run ended by {:?}, its attempts {attempts:?}", run.failure));
}

/// Tells whether an event is about what became of a run's change.
fn is_of_change(event: &RunEvent) -> bool {
    match &event.kind {
        EventKind::Status { stage, .. } => ["approval", "mr", "review"].contains(&stage.as_str()),
        _ => false,
    }
}

async fn judge_publication(broken: &mut Broken, world: &World, request: &Request, runs: &[Run], events: &[RunEvent]) {
    let store = &world.store;
    let approvals = store.approvals(request.id).await.unwrap();
    let mut approved = Vec::new();
    for approval in &approvals {
        approved.push(store.change_set(approval.change_set).await.unwrap().unwrap().change.head_commit);
    }
    let branch = format!("astraforge/{}", request.id);
    let (held, is_opened) = {
        let book = &world.state().book;
        (book.branches.get(&branch).cloned().unwrap_or_default(), book.opened.contains(&branch))
    };
    let stray: Vec<&String> = held.iter().filter(|commit| !approved.contains(commit)).collect();
    broken
        .unless(stray.is_empty(), Rule::OnlyWhatIsApprovedLeaves, || format!("published without approval: {stray:?}"));

    let all = store.merge_requests(&samples::tenant()).await.unwrap();
    let rows: Vec<_> = all.iter().filter(|merge_request| merge_request.request == request.id).collect();
    broken.unless(rows.len() <= 1, Rule::OneMergeRequest, || format!("{rows:?}"));
    for row in &rows {
        let known = is_opened && held.contains(&row.proposal.commit);
        broken.unless(known, Rule::OneMergeRequest, || format!("nothing was opened for {row:?}"));
    }
    let state = request.state;
    if matches!(state, RequestState::MrOpened | RequestState::Reviewed) {
        broken.unless(rows.len() == 1, Rule::OneMergeRequest, || format!("a request is {state} without one"));
    }

    // Unless nobody could reach the host for long after it was cancelled: then the job is kept.
    let is_end = |event: &RunEvent| match &event.kind {
        EventKind::Cancelled { .. } => true,
        EventKind::Status { stage, .. } => stage == "cancel",
        _ => false,
    };
    let cancelled_at = events.iter().rfind(|event| is_end(event)).map_or(0, |event| event.seq);
    let gave_up = |event: &RunEvent| matches!(&event.kind, EventKind::Error { stage: Some(s), .. } if s == "mr");
    let is_kept = !store.dead_jobs(request.id).await.unwrap().is_empty()
        && events.iter().any(|event| event.seq > cancelled_at && gave_up(event));
    let taken_back = (held.is_empty() && !is_opened) || is_kept;
    let has_none = state == RequestState::Cancelled && rows.is_empty();
    broken.unless(taken_back || !has_none, Rule::NothingIsLeft, || format!("of a cancelled request is left: {held:?}"));

    let told = |wanted: &str| {
        let of =
            |event: &RunEvent| matches!(&event.kind, EventKind::Error { stage: Some(stage), .. } if stage == wanted);
        events.iter().any(of)
    };
    let reviewed = rows.iter().all(|row| row.review.is_some());
    broken.unless(reviewed || told("review"), Rule::NothingIsForgotten, || {
        "a review never came, and nobody says why".into()
    });
    let current = store.latest_change_set(request.id).await.unwrap();
    let waits = current.filter(|set| approvals.iter().any(|approval| approval.change_set == set.id));
    let lost = waits.filter(|set| state == RequestState::PatchReady && rows.iter().all(|row| row.change_set != set.id));
    let is_cancel = |event: &RunEvent| matches!(&event.kind, EventKind::Status { stage, .. } if stage == "cancel");
    let was_cancelled = runs.iter().any(|run| run.cancel_requested) || events.iter().any(is_cancel);
    let excused = lost.is_none() || told("mr") || was_cancelled;
    broken.unless(excused, Rule::NothingIsForgotten, || {
        "an approved change was not published, and nobody says why".into()
    });
}
