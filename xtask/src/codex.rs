//! Installs the pinned Codex CLI below the target folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

use crate::{process, workspace::Workspace};

/// The version that everything is tested with.
pub(crate) const VERSION: &str = "0.169.0";

/// Names the native program to the tests.
pub(crate) const VARIABLE: &str = "ASTRAFORGE_TEST_CODEX";

/// Returns the native program of the npm package, installed now if it was not.
pub(crate) fn install(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let folder = workspace.target.join("tools").join(format!("codex-{VERSION}"));
    if let Some(program) = program_in(&folder) {
        return Ok(program);
    }
    let draft = folder.with_file_name(format!("codex-new-{}", std::process::id()));
    fs::create_dir_all(&draft)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(&draft);
    npm.arg(format!("@openai/codex@{VERSION}"));
    process::run(&mut npm).context("npm could not install the Codex CLI")?;
    ensure!(program_in(&draft).is_some(), "npm installed no Codex program for this platform");
    if fs::rename(&draft, &folder).is_err() {
        // Another run was quicker; its copy is the same version.
        fs::remove_dir_all(&draft)?;
    }
    program_in(&folder).context("the Codex program that npm installed is gone again")
}

/// The native program below an npm prefix; npm leaves it out on platforms that it does not know.
fn program_in(prefix: &Path) -> Option<PathBuf> {
    let packages = fs::read_dir(prefix.join("node_modules/@openai")).ok()?.flatten();
    let targets = packages.filter_map(|package| fs::read_dir(package.path().join("vendor")).ok()).flatten().flatten();
    targets.map(|target| target.path().join("bin/codex")).find(|program| program.is_file())
}
