//! What the demonstration's sandboxes run on: `PROVISIONER` says it, as for every node.

use std::{path::Path, process::Command};

use anyhow::{Context as _, bail};

use crate::{
    docker::{self, Engine, image},
    workspace::Workspace,
};

/// Where sandboxes run.
#[derive(Debug)]
pub(super) enum Backend {
    /// On this machine, or wherever the person who looks on has configured.
    AsConfigured,
    /// On an engine that is ours, and stops with this value.
    Docker(Engine),
}

impl Backend {
    /// Makes ready what `PROVISIONER` asks for. A Docker engine that is named by `DOCKER_HOST` is taken as it is, with
    /// the image in `SANDBOX_IMAGE`.
    pub(super) fn prepare(workspace: &Workspace, scratch: &Path) -> anyhow::Result<Self> {
        let provisioner = std::env::var("PROVISIONER").unwrap_or_default();
        if provisioner != "docker" || std::env::var_os("DOCKER_HOST").is_some() {
            return Ok(Self::AsConfigured);
        }
        super::step("Starting a Docker engine, with an image of this machine's programs");
        if let Some(obstacle) = docker::obstacle(false)? {
            bail!("PROVISIONER=docker needs an engine: {obstacle}; or name one with DOCKER_HOST and SANDBOX_IMAGE");
        }
        let engine = Engine::start(workspace)?;
        image::load_demo(&engine, scratch).context("cannot make the image of the demonstration")?;
        println!("{} has {}", engine.host(), image::DEMO);
        Ok(Self::Docker(engine))
    }

    /// Tells a node about it.
    pub(super) fn configure(&self, node: &mut Command) {
        if let Self::Docker(engine) = self {
            node.env("DOCKER_HOST", engine.host()).env("SANDBOX_IMAGE", image::DEMO);
        }
    }
}
