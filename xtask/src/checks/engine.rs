//! The tests of the Docker driver, against an engine that runs only for them.

use std::fs;

use super::{Context, Verdict, stages, tally::Tally};
use crate::docker::{self, Engine, image};

/// Starts an engine, gives it an image, runs the tests that ask for one, and stops it again.
pub(super) fn check(context: &Context<'_>, tally: &mut Tally) -> anyhow::Result<Verdict> {
    if let Some(obstacle) = docker::obstacle(context.all)? {
        return Ok(Verdict::Skipped(obstacle));
    }
    let engine = Engine::start(context.workspace)?;
    println!("an engine of our own answers at {}", engine.host());
    let scratch = context.workspace.target.join("docker-image");
    fs::create_dir_all(&scratch)?;
    image::load_test(&engine, &scratch)?;
    let arguments = ["test", "--workspace", "--locked", "--test", "it", "--", "docker::", "--test-threads=4"];
    let mut cargo = context.workspace.cargo(arguments);
    cargo.env(docker::VARIABLE, engine.socket());
    stages::count(stages::with_programs(context, &mut cargo)?, Tally::of_libtest, tally)?;
    Ok(Verdict::Passed)
}
