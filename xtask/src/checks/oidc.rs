//! The tests with a real OpenID provider: the certified `oidc-provider` of npm.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, ensure};

use super::{Context, Verdict, stages, tally::Tally};
use crate::process;

/// Names the folder with the provider to the tests.
const VARIABLE: &str = "ASTRAFORGE_TEST_OIDC";
/// The program, and every package that it stands on, at its one version.
const SOURCES: &str = "bins/astraforge/tests/oidc";
const FILES: [&str; 3] = ["provider.mjs", "package.json", "package-lock.json"];
/// The oldest Node.js that the provider runs on.
const OLDEST_NODE: u32 = 20;

/// Installs the provider below the target folder and runs the tests that use it.
pub(super) fn check(context: &Context<'_>, tally: &mut Tally) -> anyhow::Result<Verdict> {
    let folder = match ready().and_then(|()| install(context)) {
        Ok(folder) => folder,
        Err(error) => return Ok(Verdict::Skipped(format!("{error:#}"))),
    };
    let tell = &|command: &mut Command| {
        command.env(VARIABLE, &folder);
    };
    let tests = "package(astraforge) & test(/^oidc::/)";
    stages::some(context, &["--test", "it", "--run-ignored", "only", "-E", tests], tell, tally)?;
    Ok(Verdict::Passed)
}

/// Fails if this machine cannot run the provider.
fn ready() -> anyhow::Result<()> {
    let version = process::read(Command::new("node").arg("--version")).context("Node.js is missing")?;
    let major = version.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    let is_new_enough = major.is_some_and(|major| major >= OLDEST_NODE);
    ensure!(is_new_enough, "Node.js is {}: the provider needs {OLDEST_NODE} or newer", version.trim());
    Ok(())
}

/// Where the provider is, installed now if it was not.
fn install(context: &Context<'_>) -> anyhow::Result<PathBuf> {
    let sources = context.workspace.root.join(SOURCES);
    let folder = context.workspace.target.join("tools/oidc-provider");
    let is_same = |name: &&str| fs::read(sources.join(name)).ok() == fs::read(folder.join(name)).ok();
    if FILES.iter().all(is_same) {
        return Ok(folder);
    }
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder)?;
    let copy =
        |name: &str| fs::copy(sources.join(name), folder.join(name)).with_context(|| format!("cannot copy {name}"));
    let [program, packages @ ..] = FILES;
    for name in packages {
        copy(name)?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(&folder);
    process::read(&mut npm).context("npm cannot install the OpenID provider")?;
    // Last, so that what was cut short is not taken for whole.
    copy(program)?;
    Ok(folder)
}
