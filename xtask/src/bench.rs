//! `cargo xtask bench`: each part beside its baseline, both measured in this run on this machine.

mod comparison;
mod demo;

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, ValueEnum};

use self::comparison::Measurement;
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
    /// What the LLM proxy adds to a call.
    Proxy,
    /// Where the time of the demo goes.
    Demo,
}

/// Measures the chosen sections and prints what came of them.
pub(crate) fn run(workspace: &Workspace, arguments: &BenchArguments) -> anyhow::Result<ExitCode> {
    let chosen = |section: Section| arguments.sections.is_empty() || arguments.sections.contains(&section);
    let mut failed = false;
    for section in [Section::Sandbox, Section::Proxy, Section::Demo].into_iter().filter(|it| chosen(*it)) {
        let measured = match section {
            Section::Sandbox => sandbox(workspace, &arguments.profile),
            Section::Proxy => program(workspace, &arguments.profile, "astraforge-codex", "proxy", &[]),
            Section::Demo => demo::run(workspace),
        };
        if let Err(error) = measured {
            println!("\n{section:?} could not be measured: {error:#}");
            failed = true;
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn sandbox(workspace: &Workspace, profile: &str) -> anyhow::Result<()> {
    let guest = guest::build(workspace)?.display().to_string();
    program(workspace, profile, "astraforge-sandbox", "sandbox", &["--guest", &guest])
}

/// Runs a crate's own bench program and compares what it prints.
fn program(workspace: &Workspace, profile: &str, package: &str, bench: &str, options: &[&str]) -> anyhow::Result<()> {
    let mut cargo = workspace.cargo(["bench", "--quiet", "--locked", "--package", package, "--bench", bench]);
    cargo.args(["--profile", profile, "--"]).args(options);
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
