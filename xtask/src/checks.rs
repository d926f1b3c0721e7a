//! `cargo xtask test`: every check, one after the other, with times, skips and totals.

mod attack;
mod contract;
mod embed;
mod engine;
mod features;
mod kubernetes;
mod oidc;
mod package;
mod packages;
mod report;
mod rootless;
mod services;
mod stages;
mod tally;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use self::report::{Report, Row};
pub(crate) use self::rootless::is_root;
use self::stages::Stage;
use self::tally::Tally;
use crate::workspace::Workspace;

/// What `--all` may take on an idle two-core machine with a warm target folder.
const BUDGET: Duration = Duration::from_secs(30 * 60);

/// The options of `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct TestArguments {
    /// Count a skipped stage as a failure, and install system packages when run as root; CI uses this.
    #[arg(long)]
    all: bool,
    /// Run the long checks too: soak tests, and a build of every package from its archive.
    #[arg(long)]
    soak: bool,
    /// Run these stages only.
    #[arg(long, num_args = 1.., value_name = "STAGE")]
    only: Vec<String>,
    /// Print the stages and stop.
    #[arg(long)]
    list: bool,
}

/// What a stage has to work with.
#[derive(Debug)]
struct Context<'a> {
    workspace: &'a Workspace,
    /// `--all`: system packages may be installed.
    all: bool,
}

/// How a stage ended, unless it failed.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    /// It passed, and there is something to say about how.
    PassedWith(String),
    /// This machine can't run it, and why.
    Skipped(String),
}

/// Runs the chosen stages and prints the report.
pub(crate) fn run(workspace: &Workspace, arguments: &TestArguments) -> anyhow::Result<ExitCode> {
    let stages = choose(workspace, arguments)?;
    if arguments.list {
        report::print_list(&stages);
        return Ok(ExitCode::SUCCESS);
    }
    let context = Context { workspace, all: arguments.all };
    let started = Instant::now();
    let mut report = Report::default();
    for stage in &stages {
        let row = run_stage(&context, stage, &report);
        report::print_outcome(&row);
        report.add(row);
    }
    report.print(started.elapsed(), BUDGET, arguments.all);
    Ok(if report.is_good(arguments.all) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The stages that this run is about, in the table's order.
fn choose(workspace: &Workspace, arguments: &TestArguments) -> anyhow::Result<Vec<Stage>> {
    let mut stages = stages::table(workspace);
    if let Some(unknown) = arguments.only.iter().find(|name| !stages.iter().any(|stage| stage.name == **name)) {
        let names: Vec<&str> = stages.iter().map(|stage| stage.name).collect();
        anyhow::bail!("there is no stage `{unknown}`; the stages are: {}", names.join(", "));
    }
    if arguments.only.is_empty() {
        stages.retain(|stage| !stage.soak || arguments.soak);
    } else {
        stages.retain(|stage| arguments.only.iter().any(|name| stage.name == name));
    }
    Ok(stages)
}

/// Runs one stage, or says that what it stands on has failed.
fn run_stage(context: &Context<'_>, stage: &Stage, report: &Report) -> Row {
    report::print_start(stage);
    let started = Instant::now();
    let mut tally = Tally::default();
    let result = match stage.after.iter().find(|name| report.has_failed(name)) {
        Some(failed) => Err(anyhow::anyhow!("not run, because `{failed}` failed")),
        None => (stage.run)(context, &mut tally),
    };
    Row { name: stage.name, took: started.elapsed(), tally, result }
}
