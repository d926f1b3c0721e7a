//! Workers that die, and workers that are taken for dead.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use astraforge_core::{
    event::EventKind,
    forge::{Forge, Settings},
    id::RequestId,
    job::{Job, Limits},
    ports::{clock::Clock, executor::AgentOutcome, store::Store},
    request::RequestState,
    run::{FailureCause, RunFailure, RunStatus},
    testing::{MemoryStore, Spine, TestClock},
    worker::Worker,
};
use chrono::{DateTime, Utc};
use futures::FutureExt;

use crate::spine::Fixture;

/// What another worker does that takes this one for dead, and is itself at work until `until`.
async fn taken_over(store: &MemoryStore, until: DateTime<Utc>) -> Job {
    store.take_over_job(DateTime::<Utc>::MAX_UTC, until).await.unwrap().unwrap()
}

/// What a worker does that then dies.
async fn claimed(fixture: &Fixture) -> Job {
    let now = fixture.spine.clock.now();
    fixture.forge.store().claim_job(now, now + Worker::LEASE, Limits::NONE).await.unwrap().unwrap()
}

async fn statuses(fixture: &Fixture, request: RequestId) -> Vec<RunStatus> {
    fixture.forge.store().runs_of(request).await.unwrap().into_iter().map(|run| run.status).collect()
}

#[tokio::test]
async fn what_a_dead_worker_left_is_taken_up_once_its_lease_has_ended() {
    let fixture = Fixture::new().await;
    let request = fixture.submit().await.id;
    claimed(&fixture).await;
    fixture.spine.clock.advance(Worker::LEASE);
    fixture.work().await;
    assert!(fixture.spine.agent.assignments().is_empty(), "its lease has not ended");
    fixture.spine.clock.advance(Duration::from_secs(1));
    fixture.work().await;
    assert!(fixture.spine.agent.assignments().is_empty(), "what may kill workers is left alone for a moment");
    fixture.spine.clock.advance(Duration::from_secs(5));
    fixture.work().await;
    assert_eq!(fixture.state(request).await, RequestState::PatchReady);
    assert_eq!(fixture.spine.agent.assignments().len(), 1);
}

#[tokio::test]
async fn a_job_whose_workers_die_again_and_again_is_given_up() {
    let fixture = Fixture::new().await;
    let request = fixture.submit().await.id;
    for _ in 0..5 {
        claimed(&fixture).await;
        fixture.spine.clock.advance(Worker::LEASE * 2);
        // Settles what is left, and would begin anew; it dies first.
        let worker = Worker::new(fixture.forge.clone());
        if worker.recover().await.unwrap() == 0 {
            break;
        }
    }
    fixture.work().await;
    assert_eq!(statuses(&fixture, request).await, [RunStatus::Failed]);
    assert_eq!(fixture.state(request).await, RequestState::Failed);
    let failure = fixture.forge.store().runs_of(request).await.unwrap().remove(0).failure.unwrap();
    assert_eq!(failure.cause, FailureCause::Interrupted);
    assert!(failure.message.contains("again and again"), "{}", failure.message);
    assert!(fixture.spine.agent.assignments().is_empty());
}

#[tokio::test]
async fn a_worker_that_was_taken_for_dead_writes_nothing_more() {
    let fixture = Fixture::new().await;
    let request = fixture.submit().await.id;
    let (store, until) = (fixture.spine.store.clone(), fixture.spine.clock.now() + Worker::LEASE);
    fixture.spine.agent.play(move |_, reporter, _| {
        let store = store.clone();
        async move {
            taken_over(&store, until).await;
            // Whether it was written is seen in the log.
            _ = reporter.emit(EventKind::log("late")).await;
            Ok(AgentOutcome { final_message: Some("late".into()), ..AgentOutcome::default() })
        }
        .boxed()
    });
    fixture.work().await;
    assert_eq!(statuses(&fixture, request).await, [RunStatus::Running], "its end is another worker's to write");
    assert!(!fixture.events(request).await.contains(&EventKind::log("late")));
    assert_eq!(fixture.state(request).await, RequestState::Executing);
    // The other one dies too.
    fixture.spine.clock.advance(Worker::LEASE * 2);
    fixture.work().await;
    assert_eq!(statuses(&fixture, request).await, [RunStatus::Queued], "a third one begins it anew, in a moment");
    fixture.spine.agent.play(|_, _, _| async { Ok(AgentOutcome::default()) }.boxed());
    fixture.spine.clock.advance(Duration::from_secs(60));
    fixture.work().await;
    assert_eq!(statuses(&fixture, request).await, [RunStatus::Completed]);
    assert!(!fixture.events(request).await.contains(&EventKind::log("late")));
    assert_eq!(fixture.events(request).await.iter().filter(|event| event.ends_run()).count(), 1);
}

#[tokio::test]
async fn a_worker_that_lost_its_job_stops_the_agent() {
    let spine = Spine { clock: TestClock::hurried(), ..Spine::new().await };
    let forge = Forge::new(spine.ports(Settings::default()));
    let fixture = Fixture { spine, forge };
    let request = fixture.submit().await.id;
    let store = fixture.spine.store.clone();
    fixture.spine.agent.play(move |_, _, cancel| {
        let store = store.clone();
        async move {
            taken_over(&store, DateTime::<Utc>::MAX_UTC).await;
            cancel.cancelled().await;
            Err(RunFailure::new(FailureCause::Cancelled, "Run cancelled"))
        }
        .boxed()
    });
    tokio::time::timeout(Duration::from_secs(30), fixture.work()).await.unwrap();
    assert_eq!(statuses(&fixture, request).await, [RunStatus::Running]);
}

#[tokio::test]
async fn a_lease_is_renewed_as_long_as_the_agent_works() {
    let spine = Spine { clock: TestClock::hurried(), ..Spine::new().await };
    let forge = Forge::new(spine.ports(Settings::default()));
    let fixture = Fixture { spine, forge };
    let request = fixture.submit().await.id;
    let (store, clock) = (fixture.spine.store.clone(), fixture.spine.clock.clone());
    fixture.spine.agent.play(move |_, _, _| {
        let (store, clock) = (store.clone(), clock.clone());
        async move {
            let began = clock.now();
            while clock.now() < began + Worker::LEASE * 10 {
                tokio::task::yield_now().await;
            }
            let far = DateTime::<Utc>::MAX_UTC;
            assert_eq!(store.take_over_job(clock.now(), far).await.unwrap(), None, "the lease has ended");
            Ok(AgentOutcome::default())
        }
        .boxed()
    });
    fixture.work().await;
    assert_eq!(statuses(&fixture, request).await, [RunStatus::Completed]);
}

#[tokio::test]
async fn a_worker_whose_store_is_cut_off_stops_the_agent_when_its_lease_ends() {
    // One whose thirds are no whole seconds, too.
    for lease in [Worker::LEASE, Duration::from_secs(10)] {
        check_stops_in_time(lease).await;
    }
}

async fn check_stops_in_time(lease: Duration) {
    let spine = Spine { clock: TestClock::hurried(), ..Spine::new().await };
    let forge = Forge::new(spine.ports(Settings::default()));
    let fixture = Fixture { spine, forge };
    let request = fixture.submit().await.id;
    let (store, clock) = (fixture.spine.store.clone(), fixture.spine.clock.clone());
    let began = clock.now();
    // Told to the test: a worker survives an agent that panics.
    let stopped = Arc::new(Mutex::new(None));
    let told = stopped.clone();
    fixture.spine.agent.play(move |_, _, cancel| {
        let (store, clock, told) = (store.clone(), clock.clone(), told.clone());
        async move {
            if told.lock().unwrap().is_some() {
                return Ok(AgentOutcome::default());
            }
            store.falls_silent();
            cancel.cancelled().await;
            *told.lock().unwrap() = Some(clock.now());
            Err(RunFailure::new(FailureCause::Cancelled, "Run cancelled"))
        }
        .boxed()
    });
    let worker = Worker::new(fixture.forge.clone()).with_lease(lease);
    tokio::time::timeout(Duration::from_secs(30), worker.drain()).await.unwrap().unwrap();
    let told = fixture.events(request).await;
    let lost = |event: &EventKind| matches!(event, EventKind::Status { message, .. } if message.contains("lost hold"));
    assert!(told.iter().any(lost), "it counts as a loss, and nobody was stopped: {told:?}");
    let took = (stopped.lock().unwrap().unwrap() - began).to_std().unwrap();
    assert!(took >= lease, "it was stopped before its lease had ended");
    assert!(took < lease + Duration::from_secs(1), "it worked on for {took:?} on a lease of {lease:?}");
}
