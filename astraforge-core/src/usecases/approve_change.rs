//! Approves a change, by its digest, and queues its publication.

use futures::FutureExt;

use crate::{
    access::Action,
    audit::{Actor, NewEntry},
    command::ApproveChange,
    error::ForgeError,
    event::EventKind,
    id::ApprovalId,
    job::{Job, JobKind},
    policy::Decision,
    ports::store::Changes,
    request::{
        Request, RequestState,
        approval::{Approval, Binding},
        change_set::ChangeSet,
    },
    run::RunStatus,
    usecases::{decide, verdict_on},
    wiring::Ports,
};

/// What a decision on an approval comes to.
enum Outcome {
    Approved(Approval),
    Drifted(ChangeSet),
}

/// Carries out [`ApproveChange`].
pub(crate) async fn approve_change(ports: &Ports, command: ApproveChange) -> Result<Approval, ForgeError> {
    command.caller.may(Action::Approve)?;
    let tenant = command.caller.tenant.clone();
    let id = command.request;
    let outcome =
        decide(ports, &tenant, id, |ports, request| approve_in(ports, request, command.clone()).boxed()).await?;
    match outcome {
        Outcome::Approved(approval) => {
            ports.journal.note(approved(&command, &approval)).await;
            Ok(approval)
        }
        Outcome::Drifted(now) => Err(ForgeError::conflict(format!(
            "the policy has changed since this change was judged; look at it again and approve digest {}",
            now.digest
        ))),
    }
}

/// What the audit is told of an approval. One that was given before is told again: somebody asked for it.
fn approved(command: &ApproveChange, approval: &Approval) -> NewEntry {
    let (tenant, actor) = (command.caller.tenant.clone(), Actor::of(&command.caller));
    let binding = if command.digest.is_some() { "explicit" } else { "implicit" };
    NewEntry::new(tenant, actor, "change.approved", approval.request.to_string(), "approved")
        .with("digest", approval.digest.as_str())
        .with("change_set", approval.change_set.to_string())
        .with("approver", approval.approver.as_str())
        .with("binding", binding)
}

async fn approve_in(
    ports: &Ports,
    request: Request,
    command: ApproveChange,
) -> Result<(Option<Request>, Changes, Outcome), ForgeError> {
    let change_set = current_change(ports, &request).await?;
    check_digest(&change_set, &command)?;
    let judged_anew = judge_anew(ports, &change_set).await?;
    let judged = judged_anew.as_ref().unwrap_or(&change_set);
    ports.journal.note(verdict_on(judged, &request, Actor::of(&command.caller))).await;
    if let Some(judged_anew) = judged_anew {
        let changes = Changes { change_set: Some(judged_anew.clone()), ..Changes::default() };
        return Ok((Some(request), changes, Outcome::Drifted(judged_anew)));
    }
    check_permission(ports, &request, &change_set, &command)?;

    let now = ports.journal.clock().now();
    let mut changes = Changes::default();
    let earlier = ports.journal.store().approvals(request.id).await?;
    let approval = match earlier.into_iter().find(|approval| approval.digest == change_set.digest) {
        Some(earlier) => earlier,
        None => {
            let approval = new_approval(&request, &change_set, &command, now);
            let event = EventKind::status("approval", format!("{} approved {}", approval.approver, approval.digest));
            changes.events.push(ports.journal.event(request.id, Some(change_set.run), event));
            changes.approval = Some(approval.clone());
            approval
        }
    };
    if !publication_is_queued(ports, &request).await? {
        let kind = JobKind::OpenMergeRequest { change_set: change_set.id };
        changes.new_jobs.push(Job::new(request.tenant.clone(), request.id, kind, now));
    }
    // Writing the request, though unchanged, lets only one of two racing commands through.
    Ok((Some(request), changes, Outcome::Approved(approval)))
}

/// The change that waits for approval, or why there is none.
async fn current_change(ports: &Ports, request: &Request) -> Result<ChangeSet, ForgeError> {
    if request.state != RequestState::PatchReady {
        return Err(ForgeError::conflict(format!(
            "a request that is {} has no change waiting for approval; that is so only while it is {}",
            request.state,
            RequestState::PatchReady
        )));
    }
    let store = ports.journal.store();
    let runs = store.runs_of(request.id).await?;
    let stands = runs.iter().rfind(|run| run.status == RunStatus::Completed).is_none_or(|run| run.change_set.is_some());
    let change_set = store.latest_change_set(request.id).await?.filter(|_| stands);
    change_set.ok_or_else(|| ForgeError::conflict("the agent changed nothing, so there is nothing to approve"))
}

fn check_digest(change_set: &ChangeSet, command: &ApproveChange) -> Result<(), ForgeError> {
    match &command.digest {
        Some(digest) if *digest != change_set.digest => Err(ForgeError::conflict(format!(
            "the change is not the one you saw: its digest is now {}; look at it again",
            change_set.digest
        ))),
        _ => Ok(()),
    }
}

/// Evaluates the policy again, and returns the change set with the new verdict if it differs.
async fn judge_anew(ports: &Ports, change_set: &ChangeSet) -> Result<Option<ChangeSet>, ForgeError> {
    let verdict = ports.policy.evaluate(&change_set.change).await?;
    if verdict == change_set.verdict {
        return Ok(None);
    }
    let now = ports.journal.clock().now();
    Ok(Some(ChangeSet::new(change_set.request, change_set.run, change_set.change.clone(), verdict, now)))
}

fn check_permission(
    ports: &Ports,
    request: &Request,
    change_set: &ChangeSet,
    command: &ApproveChange,
) -> Result<(), ForgeError> {
    match change_set.verdict.decision {
        Decision::Allow => {}
        Decision::NeedsMaintainer => command.caller.may(Action::ApproveSensitive)?,
        Decision::Deny => {
            let reasons: Vec<_> = change_set.verdict.reasons.iter().map(|reason| reason.message.as_str()).collect();
            return Err(ForgeError::conflict(format!("the policy forbids this change: {}", reasons.join("; "))));
        }
    }
    if ports.settings.approver_must_differ && request.requester == command.caller.user {
        return Err(ForgeError::conflict("somebody else than the requester has to approve this change"));
    }
    Ok(())
}

fn new_approval(
    request: &Request,
    change_set: &ChangeSet,
    command: &ApproveChange,
    now: chrono::DateTime<chrono::Utc>,
) -> Approval {
    Approval {
        id: ApprovalId::random(),
        request: request.id,
        change_set: change_set.id,
        digest: change_set.digest.clone(),
        approver: command.caller.user.clone(),
        binding: if command.digest.is_some() { Binding::Explicit } else { Binding::Implicit },
        created_at: now,
    }
}

/// Tells whether a publication of this request waits or is at work.
async fn publication_is_queued(ports: &Ports, request: &Request) -> Result<bool, ForgeError> {
    let store = ports.journal.store();
    let publishes = |kind: &JobKind| matches!(kind, JobKind::OpenMergeRequest { .. });
    let waiting = store.waiting_jobs(request.id).await?;
    let running = store.running_jobs().await?;
    Ok(waiting.iter().chain(running.iter().filter(|job| job.request == request.id)).any(|job| publishes(&job.kind)))
}
