//! Containers of a Docker engine: as sandboxes, and as its own client starts them.

use std::{path::Path, sync::Arc, time::Duration};

use astraforge_sandbox::{
    docker::{DockerConfig, DockerDriver},
    sandboxes::Sandboxes,
};

use crate::samples::{Failure, time};

/// The engine that `DOCKER_HOST` names, and an image that it has.
pub(crate) struct Engine {
    pub(crate) sandboxes: Sandboxes,
    image: String,
}

impl Engine {
    pub(crate) async fn connect(guest: &Path, image: String) -> Result<Self, Failure> {
        let host = std::env::var("DOCKER_HOST").map_err(|_| "DOCKER_HOST names no engine")?;
        let owner = format!("bench-{}", std::process::id());
        let config = DockerConfig::new(owner, guest, image.parse()?).with_host(host);
        Ok(Self { sandboxes: Sandboxes::new(Arc::new(DockerDriver::connect(config).await?)), image })
    }

    /// The line that starts a container for one command.
    pub(crate) fn run(&self) -> String {
        format!("docker run --rm --network none {} true", self.image)
    }

    /// Times `docker exec`, `n` times in a container of its own.
    pub(crate) async fn exec(&self, n: usize) -> Result<Vec<Duration>, Failure> {
        let name = format!("astraforge-bench-{}", std::process::id());
        time(&format!("docker run --detach --rm --network none --name {name} {} sleep 600", self.image)).await?;
        let mut samples = Vec::new();
        for _ in 0..n {
            samples.push(time(&format!("docker exec {name} true")).await?);
        }
        time(&format!("docker rm --force {name}")).await?;
        Ok(samples)
    }
}
