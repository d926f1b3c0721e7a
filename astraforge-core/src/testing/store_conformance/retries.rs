//! Rules of jobs that failed: they wait for their time, die, and are revived.

use super::{
    commit,
    jobs::{claim, end, queue},
    submit,
};
use crate::{
    id::JobId,
    job::{Job, JobState, Limits, QueuedJob},
    ports::store::{Changes, EndedJob, FailedJob, Store, StoreError},
    testing::samples::{self, at},
};

pub async fn a_job_that_failed_waits_for_its_time_and_goes_on_counting(store: &impl Store) {
    let job = queue(store, &submit(store).await, 1).await;
    claim(store).await;
    fail(store, job.id, Some(100)).await;
    let waiting = Job { attempts: 1, failures: 1, ..job.clone() };
    let queued = QueuedJob {
        job: waiting.clone(),
        state: JobState::Waiting,
        not_before: Some(at(100)),
        error: Some("the host is away".to_owned()),
    };
    assert_eq!(store.job(job.id).await.unwrap(), Some(queued));
    assert_eq!(store.waiting_jobs(job.request).await.unwrap(), std::slice::from_ref(&waiting));
    assert_eq!(store.claim_job(at(99), at(200), Limits::NONE).await.unwrap(), None, "its time has not come");
    let claimed = store.claim_job(at(100), at(200), Limits::NONE).await.unwrap();
    assert_eq!(claimed, Some(Job { attempts: 2, ..waiting }));
}

pub async fn whoever_had_a_job_that_failed_has_it_no_more(store: &impl Store) {
    let request = submit(store).await;
    queue(store, &request, 1).await;
    let claimed = store.claim_job(at(10), at(20), Limits::NONE).await.unwrap().unwrap();
    fail(store, claimed.id, Some(30)).await;
    assert!(!store.renew_lease(claimed.claim(), at(99)).await.unwrap());
    assert_eq!(store.take_over_job(at(90), at(99)).await.unwrap(), None, "nobody is at it");
    store.claim_job(at(30), at(90), Limits::NONE).await.unwrap().unwrap();
    let late =
        Changes { claim: Some(claimed.claim()), events: vec![samples::log(request.id, "late")], ..Changes::default() };
    assert!(matches!(store.commit(late).await, Err(StoreError::ClaimLost { .. })));
}

pub async fn a_job_that_is_given_back_waits_again_with_no_failure_counted(store: &impl Store) {
    let job = queue(store, &submit(store).await, 1).await;
    let claimed = store.claim_job(at(10), at(20), Limits::NONE).await.unwrap().unwrap();
    hand_back(store, job.id).await;
    assert!(!store.renew_lease(claimed.claim(), at(99)).await.unwrap());
    assert_eq!(store.take_over_job(at(90), at(99)).await.unwrap(), None, "nobody is at it");
    assert_eq!(store.claim_job(at(10), at(20), Limits::NONE).await.unwrap(), Some(Job { attempts: 2, ..job.clone() }));
    end(store, job.id).await;
    hand_back(store, job.id).await;
    assert_eq!(claim(store).await, None, "what is over stays over");
}

pub async fn what_was_right_for_a_job_as_it_was_seen_is_not_written_once_it_moved(store: &impl Store) {
    let job = queue(store, &submit(store).await, 1).await;
    let drop_as = |seen| Changes {
        seen_job: Some((job.id, seen)),
        ended_jobs: vec![EndedJob { id: job.id, error: None }],
        events: vec![samples::log(job.request, "dropped")],
        ..Changes::default()
    };
    for moved in [JobState::Running, JobState::Dead] {
        let refused = store.commit(drop_as(moved)).await;
        assert!(matches!(refused, Err(StoreError::JobMoved { job: id, seen }) if (id, seen) == (job.id, moved)));
    }
    assert_eq!(store.last_event(job.request).await.unwrap(), 0);
    claim(store).await;
    assert!(matches!(store.commit(drop_as(JobState::Waiting)).await, Err(StoreError::JobMoved { .. })));
    commit(store, drop_as(JobState::Running)).await;
    assert!(matches!(store.commit(drop_as(JobState::Running)).await, Err(StoreError::JobMoved { .. })));
}

pub async fn a_job_that_waits_for_its_time_holds_up_its_own_request_alone(store: &impl Store) {
    let (request, other) = (submit(store).await, submit(store).await);
    let first = queue(store, &request, 1).await;
    let behind = queue(store, &request, 2).await;
    let of_other = queue(store, &other, 3).await;
    assert_eq!(claim(store).await, Some(first.id));
    fail(store, first.id, Some(100)).await;
    assert_eq!(claim(store).await, Some(of_other.id));
    assert_eq!(claim(store).await, None, "what is behind it waits too");
    let claimed = store.claim_job(at(100), at(200), Limits::NONE).await.unwrap().unwrap();
    assert_eq!(claimed.id, first.id);
    end(store, first.id).await;
    assert_eq!(claim(store).await, Some(behind.id));
}

pub async fn a_dead_job_is_kept_and_holds_up_nothing(store: &impl Store) {
    let request = submit(store).await;
    let (job, behind) = (queue(store, &request, 1).await, queue(store, &request, 2).await);
    claim(store).await;
    fail(store, job.id, None).await;
    let of_request: Vec<JobId> = store.dead_jobs(request.id).await.unwrap().iter().map(|job| job.id).collect();
    assert_eq!(of_request, [job.id]);
    assert_eq!(store.dead_jobs(submit(store).await.id).await.unwrap(), []);
    let kept = store.jobs(JobState::Dead, 10).await.unwrap();
    assert_eq!(kept.len(), 1);
    let QueuedJob { state, not_before, error, .. } = &kept[0];
    assert_eq!((*state, *not_before, error.as_deref()), (JobState::Dead, None, Some("the host is away")));
    assert_eq!(claim(store).await, Some(behind.id));
    end(store, behind.id).await;
    assert_eq!(store.claim_job(at(9000), at(9999), Limits::NONE).await.unwrap(), None, "no time brings it back");
    assert_eq!(store.take_over_job(at(9000), at(9999)).await.unwrap(), None);
}

pub async fn a_dead_job_is_revived_with_its_failures_forgotten(store: &impl Store) {
    let job = queue(store, &submit(store).await, 1).await;
    claim(store).await;
    fail(store, job.id, None).await;
    revive(store, job.id).await;
    let claimed = store.claim_job(at(9), at(90), Limits::NONE).await.unwrap();
    assert_eq!(claimed, Some(Job { attempts: 2, failures: 0, ..job.clone() }), "no claim is given out twice");
    revive(store, job.id).await;
    assert_eq!(store.running_jobs().await.unwrap().len(), 1, "what runs is left alone");
    fail(store, job.id, Some(1000)).await;
    revive(store, job.id).await;
    assert_eq!(claim(store).await, Some(job.id), "one that waits need not wait longer");
}

pub async fn a_job_that_is_not_at_work_does_not_fail(store: &impl Store) {
    let job = queue(store, &submit(store).await, 1).await;
    fail(store, job.id, None).await;
    fail(store, JobId::random(), None).await;
    assert_eq!(store.jobs(JobState::Dead, 10).await.unwrap(), []);
    assert_eq!(claim(store).await, Some(job.id));
}

pub async fn jobs_are_listed_by_state_the_oldest_first_up_to_a_limit(store: &impl Store) {
    let mut ids = Vec::new();
    for seconds in [30, 10, 20] {
        ids.push(queue(store, &submit(store).await, seconds).await.id);
    }
    let listed = async |state, limit| -> Vec<JobId> {
        store.jobs(state, limit).await.unwrap().into_iter().map(|queued| queued.job.id).collect()
    };
    assert_eq!(listed(JobState::Waiting, 10).await, [ids[1], ids[2], ids[0]]);
    assert_eq!(listed(JobState::Waiting, 2).await, [ids[1], ids[2]]);
    claim(store).await;
    assert_eq!(listed(JobState::Running, 10).await, [ids[1]]);
    assert_eq!(listed(JobState::Waiting, 10).await, [ids[2], ids[0]]);
    assert_eq!(listed(JobState::Dead, 10).await, []);
}

pub async fn an_ended_job_is_neither_found_nor_revived(store: &impl Store) {
    let job = queue(store, &submit(store).await, 1).await;
    assert!(store.job(job.id).await.unwrap().is_some());
    end(store, job.id).await;
    revive(store, job.id).await;
    assert_eq!(store.job(job.id).await.unwrap(), None);
    assert_eq!(store.job(JobId::random()).await.unwrap(), None);
    assert_eq!(claim(store).await, None);
}

async fn fail(store: &impl Store, id: JobId, not_before: Option<i64>) {
    let failed = FailedJob { id, error: "the host is away".to_owned(), not_before: not_before.map(at) };
    commit(store, Changes { failed_jobs: vec![failed], ..Changes::default() }).await;
}

async fn hand_back(store: &impl Store, id: JobId) {
    commit(store, Changes { handed_back_jobs: vec![id], ..Changes::default() }).await;
}

async fn revive(store: &impl Store, id: JobId) {
    commit(store, Changes { revived_jobs: vec![id], ..Changes::default() }).await;
}
