//! Packages of Python that checks run, below the target folder, each at its one version.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Context as _;

use super::{Context, rootless};
use crate::{process, tools};

/// Where the packages of a list are, installed now if they were not. Where pip is not there and may be installed, it is,
/// when nothing may be left out.
pub(super) fn installed(context: &Context<'_>, name: &str, requirements: &str) -> anyhow::Result<PathBuf> {
    let installed = install(context, name, requirements);
    if installed.is_err() && context.all && rootless::is_root() && process::is_installed("apt-get") {
        tools::install_packages(&["python3-pip"])?;
        return install(context, name, requirements);
    }
    installed
}

fn install(context: &Context<'_>, name: &str, requirements: &str) -> anyhow::Result<PathBuf> {
    let requirements = context.workspace.root.join(requirements);
    let wanted = fs::read_to_string(&requirements)?;
    let folder = context.workspace.target.join("tools").join(name);
    let told = folder.join("requirements.txt");
    if fs::read_to_string(&told).is_ok_and(|installed| installed == wanted) {
        return Ok(folder);
    }
    drop(fs::remove_dir_all(&folder));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input"]);
    pip.args(["--root-user-action=ignore", "--disable-pip-version-check", "--target"]).arg(&folder);
    process::read(pip.arg("--requirement").arg(&requirements)).with_context(|| format!("pip cannot install {name}"))?;
    // Last, so that what was cut short is not taken for whole.
    fs::write(told, wanted)?;
    Ok(folder)
}
