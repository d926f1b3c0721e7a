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

/// Returns the folder of the installed npm package, installed now if it was not.
pub(crate) fn install(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let folder = workspace.target.join("tools").join(format!("codex-{VERSION}"));
    let package = folder.join("node_modules/@openai");
    if is_whole(&folder) {
        return Ok(package);
    }
    let draft = folder.with_file_name(format!("codex-new-{}", std::process::id()));
    fs::create_dir_all(&draft)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(&draft);
    npm.arg(format!("@openai/codex@{VERSION}"));
    process::run(&mut npm).context("npm could not install the Codex CLI")?;
    ensure!(is_whole(&draft), "npm installed no Codex program for this platform");
    if fs::rename(&draft, &folder).is_err() {
        // Another run was quicker; its copy is the same version.
        fs::remove_dir_all(&draft)?;
    }
    Ok(package)
}

/// Tells whether the native program is there; npm leaves it out on platforms that it does not know.
fn is_whole(folder: &Path) -> bool {
    let vendored = |package: fs::DirEntry| package.path().join("vendor").is_dir();
    fs::read_dir(folder.join("node_modules/@openai")).is_ok_and(|found| found.flatten().any(vendored))
}
