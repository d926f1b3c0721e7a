//! `cargo xtask bench`: each part beside its baseline, both measured in this run on this machine.

mod comparison;
mod demo;

use std::process::{Command, ExitCode};

use anyhow::bail;
use clap::{Args, ValueEnum};

use self::comparison::Measurement;
use crate::cluster::{self, Cluster};
use crate::docker::{self, Engine, Wires};
use crate::services::{self, Services};
use crate::workspace::Workspace;
use crate::{guest, process};

/// The options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// Measure these parts only.
    sections: Vec<Section>,
    /// The profile that is measured; anything but `bench` tells whether it works, not how fast it is.
    #[arg(long, default_value = "bench")]
    profile: String,
}

/// A part that can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// From nothing to the first command, and commands in a live sandbox.
    Sandbox,
    /// Pods as sandboxes, on a cluster of our own.
    Kubernetes,
    /// What the LLM proxy adds to a call.
    Proxy,
    /// What an installation does on PostgreSQL: its queue, its run logs and who watches them.
    Service,
    /// Where the time of the demo goes.
    Demo,
}

/// Measures the chosen sections and prints what came of them.
pub(crate) fn run(workspace: &Workspace, arguments: &BenchArguments) -> anyhow::Result<ExitCode> {
    let chosen = |section: Section| arguments.sections.is_empty() || arguments.sections.contains(&section);
    let mut failed = false;
    let all = [Section::Sandbox, Section::Kubernetes, Section::Proxy, Section::Service, Section::Demo];
    for section in all.into_iter().filter(|it| chosen(*it)) {
        let measured = match section {
            Section::Sandbox => sandbox(workspace, &arguments.profile),
            Section::Kubernetes => kubernetes(workspace, &arguments.profile),
            Section::Proxy => program(workspace, &arguments.profile, "astraforge-codex", "proxy", |_| ()),
            Section::Service => service(workspace, &arguments.profile),
            Section::Demo => demo::run(workspace),
        };
        if let Err(error) = measured {
            println!("\n{section:?} could not be measured: {error:#}");
            failed = true;
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Native sandboxes, and those on a Docker engine of our own where one can be started.
fn sandbox(workspace: &Workspace, profile: &str) -> anyhow::Result<()> {
    let guest = guest::build(workspace)?;
    let engine = match docker::obstacle(false)? {
        None => Some(Engine::start_with_test_image(workspace, Wires::Machine)?),
        Some(_) => None,
    };
    program(workspace, profile, "astraforge-sandbox", "sandbox", |bench| {
        bench.arg("--guest").arg(&guest);
        if let Some(engine) = &engine {
            bench.args(["--docker", docker::image::TEST]).env("DOCKER_HOST", engine.host());
        }
    })
}

fn kubernetes(workspace: &Workspace, profile: &str) -> anyhow::Result<()> {
    if let Some(obstacle) = cluster::obstacle() {
        bail!("no cluster can be started here: {obstacle}");
    }
    if !cluster::is_installed() {
        bail!("the cluster's programs are not on this machine; `cargo xtask cluster -- true` installs and builds them");
    }
    let guest = guest::build(workspace)?;
    let cluster = Cluster::start(workspace, &guest)?;
    program(workspace, profile, "astraforge-sandbox", "sandbox", |bench| {
        cluster.tell(bench.arg("--guest").arg(&guest).args(["--kubernetes", cluster::TEST_IMAGE]));
    })
}

fn service(workspace: &Workspace, profile: &str) -> anyhow::Result<()> {
    if let Some(obstacle) = services::obstacle(true)? {
        bail!("no services can be started here: {obstacle}");
    }
    let services = Services::start()?;
    program(workspace, profile, "astraforge", "service", |bench| {
        bench.envs(services.for_programs());
    })
}

/// Runs a crate's own bench program and compares what it prints.
fn program(
    workspace: &Workspace,
    profile: &str,
    package: &str,
    bench: &str,
    options: impl FnOnce(&mut Command),
) -> anyhow::Result<()> {
    let mut cargo = workspace.cargo(["bench", "--quiet", "--locked", "--package", package, "--all-features"]);
    cargo.args(["--bench", bench, "--profile", profile, "--"]);
    options(&mut cargo);
    let line = process::line(&cargo);
    let output = process::read(&mut cargo)?;
    let measurements: Vec<Measurement> = output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if measurements.is_empty() {
        bail!("`{line}` printed no measurement");
    }
    println!("\nmeasured by: {line}");
    comparison::print(&measurements);
    Ok(())
}
