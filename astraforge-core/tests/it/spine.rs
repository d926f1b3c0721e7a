//! Every transition of a request, driven through the facade.

use astraforge_core::{
    access::Role,
    cancel::Cancellation,
    command::{
        ApproveChange, CancelRun, CancelTarget, ChatReview, ExecutePlan, ExecuteRequest, GeneratePlan, NewAttachment,
        Start, SubmitRequest,
    },
    error::ForgeError,
    event::EventKind,
    forge::{Forge, Settings},
    id::{RequestId, TenantId},
    job::Limits,
    policy::{Decision, Reason, Verdict},
    ports::{
        executor::AgentOutcome,
        git::GitError,
        store::{Changes, Expected, RequestChange},
    },
    repository::Secret,
    request::{
        Request, RequestState,
        change_set::{Change, Digest},
    },
    review::{Finding, Severity},
    run::{FailureCause, RunFailure, RunStatus},
    testing::{Spine, samples},
    worker::Worker,
};
use futures::FutureExt;

/// A spine with a forge and a worker over it.
pub(crate) struct Fixture {
    pub(crate) spine: Spine,
    pub(crate) forge: Forge,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let spine = Spine::new().await;
        let forge = Forge::new(spine.ports(settings));
        Self { spine, forge }
    }

    pub(crate) fn submission(&self) -> SubmitRequest {
        SubmitRequest {
            caller: self.spine.caller("ada", Role::Maintainer),
            id: None,
            prompt: "Cache the loader results".parse().unwrap(),
            repository: self.spine.link.id,
            source: "direct_user".to_owned(),
            sender: String::new(),
            attachments: Vec::new(),
            start: Start::Now,
        }
    }

    pub(crate) async fn submit(&self) -> Request {
        self.forge.submit(self.submission()).await.unwrap()
    }

    /// A request whose change waits for approval.
    pub(crate) async fn patch_ready(&self) -> Request {
        let request = self.submit().await;
        self.work().await;
        assert_eq!(self.state(request.id).await, RequestState::PatchReady);
        request
    }

    pub(crate) async fn work(&self) {
        Worker::new(self.forge.clone()).drain().await.unwrap();
    }

    /// A worker takes a job, begins the run, and dies.
    async fn begin_and_die(&self) {
        self.spine.agent.play(|_, _, _| futures::future::pending().boxed());
        let mut working = std::pin::pin!(self.work());
        while self.spine.agent.assignments().is_empty() {
            assert!(futures::poll!(working.as_mut()).is_pending());
        }
    }

    /// Works on a run that one attempt was made at, and looks at both attempts.
    async fn check_done_at_second_attempt(&self, request: RequestId) {
        self.spine.agent.play(|_, _, _| {
            futures::future::ready(Ok(AgentOutcome { final_message: Some("Done.".into()), ..AgentOutcome::default() }))
                .boxed()
        });
        self.work().await;
        assert_eq!(self.state(request).await, RequestState::PatchReady);
        let run = self.forge.store().runs_of(request).await.unwrap().remove(0);
        assert_eq!((run.status, run.failure, run.attempts.len()), (RunStatus::Completed, None, 2));
        let causes = run.attempts.iter().map(|attempt| attempt.failure.as_ref().map(|failure| failure.cause));
        assert!(causes.eq([Some(FailureCause::Interrupted), None]), "{:?}", run.attempts);
        assert!(run.attempts.iter().all(|attempt| attempt.finished_at.is_some()), "{:?}", run.attempts);
        assert_eq!(run.started_at, Some(run.attempts[0].started_at));
        let ends = self.events(request).await.iter().filter(|event| event.ends_run()).count();
        assert_eq!(ends, 1);
    }

    pub(crate) async fn request(&self, id: RequestId) -> Request {
        self.forge.store().request(&samples::tenant(), id).await.unwrap().unwrap()
    }

    pub(crate) async fn state(&self, id: RequestId) -> RequestState {
        self.request(id).await.state
    }

    pub(crate) async fn events(&self, id: RequestId) -> Vec<EventKind> {
        let events = self.forge.store().events(id, 0, 1000).await.unwrap();
        events.into_iter().map(|event| event.kind).collect()
    }

    pub(crate) async fn approve(&self, id: RequestId, digest: Option<Digest>) -> Result<(), ForgeError> {
        let caller = self.spine.caller("grace", Role::Reviewer);
        self.forge.approve(ApproveChange { caller, request: id, digest }).await.map(drop)
    }

    pub(crate) async fn execute(&self, id: RequestId) -> Result<(), ForgeError> {
        let caller = self.spine.caller("ada", Role::Maintainer);
        self.forge.execute(ExecuteRequest { caller, request: id, prompt: None }).await.map(drop)
    }

    pub(crate) async fn chat(&self, id: RequestId, message: &str) -> Result<(), ForgeError> {
        let caller = self.spine.caller("grace", Role::Reviewer);
        self.forge.chat(ChatReview { caller, request: id, message: message.parse().unwrap() }).await.map(drop)
    }

    pub(crate) async fn cancel(&self, target: CancelTarget) -> Result<Request, ForgeError> {
        self.forge.cancel(CancelRun { caller: self.spine.caller("ada", Role::Maintainer), target }).await
    }

    /// Lets the agent push this change from now on.
    pub(crate) fn commits(&self, change: &Change) {
        let outcome = AgentOutcome {
            final_message: Some("Fixed more.".into()),
            head_commit: Some(change.head_commit.clone()),
            ..AgentOutcome::default()
        };
        self.spine.agent.play(move |_, _, _| futures::future::ready(Ok(outcome.clone())).boxed());
    }

    /// Puts a request into a state by hand, to try what is allowed from there.
    pub(crate) async fn force(&self, id: RequestId, state: RequestState) {
        let mut request = self.request(id).await;
        request.state = state;
        let expected = Expected::Version(request.version);
        let change = Some(RequestChange { request, expected });
        self.forge.store().commit(Changes { request: change, ..Changes::default() }).await.unwrap();
    }
}

#[track_caller]
pub(crate) fn check_conflict(result: Result<impl Sized, ForgeError>, words: &str) {
    match result.map(drop) {
        Err(ForgeError::Conflict { message }) => assert!(message.contains(words), "{message}"),
        other => panic!("no conflict: {other:?}"),
    }
}

#[tokio::test]
async fn a_prompt_becomes_a_reviewed_merge_request() {
    let fixture = Fixture::new().await;
    let request = fixture.submit().await;
    assert_eq!(fixture.state(request.id).await, RequestState::Received);
    fixture.work().await;
    assert_eq!(fixture.state(request.id).await, RequestState::PatchReady);
    assert!(fixture.spine.broker.published().is_empty(), "nothing leaves before approval");

    let change = fixture.forge.store().latest_change_set(request.id).await.unwrap().unwrap();
    fixture.approve(request.id, Some(change.digest.clone())).await.unwrap();
    fixture.work().await;

    assert_eq!(fixture.state(request.id).await, RequestState::Reviewed);
    assert_eq!(fixture.spine.broker.published(), [(change.change.head_commit, change.change.branch)]);
    let merge_request = fixture.forge.store().merge_requests(&samples::tenant()).await.unwrap().remove(0);
    assert!(merge_request.proposal.description.contains("Fixed it."), "{}", merge_request.proposal.description);
    assert_eq!(merge_request.review.unwrap().summary, "Reviewed by played: nothing found.");
}

#[tokio::test]
async fn the_log_begins_with_the_prompt_and_each_run_has_one_end() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await;
    let events = fixture.events(request.id).await;
    assert_eq!(events[0], EventKind::UserPrompt { message: "Cache the loader results".to_owned() });
    assert_eq!(events.iter().filter(|event| event.ends_run()).count(), 1);
    assert_eq!(events.last(), Some(&EventKind::Completed { message: "Execution finished".to_owned() }));
    assert!(events.contains(&EventKind::assistant_message("Fixed it.")));
}

#[tokio::test]
async fn the_same_submission_twice_is_one_request() {
    let fixture = Fixture::new().await;
    let id = Some(RequestId::random());
    let first = fixture.forge.submit(SubmitRequest { id, ..fixture.submission() }).await.unwrap();
    let again = fixture.forge.submit(SubmitRequest { id, ..fixture.submission() }).await.unwrap();
    assert_eq!(first.id, again.id);
    assert_eq!(fixture.forge.store().runs_of(first.id).await.unwrap().len(), 1);
    let other = SubmitRequest { id, prompt: "Something else".parse().unwrap(), ..fixture.submission() };
    check_conflict(fixture.forge.submit(other).await, "is taken");
}

#[tokio::test]
async fn a_submission_needs_a_repository_of_the_tenant() {
    let fixture = Fixture::new().await;
    let mut foreign = fixture.submission();
    foreign.caller.tenant = TenantId::new("other");
    let refused = fixture.forge.submit(foreign).await;
    assert!(matches!(refused, Err(ForgeError::Invalid { field: "project_id", .. })), "{refused:?}");
}

#[tokio::test]
async fn attachments_reach_the_agent() {
    let fixture = Fixture::new().await;
    let attachment = |name: &str| NewAttachment {
        name: name.to_owned(),
        content_type: "text/plain".to_owned(),
        bytes: "hello".into(),
    };
    let with = |name| SubmitRequest { attachments: vec![attachment(name)], ..fixture.submission() };
    let refused = fixture.forge.submit(with("../x")).await;
    assert!(matches!(refused, Err(ForgeError::Invalid { field: "attachments", .. })), "{refused:?}");
    fixture.forge.submit(with("trace.txt")).await.unwrap();
    fixture.work().await;
    let assignments = fixture.spine.agent.assignments();
    assert_eq!(&assignments[0].attachments[0].1[..], b"hello");
}

#[tokio::test]
async fn a_message_runs_the_agent_again_in_the_same_thread() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await;
    fixture.chat(request.id, "also add docs").await.unwrap();
    fixture.work().await;
    let assignments = fixture.spine.agent.assignments();
    assert_eq!(assignments[1].prompt, "also add docs");
    assert_eq!(assignments[1].resume.as_ref().map(|thread| thread.id.as_str()), Some("thread-1"));
    assert_eq!(fixture.state(request.id).await, RequestState::PatchReady);
}

#[tokio::test]
async fn executing_without_words_repeats_the_last_message() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await;
    fixture.chat(request.id, "also add docs").await.unwrap();
    fixture.execute(request.id).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.spine.agent.assignments()[2].prompt, "also add docs");
}

#[tokio::test]
async fn of_two_executions_one_runs_and_one_waits() {
    let fixture = Fixture::new().await;
    let request = fixture.submit().await;
    fixture.execute(request.id).await.unwrap();
    let first = fixture.forge.store().claim_job(samples::at(10), samples::at(10 + 60), Limits::NONE).await.unwrap();
    assert!(first.is_some());
    assert_eq!(
        fixture.forge.store().claim_job(samples::at(10), samples::at(10 + 60), Limits::NONE).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn work_is_refused_from_states_that_the_table_forbids() {
    let fixture = Fixture::new().await;
    let request = fixture.submit().await;
    let n_jobs = fixture.forge.store().waiting_jobs(request.id).await.unwrap().len();
    for state in RequestState::ALL {
        fixture.force(request.id, state).await;
        let allowed = state == RequestState::Executing || state.can_become(RequestState::Executing);
        if !allowed {
            check_conflict(fixture.execute(request.id).await, "cannot become EXECUTING");
            check_conflict(fixture.chat(request.id, "more").await, "cannot become EXECUTING");
        }
        if state != RequestState::PatchReady {
            check_conflict(fixture.approve(request.id, None).await, "no change waiting for approval");
        }
    }
    assert_eq!(fixture.forge.store().waiting_jobs(request.id).await.unwrap().len(), n_jobs, "nothing was queued");
}

#[tokio::test]
async fn unknown_and_foreign_requests_are_not_found() {
    let fixture = Fixture::new().await;
    let request = fixture.submit().await;
    let mut stranger = fixture.spine.caller("eve", Role::Admin);
    stranger.tenant = TenantId::new("other");
    for id in [request.id, RequestId::random()] {
        let chat = ChatReview { caller: stranger.clone(), request: id, message: "hi".parse().unwrap() };
        assert!(matches!(fixture.forge.chat(chat).await, Err(ForgeError::NotFound { .. })));
        let approve = ApproveChange { caller: stranger.clone(), request: id, digest: None };
        assert!(matches!(fixture.forge.approve(approve).await, Err(ForgeError::NotFound { .. })));
        let cancel = CancelRun { caller: stranger.clone(), target: CancelTarget::Request(id) };
        assert!(matches!(fixture.forge.cancel(cancel).await, Err(ForgeError::NotFound { .. })));
        let plan = GeneratePlan { caller: stranger.clone(), request: id };
        assert!(matches!(fixture.forge.plan(plan).await, Err(ForgeError::NotFound { .. })));
    }
}

#[tokio::test]
async fn roles_are_checked_by_every_use_case() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    let caller = fixture.spine.caller("olga", Role::Observer);
    let message = || "hi".parse().unwrap();
    let refused = [
        fixture.forge.submit(SubmitRequest { caller: caller.clone(), ..fixture.submission() }).await.map(drop),
        fixture.forge.chat(ChatReview { caller: caller.clone(), request, message: message() }).await.map(drop),
        fixture.forge.execute(ExecuteRequest { caller: caller.clone(), request, prompt: None }).await.map(drop),
        fixture.forge.plan(GeneratePlan { caller: caller.clone(), request }).await.map(drop),
        fixture.forge.execute_plan(ExecutePlan { caller: caller.clone(), request }).await.map(drop),
        fixture.forge.approve(ApproveChange { caller: caller.clone(), request, digest: None }).await.map(drop),
        fixture
            .forge
            .cancel(CancelRun { caller: caller.clone(), target: CancelTarget::Request(request) })
            .await
            .map(drop),
    ];
    for result in refused {
        assert!(matches!(result, Err(ForgeError::Forbidden(_))), "{result:?}");
    }
}

#[tokio::test]
async fn a_plan_is_made_and_followed() {
    let fixture = Fixture::new().await;
    let submission = SubmitRequest { start: Start::AfterPlan, ..fixture.submission() };
    let request = fixture.forge.submit(submission).await.unwrap().id;
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Received);

    let caller = fixture.spine.caller("ada", Role::Maintainer);
    check_conflict(
        fixture.forge.execute_plan(ExecutePlan { caller: caller.clone(), request }).await,
        "has no plan to execute",
    );
    fixture.forge.plan(GeneratePlan { caller: caller.clone(), request }).await.unwrap();
    assert_eq!(fixture.state(request).await, RequestState::PlanReady);
    fixture.forge.execute_plan(ExecutePlan { caller: caller.clone(), request }).await.unwrap();
    check_conflict(fixture.forge.execute_plan(ExecutePlan { caller: caller.clone(), request }).await, "queued already");
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::PatchReady);
    assert!(fixture.spine.agent.assignments()[0].prompt.contains("1. Do: Cache the loader results"));
    check_conflict(fixture.forge.plan(GeneratePlan { caller, request }).await, "cannot be planned");
}

#[tokio::test]
async fn a_failing_agent_is_a_failed_run_that_can_be_repeated() {
    let fixture = Fixture::new().await;
    fixture.spine.agent.play(|_, _, _| {
        async { Err(RunFailure::new(FailureCause::NoAnswer, "The agent ended without an answer")) }.boxed()
    });
    let request = fixture.submit().await.id;
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Failed);
    let run = fixture.forge.store().runs_of(request).await.unwrap().remove(0);
    assert_eq!((run.status, run.attempts.len()), (RunStatus::Failed, 1));
    assert_eq!(run.failure.unwrap().cause, FailureCause::NoAnswer);
    assert_eq!(fixture.events(request).await.last(), Some(&EventKind::failed("The agent ended without an answer")));
    fixture.execute(request).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.forge.store().runs_of(request).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_panicking_agent_fails_the_run_and_not_the_worker() {
    let fixture = Fixture::new().await;
    fixture.spine.agent.play(|_, _, _| async { panic!("the agent's adapter is broken") }.boxed());
    let request = fixture.submit().await.id;
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Failed);
}

#[tokio::test]
async fn a_repository_that_cannot_be_read_fails_the_run_with_its_reason() {
    let fixture = Fixture::new().await;
    fixture.spine.broker.fails_to_mirror(GitError::NoBranch {
        repository: "team/loader".into(),
        branch: "main".into(),
        known: vec!["trunk".into()],
    });
    let request = fixture.submit().await.id;
    fixture.work().await;
    let run = fixture.forge.store().runs_of(request).await.unwrap().remove(0);
    let failure = run.failure.unwrap();
    assert_eq!(failure.cause, FailureCause::Repository);
    assert!(failure.message.ends_with("its branches are: trunk"), "{failure}");
}

#[tokio::test]
async fn an_agent_that_changes_nothing_leaves_nothing_to_approve() {
    let fixture = Fixture::new().await;
    fixture.spine.agent.play(|_, _, _| {
        let answer = AgentOutcome { final_message: Some("It is right as it is.".into()), ..AgentOutcome::default() };
        async { Ok(answer) }.boxed()
    });
    let request = fixture.patch_ready().await.id;
    let told = EventKind::status("diff", "Working tree clean; nothing to change");
    assert!(fixture.events(request).await.contains(&told));
    check_conflict(fixture.approve(request, None).await, "changed nothing");
}

#[tokio::test]
async fn a_change_with_a_known_secret_is_thrown_away() {
    let fixture = Fixture::new().await;
    let _guard = fixture.spine.redactor.learn(Secret::new("hunter2-hunter2"));
    let mut change = samples::change_set(&samples::run(&samples::request())).change;
    change.diff.push_str("+password = 'hunter2-hunter2'\n");
    fixture.spine.broker.holds(Some(change));
    let request = fixture.submit().await.id;
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Failed);
    assert_eq!(fixture.forge.store().latest_change_set(request).await.unwrap(), None);
    assert!(fixture.spine.broker.discarded());
    assert_eq!(fixture.spine.broker.kept(), Vec::<String>::new());
}

#[tokio::test]
async fn a_run_goes_on_from_the_newest_change_that_stands() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    let kept = fixture.spine.broker.kept();
    assert_eq!(kept.len(), 1);
    fixture.spine.agent.play(|_, _, _| async { Err(RunFailure::new(FailureCause::Agent, "no idea")) }.boxed());
    for _ in 0..2 {
        fixture.execute(request).await.unwrap();
        fixture.work().await;
    }
    let starts = fixture.spine.agent.assignments().into_iter().map(|assignment| assignment.start_commit);
    assert_eq!(starts.collect::<Vec<_>>(), ["a".repeat(40), kept[0].clone(), kept[0].clone()]);
}

#[tokio::test]
async fn secrets_do_not_reach_the_log() {
    let fixture = Fixture::new().await;
    let _guard = fixture.spine.redactor.learn(Secret::new("hunter2-hunter2"));
    fixture.spine.agent.play(|_, reporter, _| {
        async move {
            reporter.emit(EventKind::log("the key is hunter2-hunter2")).await.unwrap();
            Err(RunFailure::new(FailureCause::Agent, "cannot open hunter2-hunter2"))
        }
        .boxed()
    });
    let request = fixture.submit().await.id;
    fixture.work().await;
    let events = fixture.events(request).await;
    assert!(events.contains(&EventKind::log("the key is [redacted]")));
    assert!(!format!("{events:?}").contains("hunter2"));
    let run = fixture.forge.store().runs_of(request).await.unwrap().remove(0);
    assert!(!format!("{run:?}").contains("hunter2"));
}

#[tokio::test]
async fn approval_is_of_the_digest_that_was_seen() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    let other = samples::change_set(&samples::run(&samples::request()));
    let seen = fixture.forge.store().latest_change_set(request).await.unwrap().unwrap().digest;
    let stale = Digest::of(&other.change, &Verdict { policy_version: "old".into(), ..other.verdict });
    check_conflict(fixture.approve(request, Some(stale)).await, seen.as_str());
    assert!(fixture.forge.store().approvals(request).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_changed_policy_voids_what_was_seen() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    let seen = fixture.forge.store().latest_change_set(request).await.unwrap().unwrap().digest;
    let verdict = Verdict { policy_version: "played-2".into(), decision: Decision::Allow, reasons: vec![] };
    fixture.spine.policy.decides(verdict);
    check_conflict(fixture.approve(request, Some(seen.clone())).await, "the policy has changed");
    check_conflict(fixture.approve(request, Some(seen)).await, "is now");
    fixture.approve(request, None).await.unwrap();
}

#[tokio::test]
async fn the_policy_decides_who_may_approve() {
    let fixture = Fixture::new().await;
    let reason = Reason { rule: "ci".into(), path: Some("ci.yml".into()), message: "CI files are kept back".into() };
    let decide = |decision| Verdict { policy_version: "p".into(), decision, reasons: vec![reason.clone()] };

    fixture.spine.policy.decides(decide(Decision::NeedsMaintainer));
    let request = fixture.patch_ready().await.id;
    assert!(matches!(fixture.approve(request, None).await, Err(ForgeError::Forbidden(_))));
    let caller = fixture.spine.caller("ada", Role::Maintainer);
    fixture.forge.approve(ApproveChange { caller: caller.clone(), request, digest: None }).await.unwrap();

    fixture.spine.policy.decides(decide(Decision::Deny));
    let request = fixture.patch_ready().await.id;
    let denied = fixture.forge.approve(ApproveChange { caller, request, digest: None }).await;
    check_conflict(denied, "CI files are kept back");
}

#[tokio::test]
async fn verdicts_and_approvals_are_in_the_audit_also_those_that_forbid() {
    let fixture = Fixture::new().await;
    let reason = |path: &str| Reason { rule: "ci".into(), path: Some(path.into()), message: "kept back".into() };
    let decide = |decision, version: &str| {
        let reasons = vec![reason("a.yml"), reason("b.yml")];
        fixture.spine.policy.decides(Verdict { policy_version: version.into(), decision, reasons });
    };
    let told = || {
        let entries = fixture.spine.audit.entries(&samples::tenant()).into_iter();
        entries.map(|entry| format!("{} {} {}", entry.user, entry.action, entry.outcome)).collect::<Vec<_>>()
    };
    decide(Decision::Deny, "one");
    let request = fixture.patch_ready().await.id;
    fixture.approve(request, None).await.unwrap_err();
    assert_eq!(told(), [" policy.decided deny", "grace policy.decided deny"]);
    decide(Decision::Allow, "two");
    fixture.approve(request, None).await.unwrap_err();
    fixture.approve(request, None).await.unwrap();
    let then = ["grace policy.decided allow", "grace policy.decided allow", "grace change.approved approved"];
    assert_eq!(told()[2..], then);

    let entries = fixture.spine.audit.entries(&samples::tenant());
    assert!(entries.iter().all(|entry| entry.subject == request.to_string()));
    let approved: serde_json::Value = serde_json::from_str(&entries[4].details).unwrap();
    let change = fixture.forge.store().latest_change_set(request).await.unwrap().unwrap();
    assert_eq!((&approved["digest"], &approved["binding"]), (&change.digest.as_str().into(), &"implicit".into()));
    let judged: serde_json::Value = serde_json::from_str(&entries[3].details).unwrap();
    assert_eq!((&judged["digest"], &judged["policy_version"]), (&approved["digest"], &"two".into()));
    assert_eq!(judged["rules"], serde_json::json!(["ci"]), "each rule once");
}

#[tokio::test]
async fn the_requester_may_be_kept_from_approving() {
    let fixture = Fixture::with(Settings { approver_must_differ: true, ..Settings::default() }).await;
    let request = fixture.patch_ready().await.id;
    let caller = fixture.spine.caller("ada", Role::Maintainer);
    let own = fixture.forge.approve(ApproveChange { caller, request, digest: None }).await;
    check_conflict(own, "somebody else");
    fixture.approve(request, None).await.unwrap();
}

#[tokio::test]
async fn approving_twice_publishes_once() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    fixture.approve(request, None).await.unwrap();
    fixture.approve(request, None).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.forge.store().approvals(request).await.unwrap().len(), 1);
    assert_eq!(fixture.spine.host.n_opened(), 1);
}

#[tokio::test]
async fn a_publication_that_failed_can_be_approved_again() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    fixture.spine.host.fails_to_open(GitError::Diverged { branch: "astraforge/x".into() });
    fixture.approve(request, None).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::PatchReady);
    let events = fixture.events(request).await;
    assert!(matches!(events.last(), Some(EventKind::Error { stage: Some(stage), .. }) if stage == "mr"), "{events:?}");
    fixture.approve(request, None).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Reviewed);
}

#[tokio::test]
async fn findings_are_posted_and_a_failing_reviewer_is_one_of_them() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    let finding = Finding::new("src/loader.py", Some(3), Severity::Warning, "debug", "a print is left over", "print(");
    fixture.spine.reviewer.finds(Ok(vec![finding.clone(), finding.clone()]));
    fixture.approve(request, None).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.spine.host.findings(), [finding]);

    fixture.spine.reviewer.finds(Err("no model".into()));
    let request = fixture.patch_ready().await.id;
    fixture.approve(request, None).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Reviewed);
    let merge_requests = fixture.forge.store().merge_requests(&samples::tenant()).await.unwrap();
    let review = merge_requests.into_iter().find(|mr| mr.request == request).unwrap().review.unwrap();
    assert!(review.findings[0].message.contains("no model"), "{review:?}");
}

#[tokio::test]
async fn a_follow_up_moves_the_merge_request_on() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    fixture.approve(request, None).await.unwrap();
    fixture.work().await;
    let mut change = samples::change_set(&samples::run(&samples::request())).change;
    change.head_commit = "d".repeat(40);
    fixture.commits(&change);
    fixture.spine.broker.holds(Some(change));
    fixture.chat(request, "one more thing").await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::PatchReady);
    fixture.approve(request, None).await.unwrap();
    fixture.work().await;
    let merge_requests = fixture.forge.store().merge_requests(&samples::tenant()).await.unwrap();
    assert_eq!(merge_requests.len(), 1);
    assert_eq!(merge_requests[0].proposal.commit, "d".repeat(40));
}

#[tokio::test]
async fn a_waiting_run_is_cancelled_at_once() {
    let fixture = Fixture::new().await;
    let request = fixture.submit().await.id;
    let cancelled = fixture.cancel(CancelTarget::Request(request)).await.unwrap();
    assert_eq!(cancelled.state, RequestState::Cancelled);
    fixture.work().await;
    assert!(fixture.spine.agent.assignments().is_empty());
    let run = fixture.forge.store().runs_of(request).await.unwrap().remove(0);
    assert_eq!(run.status, RunStatus::Cancelled);
    check_conflict(fixture.cancel(CancelTarget::Run(run.id)).await, "is over already");
}

#[tokio::test]
async fn a_run_at_work_is_stopped() {
    let fixture = Fixture::new().await;
    fixture.spine.agent.play(|_, _, cancel| {
        async move {
            cancel.cancelled().await;
            Err(RunFailure::new(FailureCause::Cancelled, "stopped by its own account"))
        }
        .boxed()
    });
    let request = fixture.submit().await.id;
    let working = fixture.work();
    let cancelling = async {
        while fixture.spine.agent.assignments().is_empty() {
            tokio::task::yield_now().await;
        }
        fixture.cancel(CancelTarget::Request(request)).await.unwrap();
    };
    tokio::join!(working, cancelling);
    assert_eq!(fixture.state(request).await, RequestState::Cancelled);
    let last = fixture.events(request).await.pop();
    assert_eq!(last, Some(EventKind::Cancelled { message: "Run cancelled".into() }));
    fixture.execute(request).await.unwrap();
}

#[tokio::test]
async fn cancelling_a_waiting_follow_up_leaves_the_change_that_waits_for_approval() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    fixture.chat(request, "also add docs").await.unwrap();
    let follow_up = fixture.forge.store().runs_of(request).await.unwrap().pop().unwrap();
    let left = fixture.cancel(CancelTarget::Run(follow_up.id)).await.unwrap();
    assert_eq!(left.state, RequestState::PatchReady);
    fixture.approve(request, None).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Reviewed);
}

#[tokio::test]
async fn a_waiting_repetition_of_a_failed_run_can_be_cancelled() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    fixture.force(request, RequestState::Failed).await;
    fixture.execute(request).await.unwrap();
    let left = fixture.cancel(CancelTarget::Request(request)).await.unwrap();
    assert_eq!(left.state, RequestState::Failed);
    assert!(fixture.forge.store().waiting_jobs(request).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_cancelled_request_without_a_run_stays_cancelled() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    fixture.cancel(CancelTarget::Request(request)).await.unwrap();
    assert_eq!(fixture.state(request).await, RequestState::Cancelled);
    fixture.force(request, RequestState::Done).await;
    check_conflict(fixture.cancel(CancelTarget::Request(request)).await, "cannot become CANCELLED");
}

#[tokio::test]
async fn a_run_that_a_dead_process_was_at_begins_anew() {
    let fixture = Fixture::new().await;
    let request = fixture.submit().await.id;
    fixture.begin_and_die().await;
    assert_eq!(fixture.state(request).await, RequestState::Executing);

    let worker = Worker::new(fixture.forge.clone());
    assert_eq!(worker.recover().await.unwrap(), 1);
    assert_eq!(fixture.state(request).await, RequestState::Executing, "nobody has to ask for it again");
    assert_eq!(worker.recover().await.unwrap(), 0);
    fixture.check_done_at_second_attempt(request).await;
}

#[tokio::test]
async fn a_publication_that_a_dead_process_left_is_done_again() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    fixture.approve(request, None).await.unwrap();
    assert!(
        fixture.forge.store().claim_job(samples::at(99), samples::at(99 + 60), Limits::NONE).await.unwrap().is_some()
    );
    Worker::new(fixture.forge.clone()).recover().await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Reviewed);
    assert_eq!(fixture.spine.host.n_opened(), 1);
}

#[tokio::test]
async fn a_run_that_a_stopped_server_was_at_begins_anew() {
    let fixture = Fixture::new().await;
    fixture.spine.agent.play(|_, _, cancel| {
        async move {
            cancel.cancelled().await;
            Err(RunFailure::new(FailureCause::Cancelled, "stopped"))
        }
        .boxed()
    });
    let request = fixture.submit().await.id;
    let (canceller, stop) = Cancellation::pair();
    let worker = Worker::new(fixture.forge.clone());
    let stopping = async {
        while fixture.spine.agent.assignments().is_empty() {
            tokio::task::yield_now().await;
        }
        canceller.cancel();
    };
    tokio::join!(worker.run(stop), stopping);
    assert_eq!(fixture.state(request).await, RequestState::Executing);
    fixture.check_done_at_second_attempt(request).await;
    let told = fixture.events(request).await;
    assert!(told.contains(&EventKind::status("queue", "The server was stopped; another worker begins the run anew")));
}

#[tokio::test]
async fn a_run_that_was_to_stop_when_its_process_died_does_not_begin_anew() {
    let fixture = Fixture::new().await;
    let request = fixture.submit().await.id;
    fixture.begin_and_die().await;
    fixture.cancel(CancelTarget::Request(request)).await.unwrap();
    assert_eq!(fixture.state(request).await, RequestState::Executing, "its worker is to end it");
    Worker::new(fixture.forge.clone()).recover().await.unwrap();
    assert_eq!(fixture.state(request).await, RequestState::Cancelled);
    fixture.work().await;
    assert_eq!(fixture.spine.agent.assignments().len(), 1);
}

#[tokio::test]
async fn a_run_can_be_cancelled_between_two_attempts() {
    let fixture = Fixture::new().await;
    let request = fixture.submit().await.id;
    fixture.begin_and_die().await;
    Worker::new(fixture.forge.clone()).recover().await.unwrap();
    fixture.cancel(CancelTarget::Request(request)).await.unwrap();
    assert_eq!(fixture.state(request).await, RequestState::Cancelled);
    fixture.work().await;
    assert_eq!(fixture.spine.agent.assignments().len(), 1);
    let ends = fixture.events(request).await.iter().filter(|event| event.ends_run()).count();
    assert_eq!(ends, 1);
}

#[tokio::test]
async fn a_layer_around_the_commands_is_met_by_every_one_of_them() {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };
    let spine = Spine::new().await;
    let seen = Arc::new(AtomicU32::new(0));
    let layer = CountLayer(seen.clone());
    let forge = Forge::builder(spine.ports(Settings::default())).layer(layer).build();
    let fixture = Fixture { spine, forge };
    let request = fixture.patch_ready().await.id;
    fixture.approve(request, None).await.unwrap();
    fixture.work().await;
    assert_eq!(seen.load(Ordering::SeqCst), 4, "submit, approve, open, review");
    assert!(matches!(fixture.approve(request, None).await, Err(ForgeError::Conflict { .. })), "errors keep their type");
}

/// Puts [`Counted`] around a service.
#[derive(Clone)]
struct CountLayer(std::sync::Arc<std::sync::atomic::AtomicU32>);

impl<S> tower::Layer<S> for CountLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, seen: self.0.clone() }
    }
}

/// Counts the commands that pass.
#[derive(Clone)]
struct Counted<S> {
    inner: S,
    seen: std::sync::Arc<std::sync::atomic::AtomicU32>,
}

impl<C, S: tower::Service<C>> tower::Service<C> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, command: C) -> S::Future {
        self.seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.inner.call(command)
    }
}
