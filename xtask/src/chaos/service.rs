//! Chaos of an installation: its story is a test of `astraforge`, which is given servers of its own here.

use std::{process::Command, time::Instant};

use anyhow::bail;

use crate::{
    codex, guest, process,
    services::{self, Services},
    workspace::Workspace,
};

/// The test that tells the story.
const STORY: &str =
    "installation::chaos::nothing_is_lost_doubled_or_left_by_an_installation_that_is_struck_again_and_again";

/// Strikes an installation as often as asked; returns what it came to in one line.
pub(crate) fn strike(workspace: &Workspace, n_blows: u64, seed: u64) -> anyhow::Result<String> {
    if let Some(obstacle) = services::obstacle(true)? {
        bail!("no installation can be started here: {obstacle}");
    }
    guest::build(workspace)?;
    codex::install(workspace)?;
    println!("chaos: seed {seed}; play it again with: cargo xtask chaos service --kills {n_blows} --seed {seed}");
    let services = Services::start()?;
    let began = Instant::now();
    // The whole workspace, as in other checks, so that nothing is compiled again for other features.
    let mut story = workspace.cargo(["test", "--locked", "--workspace", "--test", "it", "--"]);
    story.args(["--ignored", "--exact", STORY, "--nocapture"]);
    services.tell(&mut story);
    tell(&mut story, n_blows, seed);
    process::run(&mut story)?;
    Ok(format!("{n_blows} blows in {} s, seed {seed}: nothing lost, doubled or left", began.elapsed().as_secs()))
}

/// Tells the story how many blows there are, and of which seed.
pub(crate) fn tell(story: &mut Command, n_blows: u64, seed: u64) {
    story.env("ASTRAFORGE_CHAOS_KILLS", n_blows.to_string()).env("ASTRAFORGE_CHAOS_SEED", seed.to_string());
}
