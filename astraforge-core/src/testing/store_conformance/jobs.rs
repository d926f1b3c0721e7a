//! Rules of the job queue: the oldest first, one running a request, nothing twice.

use std::collections::HashSet;

use futures::future::join_all;

use super::{assert_taken, commit, submit};
use crate::{
    id::{JobId, RequestId},
    job::{Claim, Job, Limits},
    ports::store::{Changes, EndedJob, Store, StoreError},
    request::Request,
    testing::samples::{self, at},
};

pub async fn the_oldest_job_is_claimed_first(store: &impl Store) {
    let mut jobs = Vec::new();
    for seconds in [20, 10, 30] {
        jobs.push(queue(store, &submit(store).await, seconds).await);
    }
    assert_eq!(claim(store).await, Some(jobs[1].id));
    assert_eq!(claim(store).await, Some(jobs[0].id));
    assert_eq!(claim(store).await, Some(jobs[2].id));
    assert_eq!(claim(store).await, None);
}

pub async fn jobs_of_the_same_time_are_claimed_in_the_order_they_were_added(store: &impl Store) {
    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.push(queue(store, &submit(store).await, 1).await.id);
    }
    for job in jobs {
        assert_eq!(claim(store).await, Some(job));
    }
}

pub async fn a_request_has_one_running_job(store: &impl Store) {
    let (busy, other) = (submit(store).await, submit(store).await);
    let one = queue(store, &busy, 1).await;
    let two = queue(store, &busy, 2).await;
    let of_other = queue(store, &other, 3).await;
    assert_eq!(claim(store).await, Some(one.id));
    assert_eq!(claim(store).await, Some(of_other.id), "the second job of the busy request waits");
    assert_eq!(claim(store).await, None);
    end(store, one.id).await;
    assert_eq!(claim(store).await, Some(two.id));
}

pub async fn a_claim_counts_an_attempt(store: &impl Store) {
    let job = queue(store, &submit(store).await, 1).await;
    assert_eq!(
        store.claim_job(at(2), at(2 + 60), Limits::NONE).await.unwrap(),
        Some(Job { attempts: 1, ..job.clone() })
    );
    assert_eq!(store.running_jobs().await.unwrap(), [Job { attempts: 1, ..job }]);
}

pub async fn an_ended_job_is_gone_and_the_next_one_follows(store: &impl Store) {
    let request = submit(store).await;
    let (one, two) = (queue(store, &request, 1).await, queue(store, &request, 2).await);
    claim(store).await;
    let failed = EndedJob { id: one.id, error: Some("the sandbox was lost".to_owned()) };
    commit(store, Changes { ended_jobs: vec![failed], ..Changes::default() }).await;
    assert_eq!(store.running_jobs().await.unwrap(), []);
    assert_eq!(claim(store).await, Some(two.id));
    end(store, two.id).await;
    assert_eq!(claim(store).await, None);
}

pub async fn a_job_that_waits_can_be_ended(store: &impl Store) {
    let request = submit(store).await;
    let job = queue(store, &request, 1).await;
    end(store, job.id).await;
    assert_eq!(store.waiting_jobs(request.id).await.unwrap(), []);
    assert_eq!(claim(store).await, None);
}

pub async fn ending_an_unknown_job_changes_nothing(store: &impl Store) {
    let job = queue(store, &submit(store).await, 1).await;
    end(store, JobId::random()).await;
    assert_eq!(claim(store).await, Some(job.id));
    end(store, job.id).await;
    end(store, job.id).await;
    assert_eq!(claim(store).await, None);
}

pub async fn a_job_can_be_ended_and_queued_anew_in_one_commit(store: &impl Store) {
    let request = submit(store).await;
    let lost = queue(store, &request, 1).await;
    let later = queue(store, &request, 2).await;
    claim(store).await;
    let again = Job { id: JobId::random(), attempts: 1, ..lost.clone() };
    let ended = EndedJob { id: lost.id, error: Some("the server stopped".to_owned()) };
    commit(store, Changes { new_jobs: vec![again.clone()], ended_jobs: vec![ended], ..Changes::default() }).await;
    let claimed = store.claim_job(at(9), at(9 + 60), Limits::NONE).await.unwrap().unwrap();
    assert_eq!((claimed.id, claimed.attempts), (again.id, 2), "it keeps its place before later jobs");
    end(store, again.id).await;
    assert_eq!(claim(store).await, Some(later.id));
}

pub async fn running_and_waiting_jobs_are_listed_the_oldest_first(store: &impl Store) {
    let (one, two) = (submit(store).await, submit(store).await);
    let mut jobs = Vec::new();
    for (request, seconds) in [(&one, 2), (&two, 1), (&one, 4), (&one, 3)] {
        jobs.push(queue(store, request, seconds).await.id);
    }
    claim(store).await;
    claim(store).await;
    let ids = |jobs: Vec<Job>| jobs.into_iter().map(|job| job.id).collect::<Vec<_>>();
    assert_eq!(ids(store.running_jobs().await.unwrap()), [jobs[1], jobs[0]]);
    assert_eq!(ids(store.waiting_jobs(one.id).await.unwrap()), [jobs[3], jobs[2]]);
    assert_eq!(ids(store.waiting_jobs(two.id).await.unwrap()), []);
}

pub async fn claims_at_the_same_time_never_get_the_same_job(store: &impl Store) {
    const REQUESTS: usize = 15;
    for _ in 0..REQUESTS {
        let request = submit(store).await;
        queue(store, &request, 1).await;
        queue(store, &request, 2).await;
    }
    let claimed: Vec<Job> = join_all((0..40).map(|_| store.claim_job(at(9), at(9 + 60), Limits::NONE)))
        .await
        .into_iter()
        .filter_map(Result::unwrap)
        .collect();
    let jobs: HashSet<JobId> = claimed.iter().map(|job| job.id).collect();
    let requests: HashSet<RequestId> = claimed.iter().map(|job| job.request).collect();
    assert_eq!((claimed.len(), jobs.len(), requests.len()), (REQUESTS, REQUESTS, REQUESTS));
    assert!(claimed.iter().all(|job| job.attempts == 1));
}

pub async fn an_empty_queue_gives_nothing(store: &impl Store) {
    assert_eq!(claim(store).await, None);
    assert_eq!(store.running_jobs().await.unwrap(), []);
    assert_eq!(store.waiting_jobs(RequestId::random()).await.unwrap(), []);
}

pub async fn a_job_cannot_be_queued_twice(store: &impl Store) {
    let job = queue(store, &submit(store).await, 1).await;
    let again = Changes { new_jobs: vec![job.clone()], ..Changes::default() };
    assert_taken(store.commit(again.clone()).await);
    end(store, job.id).await;
    assert_taken(store.commit(again).await);
}

pub async fn a_lease_is_renewed_by_whoever_holds_the_job(store: &impl Store) {
    let job = queue(store, &submit(store).await, 1).await;
    let claimed = store.claim_job(at(10), at(20), Limits::NONE).await.unwrap().unwrap();
    assert!(store.renew_lease(claimed.claim(), at(40)).await.unwrap());
    assert_eq!(store.take_over_job(at(30), at(90)).await.unwrap(), None, "it was renewed until 40");
    assert!(!store.renew_lease(job.claim(), at(99)).await.unwrap(), "that is the claim of an earlier attempt");
    let unknown = Claim { job: JobId::random(), attempt: 1 };
    assert!(!store.renew_lease(unknown, at(99)).await.unwrap());
    end(store, job.id).await;
    assert!(!store.renew_lease(claimed.claim(), at(99)).await.unwrap(), "it is over");
}

pub async fn a_job_whose_lease_ended_is_taken_over_once(store: &impl Store) {
    let (first, second) = (submit(store).await, submit(store).await);
    queue(store, &first, 1).await;
    queue(store, &second, 2).await;
    let later = store.claim_job(at(10), at(30), Limits::NONE).await.unwrap().unwrap();
    let sooner = store.claim_job(at(10), at(20), Limits::NONE).await.unwrap().unwrap();
    assert_eq!(store.take_over_job(at(20), at(90)).await.unwrap(), None, "it holds to its end");
    let taken = join_all((0..10).map(|_| store.take_over_job(at(50), at(90)))).await;
    let taken: Vec<Job> = taken.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(taken.len(), 2, "{taken:?}");
    for job in [&later, &sooner] {
        assert!(taken.contains(&Job { attempts: 2, ..job.clone() }), "{taken:?}");
        assert!(!store.renew_lease(job.claim(), at(99)).await.unwrap(), "the old claim is lost");
    }
    assert_eq!(store.take_over_job(at(50), at(90)).await.unwrap(), None);
}

pub async fn under_a_claim_that_is_lost_nothing_is_written(store: &impl Store) {
    let request = submit(store).await;
    queue(store, &request, 1).await;
    let claimed = store.claim_job(at(10), at(20), Limits::NONE).await.unwrap().unwrap();
    let line =
        |claim| Changes { claim: Some(claim), events: vec![samples::log(request.id, "x")], ..Changes::default() };
    let before = store.commit(line(claimed.claim())).await.unwrap();
    let next = store.take_over_job(at(50), at(90)).await.unwrap().unwrap();
    let refused = store.commit(line(claimed.claim())).await;
    assert!(matches!(refused, Err(StoreError::ClaimLost { job }) if job == claimed.id), "{refused:?}");
    let ending = |claim| Changes { ended_jobs: vec![EndedJob { id: next.id, error: None }], ..line(claim) };
    let refused = store.commit(ending(claimed.claim())).await;
    assert!(matches!(refused, Err(StoreError::ClaimLost { .. })), "{refused:?}");
    assert_eq!(store.commit(ending(next.claim())).await.unwrap(), before + 1, "nothing was written in between");
    let over = store.commit(line(next.claim())).await;
    assert!(matches!(over, Err(StoreError::ClaimLost { .. })), "{over:?}");
}

pub(super) async fn queue(store: &impl Store, request: &Request, seconds: i64) -> Job {
    let job = Job { created_at: at(seconds), ..samples::execute(&samples::run(request)) };
    commit(store, Changes { new_jobs: vec![job.clone()], ..Changes::default() }).await;
    job
}

pub(super) async fn claim(store: &impl Store) -> Option<JobId> {
    store.claim_job(at(9), at(9 + 60), Limits::NONE).await.unwrap().map(|job| job.id)
}

pub(super) async fn end(store: &impl Store, id: JobId) {
    commit(store, Changes { ended_jobs: vec![EndedJob { id, error: None }], ..Changes::default() }).await;
}
