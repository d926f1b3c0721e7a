//! Stores that fail, commands that race, and agents that leave something behind.

use astraforge_core::{
    access::Role,
    command::{CancelTarget, ExecutePlan, GeneratePlan, Start, SubmitRequest},
    event::EventKind,
    forge::{Forge, Settings},
    id::RequestId,
    job::{JobKind, Limits},
    ports::{executor::AgentOutcome, store::Changes},
    repository::{RepositoryLink, Secret},
    request::RequestState,
    run::{FailureCause, RunFailure, RunStatus},
    testing::{Spine, TestClock, samples},
    worker::Worker,
};
use futures::FutureExt;

use crate::spine::{Fixture, check_conflict};

/// A fixture whose waits cost no time.
async fn hurried() -> Fixture {
    let spine = Spine { clock: TestClock::hurried(), ..Spine::new().await };
    let forge = Forge::new(spine.ports(Settings::default()));
    Fixture { spine, forge }
}

fn ends_a_job(changes: &Changes) -> bool {
    !changes.ended_jobs.is_empty()
}

async fn only_run(fixture: &Fixture, request: RequestId) -> astraforge_core::run::Run {
    fixture.forge.store().runs_of(request).await.unwrap().remove(0)
}

async fn n_ends(fixture: &Fixture, request: RequestId) -> usize {
    fixture.events(request).await.iter().filter(|event| event.ends_run()).count()
}

#[tokio::test]
async fn the_end_of_a_run_is_written_once_the_store_takes_it() {
    let fixture = hurried().await;
    let request = fixture.submit().await.id;
    fixture.spine.store.refuse(7, ends_a_job);
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::PatchReady);
    assert_eq!(only_run(&fixture, request).await.status, RunStatus::Completed);
    assert_eq!(n_ends(&fixture, request).await, 1);
}

#[tokio::test]
async fn a_result_that_the_store_never_takes_fails_the_run() {
    let fixture = hurried().await;
    let request = fixture.submit().await.id;
    fixture.spine.store.refuse(usize::MAX, |changes| changes.change_set.is_some());
    fixture.work().await;
    let run = only_run(&fixture, request).await;
    assert_eq!((fixture.state(request).await, run.status), (RequestState::Failed, RunStatus::Failed));
    assert!(run.failure.unwrap().message.contains("could not be written"));
    fixture.execute(request).await.unwrap();
}

#[tokio::test]
async fn a_store_that_fails_when_a_run_begins_fails_the_run() {
    let fixture = hurried().await;
    let request = fixture.submit().await.id;
    fixture.spine.store.refuse(1, |changes| !changes.runs.is_empty());
    fixture.work().await;
    assert_eq!(only_run(&fixture, request).await.failure.unwrap().cause, FailureCause::Internal);
    assert!(fixture.spine.agent.assignments().is_empty());
}

#[tokio::test]
async fn the_end_of_a_review_is_written_once_the_store_takes_it() {
    let fixture = hurried().await;
    let request = fixture.patch_ready().await.id;
    fixture.approve(request, None).await.unwrap();
    fixture.spine.store.refuse(5, ends_a_job);
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Reviewed);
    assert!(fixture.forge.store().running_jobs().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_run_that_was_cancelled_before_its_worker_began_ends_once() {
    let fixture = Fixture::new().await;
    let request = fixture.submit().await.id;
    assert!(
        fixture.forge.store().claim_job(samples::at(99), samples::at(99 + 60), Limits::NONE).await.unwrap().is_some()
    );
    fixture.cancel(CancelTarget::Request(request)).await.unwrap();
    fixture.execute(request).await.unwrap();
    Worker::new(fixture.forge.clone()).recover().await.unwrap();
    assert_eq!(n_ends(&fixture, request).await, 1);
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::PatchReady);
    let runs = fixture.forge.store().runs_of(request).await.unwrap();
    assert_eq!(runs.iter().map(|run| run.status).collect::<Vec<_>>(), [RunStatus::Cancelled, RunStatus::Completed]);
}

#[tokio::test]
async fn a_run_that_had_not_begun_when_its_server_died_waits_again() {
    let fixture = Fixture::new().await;
    let request = fixture.submit().await.id;
    assert!(
        fixture.forge.store().claim_job(samples::at(99), samples::at(99 + 60), Limits::NONE).await.unwrap().is_some()
    );
    Worker::new(fixture.forge.clone()).recover().await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::PatchReady);
    assert_eq!(n_ends(&fixture, request).await, 1);
}

#[tokio::test]
async fn a_publication_that_a_dead_process_left_keeps_its_place_before_a_follow_up() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    fixture.approve(request, None).await.unwrap();
    assert!(
        fixture.forge.store().claim_job(samples::at(99), samples::at(99 + 60), Limits::NONE).await.unwrap().is_some()
    );
    fixture.spine.clock.advance(std::time::Duration::from_secs(1));
    fixture.chat(request, "and one more thing").await.unwrap();
    fixture.spine.clock.advance(std::time::Duration::from_secs(1));
    Worker::new(fixture.forge.clone()).recover().await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.spine.host.n_opened(), 1);
    assert_eq!(fixture.spine.agent.assignments().len(), 2);
}

#[tokio::test]
async fn a_cancelled_request_is_not_published() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    fixture.approve(request, None).await.unwrap();
    fixture.cancel(CancelTarget::Request(request)).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Cancelled);
    assert!(fixture.spine.broker.published().is_empty());
}

#[tokio::test]
async fn a_publication_at_work_is_not_cancelled() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    fixture.approve(request, None).await.unwrap();
    assert!(
        fixture.forge.store().claim_job(samples::at(99), samples::at(99 + 60), Limits::NONE).await.unwrap().is_some()
    );
    check_conflict(fixture.cancel(CancelTarget::Request(request)).await, "being published");
    assert_eq!(fixture.state(request).await, RequestState::PatchReady);
}

#[tokio::test]
async fn a_change_whose_follow_up_failed_is_not_published() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    fixture.spine.agent.play(|_, _, _| async { Err(RunFailure::new(FailureCause::Agent, "no")) }.boxed());
    fixture.chat(request, "go on").await.unwrap();
    fixture.spine.clock.advance(std::time::Duration::from_secs(1));
    fixture.approve(request, None).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Failed);
    assert!(fixture.spine.broker.published().is_empty(), "{:?}", fixture.spine.broker.published());
}

#[tokio::test]
async fn a_follow_up_that_changes_nothing_leaves_the_merge_request_to_be_approved_again() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    fixture.approve(request, None).await.unwrap();
    fixture.work().await;
    fixture.chat(request, "is it right?").await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::PatchReady);
    fixture.approve(request, None).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Reviewed);
    assert_eq!(fixture.forge.store().approvals(request).await.unwrap().len(), 1, "it is the same change");
    assert_eq!(fixture.forge.store().merge_requests(&samples::tenant()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_change_that_a_follow_up_took_back_cannot_be_approved() {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    fixture.spine.broker.holds(None);
    fixture.chat(request, "take it back").await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::PatchReady);
    check_conflict(fixture.approve(request, None).await, "nothing to approve");
}

#[tokio::test]
async fn a_commit_that_was_pushed_behind_the_collected_one_is_refused() {
    let fixture = Fixture::new().await;
    let mut change = samples::change_set(&samples::run(&samples::request())).change;
    change.head_commit = "e".repeat(40);
    fixture.spine.broker.holds(Some(change));
    let request = fixture.submit().await.id;
    fixture.work().await;
    let failure = only_run(&fixture, request).await.failure.unwrap();
    assert_eq!(failure.cause, FailureCause::Push);
    assert!(failure.message.contains("pushed another commit"), "{failure}");
}

#[tokio::test]
async fn a_run_that_waits_for_a_repository_host_is_stopped() {
    let fixture = hurried().await;
    fixture.spine.broker.stalls();
    let request = fixture.submit().await.id;
    let cancelling = async {
        while fixture.state(request).await != RequestState::Executing {
            tokio::task::yield_now().await;
        }
        fixture.cancel(CancelTarget::Request(request)).await.unwrap();
    };
    tokio::join!(fixture.work(), cancelling);
    assert_eq!(fixture.state(request).await, RequestState::Cancelled);
}

#[tokio::test]
async fn a_broken_reviewer_is_a_finding() {
    let fixture = Fixture::new().await;
    fixture.spine.reviewer.breaks();
    let request = fixture.patch_ready().await.id;
    fixture.approve(request, None).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Reviewed);
    let review = fixture.forge.store().merge_requests(&samples::tenant()).await.unwrap().remove(0).review.unwrap();
    assert!(review.findings[0].message.contains("it broke"), "{review:?}");
}

#[tokio::test]
async fn a_plan_is_executed_once() {
    let fixture = Fixture::new().await;
    let submission = SubmitRequest { start: Start::AfterPlan, ..fixture.submission() };
    let request = fixture.forge.submit(submission).await.unwrap().id;
    let caller = fixture.spine.caller("ada", Role::Maintainer);
    fixture.forge.plan(GeneratePlan { caller: caller.clone(), request }).await.unwrap();
    let command = ExecutePlan { caller, request };
    fixture.forge.execute_plan(command.clone()).await.unwrap();
    assert!(
        fixture.forge.store().claim_job(samples::at(99), samples::at(99 + 60), Limits::NONE).await.unwrap().is_some()
    );
    check_conflict(fixture.forge.execute_plan(command).await, "queued already");
}

#[tokio::test]
async fn what_a_run_says_in_the_end_holds_no_token_of_its_repository() {
    let fixture = Fixture::new().await;
    let link = RepositoryLink { access_token: Some(Secret::new("token-of-the-host")), ..fixture.spine.link.clone() };
    assert!(fixture.forge.store().update_link(link).await.unwrap());
    fixture
        .spine
        .agent
        .play(|_, _, _| async { Err(RunFailure::new(FailureCause::Agent, "refused: token-of-the-host")) }.boxed());
    let request = fixture.submit().await.id;
    fixture.work().await;
    let run = only_run(&fixture, request).await;
    assert_eq!(run.failure.unwrap().message, "refused: [redacted]");
    assert!(fixture.events(request).await.contains(&EventKind::failed("refused: [redacted]")));
}

#[tokio::test]
async fn the_conversation_is_kept_without_secrets_and_otherwise_as_it_is() {
    let fixture = Fixture::new().await;
    let _known = fixture.spine.redactor.learn(Secret::new("a \"quoted\" secret"));
    let look_alike = format!("sk-{}", "x".repeat(30));
    let rollout = serde_json::json!({ "output": "a \"quoted\" secret", "encrypted_content": look_alike }).to_string();
    fixture.spine.agent.play(move |_, _, _| {
        let thread = astraforge_core::ports::executor::Thread { id: "t".into(), rollout: rollout.clone().into() };
        let outcome = AgentOutcome { thread: Some(thread), final_message: Some("x".into()), ..AgentOutcome::default() };
        async { Ok(outcome) }.boxed()
    });
    let request = fixture.submit().await.id;
    fixture.work().await;
    fixture.chat(request, "go on").await.unwrap();
    fixture.work().await;
    let resumed = fixture.spine.agent.assignments().pop().unwrap().resume.unwrap();
    let kept: serde_json::Value = serde_json::from_slice(&resumed.rollout).unwrap();
    assert_eq!(kept, serde_json::json!({ "output": "[redacted]", "encrypted_content": look_alike }));
    let jobs = fixture.forge.store().waiting_jobs(request).await.unwrap();
    assert!(!jobs.iter().any(|job| matches!(job.kind, JobKind::Execute { .. })));
}
