//! The tests of the Docker driver, and attacks on its sandboxes, against an engine that runs only for them.

use super::{Context, Verdict, attack, stages, tally::Tally};
use crate::docker::{
    self, Engine, Wires, image,
    registry::{self, Registry},
};

/// Starts an engine, gives it an image, runs the tests that ask for one and the attacks, and stops it again.
pub(super) fn check(context: &Context<'_>, tally: &mut Tally) -> anyhow::Result<Verdict> {
    if let Some(obstacle) = docker::obstacle(context.all)? {
        return Ok(Verdict::Skipped(obstacle));
    }
    let wires = Wires::own_if_possible();
    let engine = Engine::start_with_test_image(context.workspace, wires)?;
    let registry = Registry::start(&engine)?;
    let arguments = ["test", "--workspace", "--locked", "--test", "it", "--", "docker::", "--test-threads=4"];
    let mut cargo = context.workspace.cargo(arguments);
    cargo.env(docker::VARIABLE, engine.socket()).env(registry::VARIABLE, registry.image());
    if wires == Wires::Own {
        cargo.env(docker::BRIDGES, "yes");
    }
    stages::count(stages::with_programs(context, &mut cargo)?, Tally::of_libtest, tally)?;
    attack::on(context, "docker", |program| {
        program.env("DOCKER_HOST", engine.host()).env("SANDBOX_IMAGE", image::TEST);
    })?;
    drop(registry);
    // The tests of bridges say only in their own output, which nobody sees, that they were skipped.
    Ok(match wires {
        Wires::Own => Verdict::Passed,
        Wires::Machine => Verdict::PassedWith("without bridges: no firewall can be made".into()),
    })
}
