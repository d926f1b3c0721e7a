//! Publishes an approved change, and opens a merge request for it; or takes back what it began, when that is no longer
//! wanted.

use futures::FutureExt;

use crate::{
    command::OpenMergeRequest,
    error::ForgeError,
    event::EventKind,
    id::{MergeRequestId, TenantId},
    job::{Job, JobKind},
    merge_request::{MergeRequest, MergeRequestStatus, Proposal},
    ports::{git::Remote, store::Changes},
    repository::RepositoryLink,
    request::{
        Request, RequestState,
        approval::Approval,
        change_set::{Change, ChangeSet, Digest},
    },
    run::{FailureCause, Run, RunFailure},
    usecases::{decide, find_request, under},
    wiring::Ports,
};

/// Carries out [`OpenMergeRequest`].
///
/// Publishing and opening are looked up before they are repeated, so a worker that dies in between does no harm.
pub(crate) async fn open_merge_request(ports: &Ports, command: OpenMergeRequest) -> Result<MergeRequest, ForgeError> {
    let ports = &under(ports, command.claim);
    let request = find_request(ports, &command.tenant, command.request).await?;
    // The one that an earlier change set of the request opened is moved on rather than doubled.
    let earlier = ports.journal.store().merge_request_of(command.request).await?;
    let done = earlier.as_ref().filter(|mr| mr.change_set == command.change_set);
    // A follow-up that changed nothing waits for approval of the same change again.
    if let Some(done) = done.filter(|_| request.state != RequestState::PatchReady) {
        return Ok(done.clone());
    }
    let change_set = ports.journal.store().change_set(command.change_set).await?;
    let change_set = change_set.ok_or_else(|| ForgeError::not_found(format!("Change set {}", command.change_set)))?;
    let link = link_of(ports, &request).await?;
    let provider = ports.providers.resolve(&link.provider)?;
    let remote = provider.remote(&link).await?;
    if request.state == RequestState::Cancelled {
        return Err(take_back(ports, &remote, &change_set, earlier.as_ref()).await?);
    }
    let approval = valid_approval(ports, &request, &change_set).await?;
    let run = ports.journal.store().run(&request.tenant, change_set.run).await?;
    let proposal = propose(&request, &change_set, &approval, run.as_ref());

    if !begin(ports, &request.tenant, &change_set, &proposal).await? {
        return Err(take_back(ports, &remote, &change_set, earlier.as_ref()).await?);
    }
    let opened = async {
        ports.broker.publish(request.id, &remote, &proposal.commit, &proposal.source_branch).await?;
        let url = provider.open_merge_request(&link, &proposal).await?;
        let merge_request = MergeRequest {
            id: earlier.as_ref().map_or_else(MergeRequestId::random, |mr| mr.id),
            request: request.id,
            tenant: request.tenant.clone(),
            change_set: change_set.id,
            proposal,
            url,
            status: MergeRequestStatus::Open,
            review: None,
            created_at: ports.journal.clock().now(),
        };
        record(ports, merge_request, &change_set).await
    };
    match opened.await {
        Ok(recorded) => Ok(recorded),
        // This worker was halted for so long that its job was another's, and what it published came after the other one
        // had looked whether there is something to take back.
        Err(_) if find_request(ports, &command.tenant, command.request).await?.state == RequestState::Cancelled => {
            Err(take_back(ports, &remote, &change_set, earlier.as_ref()).await?)
        }
        Err(error) => Err(error),
    }
}

/// Takes back what an earlier attempt may have published of a request that was cancelled since, and says so.
async fn take_back(
    ports: &Ports,
    remote: &Remote,
    change_set: &ChangeSet,
    earlier: Option<&MergeRequest>,
) -> Result<ForgeError, ForgeError> {
    let Change { head_commit, branch, .. } = &change_set.change;
    let before = earlier.map(|merge_request| merge_request.proposal.commit.as_str());
    let took = ports.broker.withdraw(change_set.request, remote, head_commit, branch, before).await?;
    let what = if took { format!("branch {branch} was taken back") } else { "nothing of it was published".to_owned() };
    Ok(ForgeError::conflict(format!("the request was cancelled, so its change is not published; {what}")))
}

/// The approval of exactly this change set, checked against what the rows hold now.
async fn valid_approval(ports: &Ports, request: &Request, change_set: &ChangeSet) -> Result<Approval, ForgeError> {
    let latest = ports.journal.store().latest_change_set(request.id).await?;
    if latest.as_ref().map(|latest| latest.id) != Some(change_set.id) {
        return Err(ForgeError::conflict("a newer change has come since the approval; approve that one"));
    }
    if Digest::of(&change_set.change, &change_set.verdict) != change_set.digest {
        return Err(ForgeError::conflict("the stored change does not match its digest; it will not be published"));
    }
    let approvals = ports.journal.store().approvals(request.id).await?;
    let approval = approvals.into_iter().find(|a| a.change_set == change_set.id && a.digest == change_set.digest);
    approval.ok_or_else(|| ForgeError::conflict("nobody has approved this change"))
}

async fn link_of(ports: &Ports, request: &Request) -> Result<RepositoryLink, ForgeError> {
    let link = ports.journal.store().link(&request.tenant, request.repository).await?;
    link.ok_or_else(|| {
        let gone = "the link to the repository was removed; link it again and submit a new request";
        RunFailure::new(FailureCause::Repository, gone).into()
    })
}

fn propose(request: &Request, change_set: &ChangeSet, approval: &Approval, run: Option<&Run>) -> Proposal {
    let change = &change_set.change;
    let mut description = format!("{}\n", request.prompt.as_str().trim());
    if let Some(answer) = run.and_then(|run| run.final_message.as_deref()) {
        description.push_str(&format!("\n## What the agent says\n\n{}\n", answer.trim()));
    }
    if let Some(tests) = run.and_then(|run| run.tests.as_ref()) {
        let outcome = if tests.exit_code == 0 { "passed".to_owned() } else { format!("exit code {}", tests.exit_code) };
        description.push_str(&format!("\n## Tests\n\n`{}`: {outcome}\n", tests.command));
    }
    description.push_str(&format!(
        "\n---\nRequest {} · approved by {} · {}\n",
        request.id, approval.approver, approval.digest
    ));
    Proposal {
        title: request.title.lines().next().unwrap_or_default().to_owned(),
        description,
        source_branch: change.branch.clone(),
        target_branch: change.target_branch.clone(),
        commit: change.head_commit.clone(),
    }
}

/// Says what is published, and makes sure that it is still wanted; tells when it was cancelled meanwhile. Writing the
/// request, though unchanged, lets only one of a publication and a racing cancellation through.
async fn begin(
    ports: &Ports,
    tenant: &TenantId,
    change_set: &ChangeSet,
    proposal: &Proposal,
) -> Result<bool, ForgeError> {
    let message = format!("Publishing {} as branch {}", proposal.commit, proposal.source_branch);
    let run = change_set.run;
    decide(ports, tenant, change_set.request, |ports, request| {
        let message = message.clone();
        async move {
            if request.state == RequestState::Cancelled {
                return Ok((None, Changes::default(), false));
            }
            if request.state != RequestState::PatchReady {
                return Err(ForgeError::conflict(format!(
                    "the request is {} by now, so its change is not published",
                    request.state
                )));
            }
            let event = ports.journal.event(request.id, Some(run), EventKind::status("mr", message));
            Ok((Some(request), Changes { events: vec![event], ..Changes::default() }, true))
        }
        .boxed()
    })
    .await
}

/// Writes what was opened, and queues the review.
async fn record(
    ports: &Ports,
    merge_request: MergeRequest,
    change_set: &ChangeSet,
) -> Result<MergeRequest, ForgeError> {
    let run = change_set.run;
    decide(ports, &merge_request.tenant.clone(), merge_request.request, |ports, mut request| {
        let merge_request = merge_request.clone();
        async move {
            let now = ports.journal.clock().now();
            request.become_state(RequestState::MrOpened, now)?;
            let opened = EventKind::status("mr", format!("Merge request opened: {}", merge_request.url));
            let review = JobKind::Review { merge_request: merge_request.id };
            let changes = Changes {
                new_jobs: vec![Job::new(request.tenant.clone(), request.id, review, now)],
                events: vec![ports.journal.event(request.id, Some(run), opened)],
                merge_request: Some(merge_request.clone()),
                ..Changes::default()
            };
            Ok((Some(request), changes, merge_request))
        }
        .boxed()
    })
    .await
}
