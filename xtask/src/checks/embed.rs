//! Builds and runs the embedders' crates, which know our crates only by path and lock file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use super::tally::Tally;
use super::{Context, Verdict};
use crate::process;
use crate::workspace::Workspace;

/// An embedder's program starts, does its work and ends by itself.
const LIMIT: Duration = Duration::from_secs(120);

/// Whether this checkout has such crates.
pub(crate) fn is_there(workspace: &Workspace) -> bool {
    crates(workspace).is_ok_and(|crates| !crates.is_empty())
}

fn crates(workspace: &Workspace) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(workspace.root.join("examples"))?.collect::<Result<Vec<_>, _>>()?;
    let mut crates: Vec<PathBuf> =
        entries.iter().map(fs::DirEntry::path).filter(|folder| folder.join("Cargo.toml").is_file()).collect();
    crates.sort();
    Ok(crates)
}

/// Builds each crate with the workspace's versions of everything, runs it, and runs its tests where it has any.
pub(crate) fn check(context: &Context<'_>, tally: &mut Tally) -> anyhow::Result<Verdict> {
    for folder in crates(context.workspace)? {
        check_one(context, tally, &folder).with_context(|| folder.display().to_string())?;
    }
    Ok(Verdict::Passed)
}

fn check_one(context: &Context<'_>, tally: &mut Tally, folder: &Path) -> anyhow::Result<()> {
    // It commits no lock file of its own; starting from ours keeps the versions, and so the build cache.
    fs::copy(context.workspace.root.join("Cargo.lock"), folder.join("Cargo.lock")).context("no lock file to copy")?;
    process::run(context.workspace.cargo(["build"]).current_dir(folder))?;
    process::run_within(context.workspace.cargo(["run", "--quiet"]).current_dir(folder), LIMIT)?;
    if folder.join("tests").is_dir() {
        let mut cargo = context.workspace.cargo(["test", "--tests"]);
        let (status, output) = process::run_and_read(cargo.current_dir(folder))?;
        *tally += Tally::of_libtest(&output);
        process::ensure_success(&cargo, status)?;
    }
    Ok(())
}
