//! `approve`: approves the change that waits.

use anyhow::Context;
use astraforge_core::request::change_set::Digest;

use crate::{
    cli::{ApproveArgs, ConnectionArgs},
    commands::{
        merge_requests::{last_event, wait_for},
        print,
    },
    connection::{Connection, parse_id},
    node::Queue,
    render::{good, strong},
};

/// Approves, and waits until the merge request is there and reviewed.
pub(crate) async fn approve(args: &ConnectionArgs, approve: &ApproveArgs) -> anyhow::Result<()> {
    let request = parse_id(&approve.request, "astraforge requests")?;
    let digest: Option<Digest> = approve.digest.as_deref().map(str::parse).transpose().context("--digest")?;
    let (approved, merge_request) = Connection::with(args, Queue::Work, async |client| {
        let after = last_event(client, request).await?;
        let approved = client.approve(request, digest).await?;
        let merge_request = wait_for(client, request, after, |_| Ok(())).await?;
        Ok((approved, merge_request))
    })
    .await?;
    print(args, &merge_request, |terminal, merge_request| {
        terminal.line(terminal.paint(format!("approved {}", approved.approval.digest), good()));
        super::merge_requests::write(terminal, merge_request);
        let apply = format!("astraforge apply {request}");
        terminal.line(format!("bring it into your clone with: {}", terminal.paint(apply, strong())));
    })
}
