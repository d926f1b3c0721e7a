//! The published wheel of the system that ours takes the place of, unchanged, against our server.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Context as _;

use super::{Context, Verdict, rootless, stages, tally::Tally};
use crate::{process, tools};

/// Names the folder of Python packages to the test.
const VARIABLE: &str = "ASTRAFORGE_TEST_WHEEL";
/// Every package that is installed, at its one version.
const REQUIREMENTS: &str = "bins/astraforge/tests/contract/requirements.txt";

/// Installs the wheel below the target folder and runs the test that uses it.
pub(super) fn check(context: &Context<'_>, tally: &mut Tally) -> anyhow::Result<Verdict> {
    let mut installed = install(context);
    if installed.is_err() && context.all && rootless::is_root() && process::is_installed("apt-get") {
        tools::install_packages(&["python3-pip"])?;
        installed = install(context);
    }
    let packages = match installed {
        Ok(packages) => packages,
        Err(error) => return Ok(Verdict::Skipped(format!("{error:#}"))),
    };
    let tell = &|command: &mut Command| {
        command.env(VARIABLE, &packages);
    };
    let test = "package(astraforge) & test(/published_wheel/)";
    stages::some(context, &["--test", "it", "--run-ignored", "only", "-E", test], tell, tally)?;
    Ok(Verdict::Passed)
}

/// Where the packages are, installed now if they were not.
fn install(context: &Context<'_>) -> anyhow::Result<PathBuf> {
    let requirements = context.workspace.root.join(REQUIREMENTS);
    let wanted = fs::read_to_string(&requirements)?;
    let folder = context.workspace.target.join("tools/published-wheel");
    let told = folder.join("requirements.txt");
    if fs::read_to_string(&told).is_ok_and(|installed| installed == wanted) {
        return Ok(folder);
    }
    drop(fs::remove_dir_all(&folder));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input"]);
    pip.args(["--root-user-action=ignore", "--disable-pip-version-check", "--target"]).arg(&folder);
    process::read(pip.arg("--requirement").arg(&requirements)).context("pip cannot install the published wheel")?;
    // Last, so that what was cut short is not taken for whole.
    fs::write(told, wanted)?;
    Ok(folder)
}
