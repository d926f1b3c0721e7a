//! AstraForge in one binary: the server, the worker and the command line.

mod agent;
mod cli;
mod commands;
mod config;
mod connection;
mod data_folder;
mod database;
mod drivers;
mod egress_args;
mod egress_log;
mod native_args;
mod node;
mod render;
mod sandbox_files;
mod sandbox_plane;
mod signals;
mod user_clone;

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

use crate::{
    cli::{Cli, Command},
    signals::{Interrupted, OUTPUT_GONE},
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(&cli);
    // Another provider can only have been installed by this process, which has done nothing yet.
    _ = rustls::crypto::ring::default_provider().install_default();
    let is_quiet = !matches!(cli.command, Command::Run(_));
    match run(cli) {
        Ok(code) => code,
        // `head` has read what it wanted: no mistake, and nothing to tell.
        Err(error) if OUTPUT_GONE.is_so() && error.is::<Interrupted>() && is_quiet => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            if error.is::<Interrupted>() { ExitCode::from(Interrupted::EXIT_CODE) } else { ExitCode::FAILURE }
        }
    }
}

/// Standard error is all that is left to tell it on. A server's words, or a typed id, may hold anything.
pub(crate) fn report(error: &anyhow::Error) {
    let text = format!("error: {error:#}");
    text.lines().for_each(|line| _ = writeln!(std::io::stderr(), "{}", render::harmless(line)));
}

#[tokio::main]
async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
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
        Command::Doctor => return commands::doctor::doctor(args).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "astraforge", &mut script);
            render::Terminal::detect().line(String::from_utf8_lossy(&script).trim_end());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Logs go to standard error: `up` tells what it does, other commands only what is wrong. `RUST_LOG` changes that.
fn start_logging(cli: &Cli) {
    let usual = if matches!(cli.command, Command::Up(_)) { "info" } else { "warn" };
    // There every refusal of a cluster is an error, the expected ones too; those that matter are in our own errors.
    let usual = format!("{usual},kube_client::client::builder=off");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() { builder.init() } else { builder.with_ansi(false).init() }
}
