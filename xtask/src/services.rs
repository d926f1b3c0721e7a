//! The services that a company's installation stands on, started for tests and taken down again.
//!
//! They come from the system's packages, listen on 127.0.0.1 on free ports, keep their files below a temporary folder,
//! and end when this process does, even when it is killed.

use std::{
    fs,
    path::Path,
    process::{Child, Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use clap::{Args, Subcommand};

use crate::{demo::Interruption, process, workspace::Workspace};

mod postgres;
mod redis;
mod standing;
mod storage;

use self::{postgres::Postgres, redis::Redis, storage::Storage};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is to be done with the services.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ServicesArguments {
    #[command(subcommand)]
    standing: Option<Standing>,
    /// A command to run while they are up, with their addresses in its environment; without one, they stay up until Ctrl-C
    #[arg(last = true)]
    command: Vec<String>,
}

/// Services that stay.
#[derive(Debug, Clone, Copy, Subcommand)]
enum Standing {
    /// Start them and return; it prints the variables that programs and tests read
    Up,
    /// End those that are up
    Down,
}

/// Starts the services for a command, or for a person.
pub(crate) fn run(workspace: &Workspace, arguments: &ServicesArguments) -> anyhow::Result<ExitCode> {
    if let Some(obstacle) = obstacle(true)? {
        bail!("no services can be started here: {obstacle}");
    }
    match arguments.standing {
        Some(Standing::Up) => return standing::up(workspace).map(|()| ExitCode::SUCCESS),
        Some(Standing::Down) => return standing::down(workspace).map(|()| ExitCode::SUCCESS),
        None => {}
    }
    let interruption = Interruption::listen()?;
    let services = Services::start()?;
    let storage = Storage::start(workspace)?;
    let variables = services.for_tests().into_iter().chain(services.for_programs()).chain(storage.for_programs());
    let words: Vec<String> = variables.clone().map(|(name, value)| format!("{name}='{value}'")).collect();
    println!("export {}", words.join(" "));
    let status = interruption.run_or_wait(&arguments.command, |command| {
        command.envs(variables);
    })?;
    Ok(process::exit_code(status))
}

/// Why this machine can't run the services, unless it can. With `install` they are installed, aloud.
pub(crate) fn obstacle(install: bool) -> anyhow::Result<Option<String>> {
    Ok(postgres::obstacle(install)?.or(redis::obstacle(install)?))
}

/// Waits until a server answers that was just started; one that has ended, or takes too long, is told with the last lines
/// of its `log`.
fn wait_until_it_answers(
    name: &str,
    server: &mut Child,
    log: &Path,
    answers: impl Fn() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while !answers()? {
        if server.try_wait()?.is_some() || began.elapsed() > PATIENCE {
            let log = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            bail!("the {name} server did not start:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// All of them; they run as long as this value lives.
#[derive(Debug)]
pub(crate) struct Services {
    postgres: Postgres,
    redis: Redis,
}

impl Services {
    /// Starts them and waits until they answer.
    pub(crate) fn start() -> anyhow::Result<Self> {
        Ok(Self { postgres: Postgres::start()?, redis: Redis::start()? })
    }

    /// Tells tests where they are.
    pub(crate) fn tell(&self, command: &mut Command) {
        command.envs(self.for_tests());
    }

    fn for_tests(&self) -> [(&'static str, String); 2] {
        [(postgres::VARIABLE, self.postgres.url()), (redis::VARIABLE, self.redis.url())]
    }

    /// The variables that `astraforge` itself reads.
    pub(crate) fn for_programs(&self) -> [(&'static str, String); 2] {
        [("DATABASE_URL", self.postgres.url()), ("REDIS_URL", self.redis.url())]
    }
}
