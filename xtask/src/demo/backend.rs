//! What the demonstration's sandboxes run on: `PROVISIONER` says it, as for every node.

use std::{path::Path, process::Command};

use anyhow::{Context as _, bail};

use crate::{
    cluster::{self, Cluster, image::Image},
    docker::{self, Engine, Wires, image},
    workspace::Workspace,
};

/// Where sandboxes run.
#[derive(Debug)]
pub(super) enum Backend {
    /// On this machine, or wherever the person who looks on has configured.
    AsConfigured,
    /// On an engine that is ours, and stops with this value.
    Docker(Engine),
    /// On a cluster that is ours, and gone with this value.
    K8s(Cluster),
}

/// The image of workspaces on that cluster, with git, node and Codex.
const CLUSTER_IMAGE: &str = "astraforge/demo-workspace:1";

impl Backend {
    /// Makes ready what `PROVISIONER` asks for. A Docker engine that is named by `DOCKER_HOST` is taken as it is, with
    /// the image in `SANDBOX_IMAGE`.
    pub(super) fn prepare(workspace: &Workspace, scratch: &Path, guest: &Path, codex: &Path) -> anyhow::Result<Self> {
        let provisioner = std::env::var("PROVISIONER").unwrap_or_default();
        if provisioner == "k8s" && std::env::var_os(cluster::VARIABLE).is_none() {
            return Self::cluster(workspace, guest, codex);
        }
        if provisioner != "docker" || std::env::var_os("DOCKER_HOST").is_some() {
            return Ok(Self::AsConfigured);
        }
        super::step("Starting a Docker engine, with an image of this machine's programs");
        if let Some(obstacle) = docker::obstacle(false)? {
            bail!("PROVISIONER=docker needs an engine: {obstacle}; or name one with DOCKER_HOST and SANDBOX_IMAGE");
        }
        let engine = Engine::start(workspace, Wires::Machine)?;
        image::load_demo(&engine, scratch).context("cannot make the image of the demonstration")?;
        println!("{} has {}", engine.host(), image::DEMO);
        Ok(Self::Docker(engine))
    }

    /// Starts a cluster. One that is named by `KUBECONFIG` is taken as it is where the variable of the tests says so, with
    /// the image in `SANDBOX_IMAGE`.
    fn cluster(workspace: &Workspace, guest: &Path, codex: &Path) -> anyhow::Result<Self> {
        if let Some(obstacle) = cluster::obstacle() {
            let variable = cluster::VARIABLE;
            bail!(
                "no cluster can be started here: {obstacle}; name one with KUBECONFIG, SANDBOX_IMAGE and {variable}=1"
            );
        }
        super::step("Starting a Kubernetes of one node, with an image of this machine's programs");
        let cluster = Cluster::start(workspace, guest)?;
        cluster.load(&Image::of_this_machine(CLUSTER_IMAGE, &["git", "node", "tar"], codex)?)?;
        Ok(Self::K8s(cluster))
    }

    /// Tells a node about it.
    pub(super) fn configure(&self, node: &mut Command) {
        match self {
            Self::AsConfigured => {}
            Self::Docker(engine) => {
                node.env("DOCKER_HOST", engine.host()).env("SANDBOX_IMAGE", image::DEMO);
            }
            // Nothing there keeps network policies, which a demonstration may accept.
            Self::K8s(cluster) => {
                cluster.tell(node).env("SANDBOX_IMAGE", CLUSTER_IMAGE).env("ACCEPT_UNENFORCED_EGRESS", "true");
            }
        }
    }
}
