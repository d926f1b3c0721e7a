//! Publications and reviews that fail for a reason that may pass.

use std::time::Duration;

use astraforge_core::{
    command::CancelTarget,
    error::ForgeError,
    event::EventKind,
    id::RequestId,
    job::{JobKind, JobState, Limits, QueuedJob, backoff, desk},
    ports::{clock::Clock as _, git::GitError, store::Store as _},
    request::RequestState,
    run::{FailureCause, RunFailure, RunStatus},
};

use futures::FutureExt;

use crate::spine::{Fixture, check_conflict};

/// A request whose change is approved and not published yet.
async fn approved() -> (Fixture, RequestId) {
    let fixture = Fixture::new().await;
    let request = fixture.patch_ready().await.id;
    fixture.approve(request, None).await.unwrap();
    (fixture, request)
}

fn away() -> GitError {
    GitError::Unreachable { repository: "acme/loader".to_owned() }
}

/// Lets the host fail for as long as jobs are tried again, or `times`.
async fn fails(fixture: &Fixture, times: u32) {
    for _ in 0..times {
        fixture.spine.host.fails_to_open(away());
        fixture.work().await;
        fixture.spine.clock.advance(Duration::from_secs(300));
    }
}

async fn dead(fixture: &Fixture) -> Vec<QueuedJob> {
    fixture.spine.store.jobs(JobState::Dead, 10).await.unwrap()
}

async fn errors(fixture: &Fixture, request: RequestId) -> Vec<String> {
    let error = |event| match event {
        EventKind::Error { message, .. } => Some(message),
        _ => None,
    };
    fixture.events(request).await.into_iter().filter_map(error).collect()
}

#[tokio::test]
async fn a_publication_whose_host_is_away_is_tried_again_when_its_time_has_come() {
    let (fixture, request) = approved().await;
    fixture.spine.host.fails_to_open(away());
    fixture.work().await;
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::PatchReady, "it waits");
    let told = fixture.events(request).await.pop().unwrap();
    let EventKind::Status { stage, message } = &told else { panic!("{told:?}") };
    assert_eq!(stage, "queue");
    assert!(message.contains("cannot be reached") && message.contains("failure 1 of 5"), "{message}");
    fixture.spine.clock.advance(Duration::from_secs(5));
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Reviewed);
    assert_eq!(errors(&fixture, request).await, [""; 0]);
}

#[tokio::test]
async fn a_publication_whose_host_stays_away_is_kept_and_tried_again_when_somebody_says_so() {
    let (fixture, request) = approved().await;
    fails(&fixture, backoff::MOST_FAILURES).await;
    fixture.work().await;
    let kept = dead(&fixture).await.remove(0);
    assert!(matches!(kept.job.kind, JobKind::OpenMergeRequest { .. }));
    assert!(kept.error.unwrap().contains("cannot be reached"));
    let told = errors(&fixture, request).await;
    assert!(told.len() == 1 && told[0].contains("given up after 5 failures"), "{told:?}");
    assert_eq!(fixture.spine.host.n_opened(), 0);

    desk::retry(fixture.forge.journal(), kept.job.id).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Reviewed);
    assert_eq!(fixture.spine.host.n_opened(), 1);
    assert!(dead(&fixture).await.is_empty());
}

#[tokio::test]
async fn a_dead_publication_does_not_hold_up_a_follow_up() {
    let (fixture, request) = approved().await;
    fails(&fixture, backoff::MOST_FAILURES).await;
    fixture.chat(request, "go on").await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.spine.agent.assignments().len(), 2);
}

#[tokio::test]
async fn a_dropped_job_ends_and_the_log_says_so() {
    let (fixture, request) = approved().await;
    let waiting = fixture.spine.store.waiting_jobs(request).await.unwrap().remove(0);
    check_conflict(desk::drop(fixture.forge.journal(), waiting.id).await, "is waiting");
    fails(&fixture, backoff::MOST_FAILURES).await;
    let id = dead(&fixture).await.remove(0).job.id;
    desk::drop(fixture.forge.journal(), id).await.unwrap();
    assert!(dead(&fixture).await.is_empty());
    let told = errors(&fixture, request).await.pop().unwrap();
    assert!(told.contains("dropped") && told.contains("cannot be reached"), "{told}");
    let again = desk::drop(fixture.forge.journal(), id).await;
    assert!(matches!(again, Err(ForgeError::NotFound { .. })), "{again:?}");
    fixture.approve(request, None).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Reviewed, "and it can be approved again");
}

#[tokio::test]
async fn a_job_at_work_is_not_tried_a_second_time_meanwhile() {
    let (fixture, _) = approved().await;
    let now = fixture.spine.clock.now();
    let job = fixture.spine.store.claim_job(now, now + Duration::from_secs(60), Limits::NONE).await.unwrap().unwrap();
    check_conflict(desk::retry(fixture.forge.journal(), job.id).await, "is running");
}

#[tokio::test]
async fn what_cannot_pass_is_not_tried_again() {
    let (fixture, request) = approved().await;
    fixture.spine.host.fails_to_open(GitError::Diverged { branch: "x".to_owned() });
    fixture.work().await;
    assert_eq!(errors(&fixture, request).await.len(), 1);
    assert!(fixture.spine.store.waiting_jobs(request).await.unwrap().is_empty());
    assert!(dead(&fixture).await.is_empty());
}

#[tokio::test]
async fn a_publication_that_waits_for_its_host_is_cancelled_with_its_request() {
    let (fixture, request) = approved().await;
    fails(&fixture, 1).await;
    fixture.cancel(CancelTarget::Request(request)).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Cancelled);
    assert_eq!(fixture.spine.host.n_opened(), 0);
}

/// Cancels a request whose branch was published and whose merge request was not opened.
async fn check_taken_back(fixture: &Fixture, request: RequestId) {
    assert!(!fixture.spine.broker.published().is_empty());
    fixture.cancel(CancelTarget::Request(request)).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Cancelled);
    assert_eq!((fixture.spine.broker.published(), fixture.spine.host.n_opened()), (vec![], 0));
    let told = errors(fixture, request).await.pop().unwrap();
    assert!(told.contains("was cancelled") && told.contains("was taken back"), "{told}");
    assert!(fixture.spine.store.waiting_jobs(request).await.unwrap().is_empty() && dead(fixture).await.is_empty());
}

#[tokio::test]
async fn what_a_publication_began_is_taken_back_at_once_when_its_request_is_cancelled() {
    let (fixture, request) = approved().await;
    fixture.spine.host.fails_to_open(away());
    fixture.work().await;
    check_taken_back(&fixture, request).await;
}

#[tokio::test]
async fn what_a_dead_publication_began_is_taken_back_when_its_request_is_cancelled() {
    let (fixture, request) = approved().await;
    fails(&fixture, backoff::MOST_FAILURES).await;
    assert_eq!(dead(&fixture).await.len(), 1);
    check_taken_back(&fixture, request).await;
}

#[tokio::test]
async fn what_a_dead_publication_began_is_taken_back_when_a_follow_up_at_work_is_cancelled() {
    let (fixture, request) = approved().await;
    fails(&fixture, backoff::MOST_FAILURES).await;
    fixture.chat(request, "go on").await.unwrap();
    fixture.spine.agent.play(|_, _, cancel| {
        async move {
            cancel.cancelled().await;
            Err(RunFailure::new(FailureCause::Cancelled, "Run cancelled"))
        }
        .boxed()
    });
    let n_begun = fixture.spine.agent.assignments().len();
    let cancelling = async {
        while fixture.spine.agent.assignments().len() == n_begun {
            tokio::task::yield_now().await;
        }
        fixture.cancel(CancelTarget::Request(request)).await.unwrap();
    };
    tokio::join!(fixture.work(), cancelling);
    assert_eq!(fixture.state(request).await, RequestState::Cancelled);
    assert!(fixture.spine.broker.published().is_empty() && dead(&fixture).await.is_empty());
}

#[tokio::test]
async fn what_was_taken_back_is_published_when_its_request_goes_on() {
    let (fixture, request) = approved().await;
    fixture.spine.host.fails_to_open(away());
    fixture.work().await;
    fixture.cancel(CancelTarget::Request(request)).await.unwrap();
    fixture.chat(request, "go on").await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::PatchReady);
    assert!(fixture.spine.broker.published().is_empty());
    fixture.approve(request, None).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::Reviewed);
}

#[tokio::test]
async fn a_follow_up_waits_behind_a_publication_that_is_tried_again() {
    let (fixture, request) = approved().await;
    fixture.spine.host.fails_to_open(away());
    fixture.work().await;
    fixture.chat(request, "go on").await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.spine.agent.assignments().len(), 1, "it would change what is about to be published");
    fixture.spine.clock.advance(Duration::from_secs(5));
    fixture.work().await;
    assert_eq!(fixture.spine.host.n_opened(), 1);
    let runs = fixture.forge.store().runs_of(request).await.unwrap();
    assert!(runs.iter().all(|run| run.status == RunStatus::Completed) && runs.len() == 2);
}
