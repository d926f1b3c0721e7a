//! The use cases: one verb a file. Each is a plain function of its ports and its command.

use futures::future::BoxFuture;

use crate::{
    audit::{Actor, NewEntry},
    error::ForgeError,
    event::EventKind,
    id::{RequestId, TenantId},
    job::{Claim, Job, JobKind},
    policy::Decision,
    ports::store::{Changes, Expected, RequestChange, StoreError},
    request::{Request, change_set::ChangeSet},
    run::Run,
    wiring::Ports,
};

pub(crate) mod approve_change;
pub(crate) mod cancel;
pub(crate) mod chat_review;
pub(crate) mod execute_plan;
pub(crate) mod execute_request;
pub(crate) mod generate_plan;
pub(crate) mod open_merge_request;
pub(crate) mod review;
pub(crate) mod submit_request;

/// Finds a request of a tenant.
pub(crate) async fn find_request(ports: &Ports, tenant: &TenantId, id: RequestId) -> Result<Request, ForgeError> {
    let request = ports.journal.store().request(tenant, id).await?;
    request.ok_or_else(|| ForgeError::not_found(format!("Request {id}")))
}

/// The ports as they are, or as those of whoever holds a job.
fn under(ports: &Ports, claim: Option<Claim>) -> Ports {
    claim.map_or_else(|| ports.clone(), |claim| ports.under(claim))
}

/// Decides on a request and writes the decision; decides anew when somebody else was faster.
pub(crate) async fn decide<T: Send>(
    ports: &Ports,
    tenant: &TenantId,
    id: RequestId,
    decision: impl for<'a> Fn(&'a Ports, Request) -> BoxFuture<'a, Result<(Option<Request>, Changes, T), ForgeError>>,
) -> Result<T, ForgeError> {
    const TRIES: u32 = 16;
    let mut tries = 0;
    loop {
        let request = find_request(ports, tenant, id).await?;
        let version = request.version;
        let (changed, mut changes, answer) = decision(ports, request).await?;
        changes.request = changed.map(|request| RequestChange { request, expected: Expected::Version(version) });
        match ports.journal.commit(changes).await {
            Ok(()) => return Ok(answer),
            Err(StoreError::Conflict { .. }) if tries < TRIES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Adds a run that waits for a worker, with its job, to what will be written.
pub(crate) fn queue_run(ports: &Ports, request: &Request, prompt: String, changes: &mut Changes) -> Run {
    let now = ports.journal.clock().now();
    let run = Run::queued(request.id, request.tenant.clone(), prompt, now);
    changes.runs.push(run.clone());
    changes.new_jobs.push(Job::new(request.tenant.clone(), request.id, JobKind::Execute { run: run.id }, now));
    changes.events.push(ports.journal.event(request.id, Some(run.id), EventKind::status("queue", "Run queued")));
    run
}

/// Refuses a request that no run may start from.
pub(crate) fn check_executable(request: &Request) -> Result<(), ForgeError> {
    request.clone().become_state(crate::request::RequestState::Executing, request.updated_at)?;
    Ok(())
}

/// What the audit is told of a verdict: on exactly which change, by which policy.
pub(crate) fn verdict_on(change_set: &ChangeSet, request: &Request, actor: Actor) -> NewEntry {
    let outcome = match change_set.verdict.decision {
        Decision::Allow => "allow",
        Decision::NeedsMaintainer => "needs_maintainer",
        Decision::Deny => "deny",
    };
    let mut rules: Vec<_> = change_set.verdict.reasons.iter().map(|reason| reason.rule.as_str()).collect();
    rules.dedup();
    rules.truncate(20);
    NewEntry::new(request.tenant.clone(), actor, "policy.decided", request.id.to_string(), outcome)
        .with("policy_version", change_set.verdict.policy_version.as_str())
        .with("digest", change_set.digest.as_str())
        .with("base_commit", change_set.change.base_commit.as_str())
        .with("head_commit", change_set.change.head_commit.as_str())
        .with("rules", rules)
}
