//! Builds and runs the embedder's crate, which knows our crates only by path and lock file.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

use super::tally::Tally;
use super::{Context, Verdict};
use crate::process;
use crate::workspace::Workspace;

/// An embedder's program starts, does its work and ends by itself.
const LIMIT: Duration = Duration::from_secs(120);

/// Whether this checkout has the crate.
pub(crate) fn is_there(workspace: &Workspace) -> bool {
    workspace.root.join("examples/embed/Cargo.toml").is_file()
}

/// Builds the crate with the workspace's versions of everything, then runs it.
pub(crate) fn check(context: &Context<'_>, _: &mut Tally) -> anyhow::Result<Verdict> {
    let folder = context.workspace.root.join("examples/embed");
    // It commits no lock file of its own; starting from ours keeps the versions, and so the build cache.
    fs::copy(context.workspace.root.join("Cargo.lock"), folder.join("Cargo.lock")).context("no lock file to copy")?;
    process::run(context.workspace.cargo(["build"]).current_dir(&folder))?;
    process::run_within(context.workspace.cargo(["run", "--quiet"]).current_dir(&folder), LIMIT)?;
    Ok(Verdict::Passed)
}
