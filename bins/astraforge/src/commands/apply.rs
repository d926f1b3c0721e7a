//! `apply`: brings an approved change into a clone.

use std::process::Command;

use anyhow::{Context, bail};
use astraforge_core::id::RequestId;
use serde_json::json;

use crate::{
    cli::{ApplyArgs, ConnectionArgs},
    commands::print,
    connection::{Connection, parse_id},
    node::Queue,
    render::{good, strong},
};

/// Fetches the published branch into the clone, as a branch of the same name. Nothing is checked out or merged.
pub(crate) async fn apply(args: &ConnectionArgs, apply: &ApplyArgs) -> anyhow::Result<()> {
    let request: RequestId = parse_id(&apply.request)?;
    let listed = Connection::with(args, Queue::Leave, async |client| Ok(client.merge_requests().await?)).await?;
    let found = listed.into_iter().find(|it| it.request_id == request);
    let merge_request = found.with_context(|| {
        format!("request {request} has no merge request yet; approve its change first: astraforge approve {request}")
    })?;
    let address = merge_request.url.split('#').next().unwrap_or_default();
    let Some(published) = address.strip_prefix("file://") else {
        bail!("this merge request is on a Git host; fetch it from there: {}", merge_request.url);
    };
    if !Connection::is_local(args) {
        bail!("the branch is on the server's own disk: {published}; run `apply` there");
    }

    let branch = &merge_request.source_branch;
    let refspec = format!("refs/heads/{branch}:refs/heads/{branch}");
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(&apply.repo).args(words);
        command.output().context("cannot run git; install it, for instance with: apt-get install git")
    };
    let fetched = git(&["fetch", "--no-tags", "--", published, &refspec])?;
    if !fetched.status.success() {
        bail!("git could not fetch the branch: {}", String::from_utf8_lossy(&fetched.stderr).trim());
    }
    let head = git(&["rev-parse", "--verify", &format!("refs/heads/{branch}")])?;
    let commit = String::from_utf8_lossy(&head.stdout).trim().to_owned();
    if commit != merge_request.commit {
        bail!("branch {branch} of the clone is {commit}, not the approved commit {}", merge_request.commit);
    }
    print(args, &json!({ "branch": branch, "commit": commit }), |terminal, _| {
        terminal.line(terminal.paint(format!("{branch} is in your clone, at {commit}"), good()));
        terminal.line(format!("look at it: {}", terminal.paint(format!("git log -p {branch} -1"), strong())));
        terminal.line(format!("take it:    {}", terminal.paint(format!("git merge {branch}"), strong())));
    })
}
