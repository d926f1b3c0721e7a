//! A command in a sandbox that lives, beside the same command started bare.

use astraforge_core::{id::SandboxId, ports::sessions::Sessions, session::SandboxSpec};
use astraforge_sandbox::sandboxes::Sandboxes;

use crate::{
    containers::Engine,
    creation::run_true,
    samples::{Failure, Section, time, timed},
};

const N_ROUNDS: usize = 300;
const N_CONTAINER_ROUNDS: usize = 20;

pub(crate) const EXEC: Section = Section { name: "exec", what: "run `true` to its end, output read" };
const IN_CONTAINER: Section = Section { name: "exec in docker", what: "the same in a container" };

pub(crate) async fn measure(sandboxes: &Sandboxes, engine: Option<&Engine>) -> Result<(), Failure> {
    let id = SandboxId::random();
    let session = sandboxes.create(id, SandboxSpec::default(), Vec::new()).await?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..=N_ROUNDS {
        let ((), inside) = timed(run_true(&*session)).await?;
        let outside = time("true").await?;
        if round > 0 {
            ours.push(inside);
            bare.push(outside);
        }
    }
    sandboxes.destroy(id).await?;
    EXEC.print("native", "Session::exec true + collect", &ours);
    EXEC.print("fork + exec", "tokio::process::Command true + output", &bare);
    match engine {
        Some(engine) => in_container(engine).await,
        None => {
            IN_CONTAINER.leave_out("docker", "no Docker engine: `apt-get install docker.io`");
            Ok(())
        }
    }
}

async fn in_container(engine: &Engine) -> Result<(), Failure> {
    let id = SandboxId::random();
    let session = engine.sandboxes.create(id, SandboxSpec::default(), Vec::new()).await?;
    let mut ours = Vec::new();
    for round in 0..=N_ROUNDS {
        let ((), inside) = timed(run_true(&*session)).await?;
        if round > 0 {
            ours.push(inside);
        }
    }
    engine.sandboxes.destroy(id).await?;
    IN_CONTAINER.print("docker", "Session::exec true + collect", &ours);
    IN_CONTAINER.print("docker exec", "docker exec CONTAINER true", &engine.exec(N_CONTAINER_ROUNDS).await?);
    Ok(())
}
