//! The services that a company's installation stands on, started for tests and taken down again.
//!
//! They come from the system's packages, listen on 127.0.0.1 on free ports, keep their files below a temporary folder,
//! and end when this process does, even when it is killed.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::{demo::Interruption, process};

pub(crate) mod postgres;

pub(crate) use self::postgres::Postgres;

/// What is to be done with the services.
#[derive(Debug, Args)]
pub(crate) struct ServicesArguments {
    /// A command to run while they are up, with their addresses in its environment; without one, they stay up until Ctrl-C
    #[arg(last = true)]
    command: Vec<String>,
}

/// Starts the services for a command, or for a person.
pub(crate) fn run(arguments: &ServicesArguments) -> anyhow::Result<ExitCode> {
    if let Some(obstacle) = postgres::obstacle(true)? {
        bail!("no services can be started here: {obstacle}");
    }
    let interruption = Interruption::listen()?;
    let postgres = Postgres::start()?;
    let url = postgres.url();
    println!("export DATABASE_URL={url} {}={url}", postgres::VARIABLE);
    let status = interruption.run_or_wait(&arguments.command, |command| {
        command.env("DATABASE_URL", &url).env(postgres::VARIABLE, &url);
    })?;
    Ok(process::exit_code(status))
}
