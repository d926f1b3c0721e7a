//! Publications and reviews that fail for a reason that may pass.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use astraforge_core::{
    access::Role,
    command::{CancelRun, CancelTarget},
    error::ForgeError,
    event::EventKind,
    forge::{Forge, Ports, Settings},
    id::RequestId,
    job::{JobKind, JobState, Limits, QueuedJob, backoff, desk},
    ports::{
        clock::Clock as _,
        git::{Base, GitBroker, GitError, Remote},
        guest_service::GuestService,
        store::Store as _,
    },
    request::{RequestState, change_set::Change},
    run::{FailureCause, RunFailure, RunStatus},
    worker::Worker,
};
use async_trait::async_trait;
use futures::{FutureExt, future::BoxFuture};

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

/// A broker whose worker is halted just before it publishes, while others go on.
struct Halted {
    inner: Arc<dyn GitBroker>,
    meanwhile: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl fmt::Debug for Halted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Halted").finish_non_exhaustive()
    }
}

#[async_trait]
impl GitBroker for Halted {
    async fn mirror(
        &self,
        request: RequestId,
        remote: &Remote,
        branch: Option<&str>,
        standing: Option<&Change>,
    ) -> Result<Base, GitError> {
        self.inner.mirror(request, remote, branch, standing).await
    }

    fn service(&self, request: RequestId, work_branch: &str) -> Arc<dyn GuestService> {
        self.inner.service(request, work_branch)
    }

    async fn change(&self, request: RequestId, base: &Base, branch: &str) -> Result<Option<Change>, GitError> {
        self.inner.change(request, base, branch).await
    }

    async fn keep(&self, request: RequestId, change: &Change) -> Result<(), GitError> {
        self.inner.keep(request, change).await
    }

    async fn publish(&self, request: RequestId, remote: &Remote, commit: &str, branch: &str) -> Result<(), GitError> {
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile.await;
        }
        self.inner.publish(request, remote, commit, branch).await
    }

    async fn withdraw(
        &self,
        request: RequestId,
        remote: &Remote,
        commit: &str,
        branch: &str,
        before: Option<&str>,
    ) -> Result<bool, GitError> {
        self.inner.withdraw(request, remote, commit, branch, before).await
    }

    async fn discard(&self, request: RequestId) -> Result<(), GitError> {
        self.inner.discard(request).await
    }
}

#[tokio::test]
async fn what_a_worker_publishes_that_was_halted_for_long_is_taken_back_by_itself() {
    let (fixture, request) = approved().await;
    check_halted(&fixture, request).await;
    assert_eq!(fixture.spine.host.n_opened(), 1);
}

#[tokio::test]
async fn what_it_publishes_is_taken_back_too_when_its_host_goes_away() {
    let (fixture, request) = approved().await;
    fixture.spine.host.fails_to_open(away());
    check_halted(&fixture, request).await;
}

/// Halts a worker before it publishes, until others have cancelled its request.
async fn check_halted(fixture: &Fixture, request: RequestId) {
    let (others, clock) = (fixture.forge.clone(), fixture.spine.clock.clone());
    let caller = fixture.spine.caller("ada", Role::Maintainer);
    let meanwhile = async move {
        clock.advance(Duration::from_secs(60));
        Worker::new(others.clone()).drain().await.unwrap();
        let cancel = CancelRun { caller, target: CancelTarget::Request(request) };
        others.cancel(cancel).await.unwrap();
        Worker::new(others.clone()).drain().await.unwrap();
        assert!(others.store().waiting_jobs(request).await.unwrap().is_empty(), "they are done with it");
    };
    let ports = fixture.spine.ports(Settings::default());
    let halted = Halted { inner: ports.broker.clone(), meanwhile: Mutex::new(Some(meanwhile.boxed())) };
    let halted = Forge::new(Ports { broker: Arc::new(halted), ..ports });
    Worker::new(halted).drain().await.unwrap();
    assert_eq!(fixture.state(request).await, RequestState::Cancelled);
    assert!(fixture.spine.broker.published().is_empty());
}
