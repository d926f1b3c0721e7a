//! `cargo xtask fuzz`: feeds what reads hostile input with whatever comes to a fuzzer's mind.
//!
//! The targets' bodies are in the crates' `testing` features, and the inputs that are kept are replayed by ordinary
//! tests; only the fuzzer itself is here. Its instrumentation is part of the stable compiler.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use crate::{process, workspace::Workspace};

/// What has the compiler count the branches that an input takes.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing";

/// The options of `cargo xtask fuzz`.
#[derive(Debug, Args)]
pub(crate) struct FuzzArguments {
    /// Fuzz these targets only.
    targets: Vec<String>,
    /// How long each is fuzzed.
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u64,
    /// Write anew what the targets begin with, and stop.
    #[arg(long)]
    seeds: bool,
    /// Afterwards take into the committed corpora what reaches code that they do not reach.
    #[arg(long)]
    keep: bool,
}

/// Fuzzes the chosen targets one after the other; fails with those in which something was found.
pub(crate) fn run(workspace: &Workspace, arguments: &FuzzArguments) -> anyhow::Result<ExitCode> {
    if arguments.seeds {
        process::run(&mut Command::new(build(workspace)?.join("seeds")))?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", fuzz(workspace, &arguments.targets, arguments.seconds, arguments.keep)?);
    Ok(ExitCode::SUCCESS)
}

/// Fuzzes each target, or all where none is named, for `seconds`; returns what came of it in one line.
pub(crate) fn fuzz(workspace: &Workspace, chosen: &[String], seconds: u64, keep: bool) -> anyhow::Result<String> {
    let all = targets(workspace)?;
    if let Some(unknown) = chosen.iter().find(|name| !all.contains(name)) {
        bail!("there is no target `{unknown}`; the targets are: {}", all.join(", "));
    }
    let chosen = if chosen.is_empty() { &all } else { chosen };
    let programs = build(workspace)?;
    let (mut n_inputs, mut found) = (0, Vec::new());
    for name in chosen {
        let target = Target { name, program: programs.join(name), workspace };
        match target.fuzz(seconds) {
            Ok(n) => {
                println!("fuzz: {name}: {n} inputs, nothing found");
                n_inputs += n;
            }
            Err(error) => {
                println!("fuzz: {name}: {error:#}");
                found.push(name.as_str());
            }
        }
        if keep {
            target.keep()?;
        }
    }
    ensure!(found.is_empty(), "fuzzing found something in {}", found.join(", "));
    Ok(format!("{n_inputs} inputs to {} targets, nothing found", chosen.len()))
}

/// The names of all targets.
fn targets(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(workspace.root.join("fuzz/fuzz_targets"))?.collect::<Result<Vec<_>, _>>()?;
    let mut names: Vec<String> =
        entries.iter().filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

/// Builds all targets; returns the folder that they are in.
fn build(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    ensure!(
        ["c++", "g++", "clang++"].into_iter().any(process::is_installed),
        "the fuzzer needs a C++ compiler: apt-get install g++"
    );
    let triple = workspace.host_triple()?;
    let folder = workspace.target.join("fuzz");
    let mut cargo = workspace.cargo(["build", "--release", "--locked", "--bins", "--target", &triple, "--target-dir"]);
    // With a target named, the flags are for the targets alone, not for what runs while they are built.
    cargo.arg(&folder).current_dir(workspace.root.join("fuzz"));
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", FLAGS);
    process::run(&mut cargo)?;
    Ok(folder.join(triple).join("release"))
}

struct Target<'a> {
    name: &'a str,
    program: PathBuf,
    workspace: &'a Workspace,
}

impl Target<'_> {
    /// Fuzzes for `seconds`; returns how many inputs were tried.
    fn fuzz(&self, seconds: u64) -> anyhow::Result<u64> {
        let log = self.place("log")?;
        let mut command = self.command()?;
        command.args([format!("-max_total_time={seconds}"), "-timeout=20".into(), "-rss_limit_mb=2048".into()]);
        command.args(["-print_final_stats=1", "-reload=0"]).arg(prefixed("-artifact_prefix=", &self.place("found")?));
        command.stderr(fs::File::create(&log)?).arg(self.place("inputs")?).arg(self.corpus());
        let status = command.status().with_context(|| format!("cannot start {}", self.program.display()))?;
        let told = fs::read_to_string(&log)?;
        if !status.success() {
            let lines: Vec<&str> = told.lines().collect();
            let last = lines[lines.len().saturating_sub(30)..].join("\n");
            bail!("an input was found; once it is mended, keep it in {}:\n{last}", self.corpus().display());
        }
        let n_inputs = told.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        Ok(n_inputs.context("it did not say how many inputs it tried")?.trim().parse()?)
    }

    /// Takes into the committed corpus what reaches code that it does not reach yet.
    fn keep(&self) -> anyhow::Result<()> {
        let mut command = self.command()?;
        command.arg("-merge=1").arg(self.corpus()).arg(self.place("inputs")?);
        process::run(command.stderr(fs::File::create(self.place("merge-log")?)?))
    }

    fn command(&self) -> anyhow::Result<Command> {
        let mut command = Command::new("nice");
        command.arg(&self.program).current_dir(&self.workspace.target);
        // Some write files: in memory, where there is room.
        if Path::new("/dev/shm").is_dir() {
            command.env("TMPDIR", "/dev/shm");
        }
        fs::create_dir_all(self.place("inputs")?)?;
        Ok(command)
    }

    /// What is committed.
    fn corpus(&self) -> PathBuf {
        self.workspace.root.join("fuzz/corpus").join(self.name)
    }

    /// Where something of this target is kept below the target folder.
    fn place(&self, what: &str) -> anyhow::Result<PathBuf> {
        let folder = self.workspace.target.join("fuzz/work").join(self.name);
        fs::create_dir_all(&folder)?;
        Ok(folder.join(what))
    }
}

fn prefixed(prefix: &str, path: &Path) -> OsString {
    let mut text = OsString::from(prefix);
    text.push(path);
    text.push("-");
    text
}
