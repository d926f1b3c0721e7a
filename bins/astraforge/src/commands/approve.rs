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
    render::{good, strong},
};

/// Approves, and waits until the merge request is there and reviewed.
pub(crate) async fn approve(args: &ConnectionArgs, approve: &ApproveArgs) -> anyhow::Result<()> {
    let request = parse_id(&approve.request)?;
    let digest: Option<Digest> = approve.digest.as_deref().map(str::parse).transpose().context("--digest")?;
    let connection = Connection::open(args).await?;
    let outcome = async {
        let after = last_event(&connection.client, request).await?;
        let approved = connection.client.approve(request, digest).await?;
        let merge_request = wait_for(&connection.client, request, after, |_| Ok(())).await?;
        anyhow::Ok((approved, merge_request))
    };
    let outcome = outcome.await;
    connection.close().await;
    let (approved, merge_request) = outcome?;
    print(args, &merge_request, |terminal, merge_request| {
        terminal.line(terminal.paint(format!("approved {}", approved.approval.digest), good()));
        super::merge_requests::write(terminal, merge_request);
        let apply = format!("astraforge apply {request}");
        terminal.line(format!("bring it into your clone with: {}", terminal.paint(apply, strong())));
    })
}
