//! `apply`: brings an approved change into a clone.

use std::{path::Path, process::Command};

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

/// Brings the published branch into the clone, as a branch of the same name. Nothing is checked out or merged.
pub(crate) async fn apply(args: &ConnectionArgs, apply: &ApplyArgs) -> anyhow::Result<()> {
    let request: RequestId = parse_id(&apply.request)?;
    let listed = Connection::with(args, Queue::Leave, async |client| Ok(client.merge_requests().await?)).await?;
    let found = listed.into_iter().find(|it| it.request_id == request);
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
    Clone(&apply.repo).take(address, branch, commit)?;
    print(args, &json!({ "branch": branch, "commit": commit }), |terminal, _| {
        terminal.line(terminal.paint(format!("{branch} is in your clone, at {commit}"), good()));
        terminal.line(format!("look at it: {}", terminal.paint(format!("git log -p {branch} -1"), strong())));
        terminal.line(format!("take it:    {}", terminal.paint(format!("git merge {branch}"), strong())));
    })
}

/// A person's clone.
struct Clone<'a>(&'a Path);

impl Clone<'_> {
    /// Lets `branch` hold `commit`, fetched from `address`. What the branch holds beyond it stays; what is checked out
    /// is never moved.
    fn take(&self, address: &str, branch: &str, commit: &str) -> anyhow::Result<()> {
        let name = format!("refs/heads/{branch}");
        self.git(&["fetch", "--no-tags", "--", address, &name])?;
        if self.git(&["rev-parse", "--verify", "FETCH_HEAD"])? != commit {
            bail!("the published branch does not hold the approved commit {commit}; nothing was changed");
        }
        if self.git(&["rev-parse", "--verify", "--quiet", &name]).is_err() {
            return self.git(&["branch", "--no-track", branch, commit]).map(drop);
        }
        if self.holds(&name, commit) {
            return Ok(());
        }
        if !self.holds(commit, &name) {
            bail!("{branch} of the clone has commits of its own; bring both together with: git merge {commit}");
        }
        if self.git(&["symbolic-ref", "--quiet", "HEAD"]).is_ok_and(|head| head == name) {
            bail!("{branch} is checked out; move it on with: git merge --ff-only {commit}");
        }
        self.git(&["branch", "--force", "--no-track", branch, commit]).map(drop)
    }

    /// Tells whether `commit` is part of the history of `tip`.
    fn holds(&self, tip: &str, commit: &str) -> bool {
        self.git(&["merge-base", "--is-ancestor", commit, tip]).is_ok()
    }

    fn git(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = Command::new("git").arg("-C").arg(self.0).args(words).output();
        let output = output.context("cannot run git; install it, for instance with: apt-get install git")?;
        if !output.status.success() {
            bail!("git {} failed: {}", words[0], String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
