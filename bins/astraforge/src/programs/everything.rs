//! `astraforge`: the server, the worker and the command line.

use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory};

use crate::{
    cli::{Cli, Command},
    commands, render, settings,
    signals::{Interrupted, OUTPUT_GONE},
};

/// Carries out one command line of `astraforge`.
#[must_use]
pub fn astraforge() -> ExitCode {
    let (cli, matches) = settings::read::<Cli>();
    // `up` tells what it does, other commands only what is wrong.
    super::prepare(if matches!(cli.command, Command::Up(_)) { "info" } else { "warn" });
    let is_quiet = !matches!(cli.command, Command::Run(_));
    let done = run(cli, &matches);
    if let Some(error) = OUTPUT_GONE.failure() {
        render::report(&anyhow::anyhow!("cannot write to standard output: {error}"));
        return ExitCode::FAILURE;
    }
    match done {
        Ok(code) => code,
        // `head` has read what it wanted: no mistake, and nothing to tell.
        Err(error) if OUTPUT_GONE.is_so() && error.is::<Interrupted>() && is_quiet => ExitCode::SUCCESS,
        Err(error) => super::failed(&error),
    }
}

#[tokio::main]
async fn run(cli: Cli, matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let args = &cli.connection;
    match &cli.command {
        Command::Up(up) => commands::up::up(args, up).await?,
        Command::Run(run) => commands::run::run(args, run).await?,
        Command::Apply(apply) => commands::apply::apply(args, apply).await?,
        Command::Requests(which) => commands::requests::requests(args, which).await?,
        Command::Logs(logs) => commands::logs::logs(args, logs).await?,
        Command::Diff(request) => commands::diff::diff(args, request).await?,
        Command::Approve(approve) => commands::approve::approve(args, approve).await?,
        Command::Cancel(request) => commands::cancel::cancel(args, request).await?,
        Command::Mr(which) => commands::merge_requests::merge_requests(args, which).await?,
        Command::Sandbox(sandbox) => return commands::sandbox::sandbox(args, sandbox).await,
        Command::Jobs(jobs) => return commands::jobs::jobs(args, jobs).await,
        Command::Users(users) => commands::users::users(args, users).await?,
        Command::Audit(audit) => return commands::audit::audit(args, audit).await,
        Command::Migrate => commands::migrate::migrate(args).await?,
        Command::Config => return Ok(commands::config::config(args, matches)),
        Command::Doctor => return commands::doctor::doctor(args).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "astraforge", &mut script);
            render::Terminal::detect().line(String::from_utf8_lossy(&script).trim_end());
        }
    }
    Ok(ExitCode::SUCCESS)
}
