//! A command in a sandbox that lives, beside the same command started bare.

use std::time::Duration;

use astraforge_core::{id::SandboxId, ports::sessions::Sessions, session::SandboxSpec};
use astraforge_sandbox::sandboxes::Sandboxes;

use crate::{
    creation::{image, run_true},
    samples::{Failure, Section, time, timed},
};

const N_ROUNDS: usize = 300;
const N_CONTAINER_ROUNDS: usize = 20;

const EXEC: Section = Section { name: "exec", what: "run `true` to its end, output read" };

pub(crate) async fn measure(sandboxes: &Sandboxes) -> Result<(), Failure> {
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
    match in_container().await? {
        Some(samples) => EXEC.print("docker exec", "docker exec CONTAINER true", &samples),
        None => EXEC.leave_out("docker exec", "no Docker engine with an image answers here"),
    }
    Ok(())
}

async fn in_container() -> Result<Option<Vec<Duration>>, Failure> {
    let Some(image) = image().await else { return Ok(None) };
    let name = format!("astraforge-bench-{}", std::process::id());
    time(&format!("docker run --detach --rm --network none --name {name} {image} sleep 600")).await?;
    let mut samples = Vec::new();
    for _ in 0..N_CONTAINER_ROUNDS {
        samples.push(time(&format!("docker exec {name} true")).await?);
    }
    time(&format!("docker rm --force {name}")).await?;
    Ok(Some(samples))
}
