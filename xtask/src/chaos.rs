//! `cargo xtask chaos`: kills servers, commands and sandboxes at random points, and looks what is left of it.

mod clients;
mod dice;
mod enclosure;
mod host;
mod lane;
mod oracle;
pub(crate) mod service;
mod story;

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use self::{clients::Program, enclosure::Enclosure, host::Host, story::Story};
use crate::{guest, process, workspace::Workspace};

/// The options of `cargo xtask chaos`.
#[derive(Debug, Args)]
pub(crate) struct ChaosArguments {
    /// What is killed.
    subject: Subject,
    /// How often something is killed.
    #[arg(long, default_value_t = 10, value_name = "N")]
    kills: u64,
    /// Plays an earlier run again: the same commands and blows, as far as the machine keeps time.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
}

/// What can be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// Durable sandboxes on the native driver, their server and the commands beside it.
    Sandbox,
    /// An installation: APIs, workers, a proxy, and their connections to PostgreSQL and Redis.
    Service,
}

/// Kills as often as asked, and fails with the first thing that is lost or left.
pub(crate) fn run(workspace: &Workspace, arguments: &ChaosArguments) -> anyhow::Result<ExitCode> {
    let seed = arguments.seed.unwrap_or_else(new_seed);
    let told = match arguments.subject {
        Subject::Sandbox => sandbox(workspace, arguments.kills, seed)?,
        Subject::Service => service::strike(workspace, arguments.kills, seed)?,
    };
    println!("{told}");
    Ok(ExitCode::SUCCESS)
}

/// A seed that no earlier run had.
pub(crate) fn new_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |it| it.as_secs() << 20 | u64::from(it.subsec_micros()))
}

/// Runs the story of `n_kills` kills; returns what it came to in one line.
pub(crate) fn sandbox(workspace: &Workspace, n_kills: u64, seed: u64) -> anyhow::Result<String> {
    let guest = guest::build(workspace)?;
    process::run(&mut workspace.cargo(["build", "--locked", "--package", "astraforge"]))?;
    println!("chaos: seed {seed}; play it again with: cargo xtask chaos sandbox --kills {n_kills} --seed {seed}");
    let enclosure = Enclosure::enter().context("cannot keep what is started together")?;
    if enclosure.groups().is_empty() {
        println!("chaos: control groups are not looked at, for this user may make none");
    }
    let scratch = Scratch::make()?;
    let program = Program::install(&workspace.target.join("debug/astraforge"), &guest, &scratch.folder)?;
    let host = Host::new(&enclosure, &scratch.folder, &scratch.folder.join("data/session-sandboxes"));
    let began = Instant::now();
    let told = tell(&program, &host, n_kills, seed);
    if told.is_err() {
        host.kill_all();
        println!("chaos: the last words of the servers:\n{}", program.end_of_log());
        println!("chaos: what it wrote is kept in {}", scratch.folder.display());
        std::mem::forget(scratch);
    }
    let story = told.with_context(|| format!("chaos with seed {seed}"))?;
    Ok(format!("{story} in {} s, seed {seed}", began.elapsed().as_secs()))
}

fn tell(program: &Program, host: &Host, n_kills: u64, seed: u64) -> anyhow::Result<String> {
    let mut story = Story::begin(program, host, seed)?;
    while story.n_kills < n_kills {
        let round = story.round()?;
        println!("chaos: round {:>4}, {:>4} kills so far: {round}", story.n_rounds, story.n_kills);
    }
    let told = format!(
        "{} kills in {} rounds of {} commands: nothing lost, nothing left (a server's start cleared up {} times)",
        story.n_kills, story.n_rounds, story.n_commands, story.n_settled_by_a_start
    );
    story.end()?;
    Ok(told)
}

/// The folder of a run; it goes with this value.
#[derive(Debug)]
struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    fn make() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("astraforge-chaos-{}", std::process::id()));
        for part in ["bin", "home", "in", "out", "tmp"] {
            fs::create_dir_all(folder.join(part)).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(Self { folder })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            println!("cannot remove {}: {error}", self.folder.display());
        }
    }
}
