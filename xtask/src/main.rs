//! Developer tasks: `cargo xtask test`, `guest`, `cluster`, `engine`, `tidy`, `bench`, `chaos`, `fuzz`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a developer tool talks to the terminal")]

mod bench;
mod chaos;
mod checks;
mod cluster;
mod codex;
mod demo;
mod docker;
mod elf;
mod fuzz;
mod guest;
mod process;
mod python;
mod services;
mod tidy;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Builds, checks, measures and shows AstraForge; everything it makes stays below the target folder.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run every check that this machine can run.
    Test(checks::TestArguments),
    /// Watch an agent fix a bug in a sandbox, from prompt to merge request.
    Demo(demo::DemoArguments),
    /// Build the static guest binary that every sandbox starts with.
    Guest,
    /// Measure the parts beside their baselines.
    Bench(bench::BenchArguments),
    /// Start a Kubernetes of one node for tests, until Ctrl-C or as long as a command runs.
    Cluster(cluster::ClusterArguments),
    /// Start a Docker engine for tests, until Ctrl-C or as long as a command runs.
    Engine(docker::EngineArguments),
    /// Start what an installation stands on, PostgreSQL, Redis and S3, until Ctrl-C or as long as a command runs.
    Services(services::ServicesArguments),
    /// Kill servers, commands and sandboxes at random points, and look what is lost or left.
    Chaos(chaos::ChaosArguments),
    /// Feed what reads hostile input with whatever comes to a fuzzer's mind.
    Fuzz(fuzz::FuzzArguments),
    /// Check the tree's own rules: arrows between crates, names, sizes, records.
    Tidy,
}

fn main() -> ExitCode {
    let Arguments { task } = Arguments::parse();
    run(task).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    match task {
        Task::Test(arguments) => checks::run(&workspace, &arguments),
        Task::Demo(arguments) => demo::run(&workspace, &arguments),
        Task::Guest => {
            let guest = guest::build(&workspace)?;
            println!("{}", guest.display());
            Ok(ExitCode::SUCCESS)
        }
        Task::Bench(arguments) => bench::run(&workspace, &arguments),
        Task::Cluster(arguments) => cluster::run(&workspace, &arguments),
        Task::Engine(arguments) => docker::run(&workspace, &arguments),
        Task::Services(arguments) => services::run(&workspace, &arguments),
        Task::Chaos(arguments) => chaos::run(&workspace, &arguments),
        Task::Fuzz(arguments) => fuzz::run(&workspace, &arguments),
        Task::Tidy => {
            tidy::check(&workspace.root)?;
            println!("the tree is tidy");
            Ok(ExitCode::SUCCESS)
        }
    }
}
