//! Reviews a merge request, and posts what was found.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;

use crate::{
    command::ReviewMergeRequest,
    error::{ForgeError, chain},
    event::EventKind,
    merge_request::MergeRequest,
    ports::{review::ReviewError, store::Changes},
    request::{RequestState, change_set::ChangeSet},
    review::{Finding, Review, Severity},
    usecases::{decide, under},
    wiring::Ports,
};

/// Carries out [`ReviewMergeRequest`].
pub(crate) async fn review_merge_request(ports: &Ports, command: ReviewMergeRequest) -> Result<Review, ForgeError> {
    let ports = &under(ports, command.claim);
    let store = ports.journal.store();
    let merge_request = store.merge_request(&command.tenant, command.merge_request).await?;
    let merge_request = merge_request.ok_or_else(|| ForgeError::not_found("Merge request"))?;
    let change_set = store.change_set(merge_request.change_set).await?;
    let change_set =
        change_set.ok_or_else(|| ForgeError::not_found(format!("Change set {}", merge_request.change_set)))?;

    let review = ask_reviewers(ports, &change_set).await;
    if let Some(link) = store.link(&command.tenant, find_repository(ports, &merge_request).await?).await? {
        let provider = ports.providers.resolve(&link.provider)?;
        provider.post_findings(&link, &merge_request.url, &review.findings).await?;
    }
    record(ports, merge_request, &change_set, &review).await?;
    Ok(review)
}

async fn find_repository(
    ports: &Ports,
    merge_request: &MergeRequest,
) -> Result<crate::id::RepositoryLinkId, ForgeError> {
    let request = super::find_request(ports, &merge_request.tenant, merge_request.request).await?;
    Ok(request.repository)
}

/// Asks every reviewer. One that fails is a finding of its own, so a review is never silently smaller.
async fn ask_reviewers(ports: &Ports, change_set: &ChangeSet) -> Review {
    let mut findings = Vec::new();
    for reviewer in &ports.reviewers {
        let review = AssertUnwindSafe(reviewer.review(&change_set.change)).catch_unwind().await;
        let review = review.unwrap_or_else(|_panic| {
            let source = "it broke; the server's log has details".into();
            Err(ReviewError { reviewer: reviewer.name().to_owned(), source })
        });
        match review {
            Ok(found) => findings.extend(found),
            Err(error) => {
                tracing::warn!(reviewer = reviewer.name(), error = %chain(&error), "reviewer failed");
                let message = format!("Reviewer `{}` did not finish: {}", reviewer.name(), chain(&error));
                findings.push(Finding::new("", None, Severity::Warning, "reviewer-failed", message, reviewer.name()));
            }
        }
    }
    Review::new(ports.reviewers.iter().map(|reviewer| reviewer.name().to_owned()).collect(), findings)
}

async fn record(
    ports: &Ports,
    merge_request: MergeRequest,
    change_set: &ChangeSet,
    review: &Review,
) -> Result<(), ForgeError> {
    let run = change_set.run;
    let reviewed = MergeRequest { review: Some(review.clone()), ..merge_request };
    decide(ports, &reviewed.tenant.clone(), reviewed.request, |ports, mut request| {
        let reviewed = reviewed.clone();
        async move {
            // A follow-up may be at work by now; the review is kept, and the state is the follow-up's.
            if request.state == RequestState::MrOpened {
                request.become_state(RequestState::Reviewed, ports.journal.clock().now())?;
            }
            let summary = reviewed.review.as_ref().map(|review| review.summary.clone()).unwrap_or_default();
            let changes = Changes {
                events: vec![ports.journal.event(request.id, Some(run), EventKind::status("review", summary))],
                merge_request: Some(reviewed),
                ..Changes::default()
            };
            Ok((Some(request), changes, ()))
        }
        .boxed()
    })
    .await
}
