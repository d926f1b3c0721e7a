//! `apply`: brings an approved change into a clone.

use anyhow::{Context, bail};
use astraforge_core::id::RequestId;
use serde_json::json;

use crate::{
    cli::{ApplyArgs, ConnectionArgs},
    commands::{merge_requests::of_request, print},
    connection::{Connection, parse_id},
    node::Queue,
    render::{good, strong},
    user_clone::UserClone,
};

/// Brings the published branch into the clone, as a branch of the same name. Nothing is checked out or merged.
pub(crate) async fn apply(args: &ConnectionArgs, apply: &ApplyArgs) -> anyhow::Result<()> {
    let request: RequestId = parse_id(&apply.request, "astraforge requests")?;
    let found = Connection::with(args, Queue::Leave, async |client| Ok(of_request(client, request).await?)).await?;
    let merge_request = found.with_context(|| {
        format!("request {request} has no merge request yet; approve its change first: astraforge approve {request}")
    })?;
    let address = merge_request.url.split('#').next().unwrap_or_default();
    if !address.starts_with("file://") {
        bail!("this merge request is on a Git host; fetch it from there: {}", merge_request.url);
    }
    if !Connection::is_local(args) {
        bail!("the branch is on the server's own disk, at {address}; run `apply` there");
    }

    let (branch, commit) = (&merge_request.source_branch, &merge_request.commit);
    UserClone::find(&apply.repo)?.take(address, branch, commit)?;
    print(args, &json!({ "branch": branch, "commit": commit }), |terminal, _| {
        terminal.line(terminal.paint(format!("{branch} is in your clone, at {commit}"), good()));
        terminal.line(format!("look at it: {}", terminal.paint(format!("git log -p {branch} -1"), strong())));
        terminal.line(format!("take it:    {}", terminal.paint(format!("git merge {branch}"), strong())));
    })
}
