//! `mr`: lists merge requests, or shows one with its review.

use std::time::Duration;

use anyhow::{Context, bail};
use astraforge_core::{
    event::{EventKind, RunEvent},
    id::{MergeRequestId, RequestId},
    review::Severity,
};
use astraforge_http::{Client, client::ClientError, wire::merge_request::MergeRequestView};
use futures::{StreamExt, TryStreamExt};

use crate::{
    cli::{ConnectionArgs, ListOrOne},
    commands::{Listed, print},
    connection::{Connection, parse_id},
    node::Queue,
    render::{Terminal, attention, bad, faint, harmless, strong},
};

/// Lists merge requests, or shows one by its own id or its request's.
pub(crate) async fn merge_requests(args: &ConnectionArgs, which: &ListOrOne) -> anyhow::Result<()> {
    Connection::with(args, Queue::Leave, async |client| show(client, args, which).await).await
}

async fn show(client: &Client, args: &ConnectionArgs, which: &ListOrOne) -> anyhow::Result<()> {
    let Some(id) = &which.id else {
        let listed = Listed::read(client.stream_merge_requests(None), which.limit).await?;
        return listed.print(args, "No merge requests yet. They come from approved changes.", write);
    };
    let id: RequestId = parse_id(id, "astraforge requests")?;
    let found = match of_request(client, id).await? {
        Some(found) => found,
        None => {
            let own = client.merge_request(MergeRequestId::from(id.as_uuid())).await;
            own.with_context(|| format!("there is no merge request of {id}"))?
        }
    };
    print(args, &found, write)
}

/// Finds the newest merge request of a request.
pub(crate) async fn of_request(client: &Client, id: RequestId) -> Result<Option<MergeRequestView>, ClientError> {
    client.stream_merge_requests(Some(id)).try_next().await
}

/// Writes a merge request and its review.
pub(crate) fn write(terminal: Terminal, merge_request: &MergeRequestView) {
    terminal.line(terminal.paint(harmless(&merge_request.title), strong()));
    terminal.line(format!("  {}", merge_request.url));
    let branches = format!("{} → {}", merge_request.source_branch, merge_request.target_branch);
    terminal.line(format!("  {branches}  {}", terminal.paint(&merge_request.commit, faint())));
    let Some(review) = &merge_request.review else {
        return terminal.line("  not reviewed yet");
    };
    terminal.line(format!("  {}", harmless(&review.summary)));
    for finding in &review.findings {
        let style = match finding.severity {
            Severity::Error => bad(),
            Severity::Warning => attention(),
            Severity::Info => faint(),
        };
        let line = finding.line.map(|line| format!(":{line}")).unwrap_or_default();
        let place = format!("{}{line}", harmless(&finding.file));
        terminal.line(format!("  {} {}", terminal.paint(place, style), harmless(&finding.message)));
    }
}

/// Returns the sequence number of the last event so far, to wait from.
pub(crate) async fn last_event(client: &Client, request: RequestId) -> anyhow::Result<u64> {
    let mut events = client.logs(request, 0);
    let mut last = 0;
    while let Some(event) = events.next().await {
        last = event?.seq;
    }
    Ok(last)
}

/// Waits until a change that was approved after event `after` is a reviewed merge request, showing what happens.
pub(crate) async fn wait_for(
    client: &Client,
    request: RequestId,
    after: u64,
    show: impl Fn(&RunEvent) -> anyhow::Result<()>,
) -> anyhow::Result<MergeRequestView> {
    const LONGEST: Duration = Duration::from_secs(300);
    let waiting = async {
        let mut events = client.follow_logs(request, after);
        while let Some(event) = events.next().await {
            let event = event?;
            show(&event)?;
            match event.kind {
                EventKind::Error { stage: Some(stage), message, .. } if stage == "mr" => {
                    bail!("the change was approved, but not published: {message}")
                }
                EventKind::Status { stage, .. } | EventKind::Error { stage: Some(stage), .. } if stage == "review" => {
                    return of_request(client, request).await?.context("the merge request is not there");
                }
                _ => {}
            }
        }
        bail!("the log ended before the merge request was reviewed")
    };
    tokio::time::timeout(LONGEST, waiting).await.context("the merge request did not come within five minutes")?
}
