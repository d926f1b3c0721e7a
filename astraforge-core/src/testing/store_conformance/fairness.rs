//! Rules of the queue between tenants: nobody starves, nobody takes everything.

use std::num::NonZeroU32;

use futures::future::join_all;

use super::{
    commit,
    jobs::{claim, end, queue},
};
use crate::{
    id::{ChangeSetId, JobId, MergeRequestId, TenantId},
    job::{Job, JobKind, Limits},
    ports::store::{Changes, Store},
    request::Request,
    testing::samples::{self, at},
};

pub async fn the_tenant_with_the_fewest_jobs_at_work_is_served_first(store: &impl Store) {
    let a = many(store, "a", 1..=3).await;
    let b = many(store, "b", 4..=5).await;
    let mut claimed = Vec::new();
    for _ in 0..5 {
        claimed.push(claim(store).await.unwrap());
    }
    let ids = [&a[0], &b[0], &a[1], &b[1], &a[2]].map(|job| job.id);
    assert_eq!(claimed, ids, "the tenants take turns, the oldest first");
}

pub async fn a_long_queue_of_one_tenant_does_not_starve_another(store: &impl Store) {
    let first = many(store, "busy", 1..=50).await;
    claim(store).await;
    claim(store).await;
    let late = many(store, "late", 900..=900).await;
    assert_eq!(claim(store).await, Some(late[0].id));
    end(store, late[0].id).await;
    assert_eq!(claim(store).await, Some(first[2].id), "and then goes on");
}

pub async fn a_tenant_has_so_many_jobs_at_work_and_no_more(store: &impl Store) {
    let a = many(store, "a", 1..=3).await;
    let b = many(store, "b", 4..=4).await;
    let two = Limits { per_tenant: NonZeroU32::new(2), in_all: None };
    let take = async || store.claim_job(at(9), at(69), two).await.unwrap().map(|job| job.id);
    assert_eq!((take().await, take().await, take().await), (Some(a[0].id), Some(b[0].id), Some(a[1].id)));
    assert_eq!(take().await, None, "two are at work, the third waits");
    end(store, a[0].id).await;
    assert_eq!(take().await, Some(a[2].id));
}

pub async fn claims_at_the_same_time_keep_to_the_limit_of_a_tenant(store: &impl Store) {
    for tenant in ["a", "b"] {
        many(store, tenant, 1..=10).await;
    }
    let three = Limits { per_tenant: NonZeroU32::new(3), in_all: None };
    let claimed = join_all((0..20).map(|_| store.claim_job(at(99), at(199), three))).await;
    let claimed: Vec<Job> = claimed.into_iter().filter_map(Result::unwrap).collect();
    let of = |name: &str| claimed.iter().filter(|job| job.tenant == TenantId::new(name)).count();
    assert_eq!((of("a"), of("b")), (3, 3));
}

pub async fn so_many_jobs_of_all_tenants_are_at_work_and_no_more(store: &impl Store) {
    for tenant in ["a", "b", "c"] {
        many(store, tenant, 1..=5).await;
    }
    let seven = Limits { per_tenant: NonZeroU32::new(3), in_all: NonZeroU32::new(7) };
    let claimed = join_all((0..20).map(|_| store.claim_job(at(99), at(199), seven))).await;
    let claimed: Vec<Job> = claimed.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(claimed.len(), 7);
    end(store, claimed[0].id).await;
    assert!(store.claim_job(at(99), at(199), seven).await.unwrap().is_some());
    assert_eq!(store.claim_job(at(99), at(199), seven).await.unwrap(), None);
}

pub async fn what_a_person_waits_for_goes_before_older_runs_of_a_tenant_but_not_of_its_request(store: &impl Store) {
    let runs = many(store, "a", 1..=2).await;
    let request = Request { tenant: TenantId::new("a"), ..samples::request() };
    commit(store, samples::submitted(&request)).await;
    let publication = JobKind::OpenMergeRequest { change_set: ChangeSetId::random() };
    let publication = Job::new(request.tenant.clone(), request.id, publication, at(900));
    let behind = JobKind::Review { merge_request: MergeRequestId::random() };
    let behind = Job::new(request.tenant.clone(), runs[1].request, behind, at(901));
    let new_jobs = vec![publication.clone(), behind.clone()];
    commit(store, Changes { new_jobs, ..Changes::default() }).await;
    let mut claimed = Vec::new();
    while let Some(id) = claim(store).await {
        end(store, id).await;
        claimed.push(id);
    }
    assert_eq!(claimed, [publication.id, runs[0].id, runs[1].id, behind.id]);
    let other = many(store, "b", 950..=950).await;
    let again = Job { id: JobId::random(), ..publication };
    commit(store, Changes { new_jobs: vec![again.clone()], ..Changes::default() }).await;
    assert_eq!(claim(store).await, Some(again.id), "before the run of a tenant that has as many at work");
    assert_eq!(claim(store).await, Some(other[0].id));
}

/// Jobs of one tenant, each of a request of its own.
async fn many(store: &impl Store, tenant: &str, seconds: std::ops::RangeInclusive<i64>) -> Vec<Job> {
    let mut jobs = Vec::new();
    for second in seconds {
        let request = Request { tenant: TenantId::new(tenant), ..samples::request() };
        commit(store, samples::submitted(&request)).await;
        jobs.push(queue(store, &request, second).await);
    }
    jobs
}
