//! Times native sandboxes beside their baselines, and prints samples for `cargo xtask bench`.
//!
//! Subject and baseline take turns, so that whatever else the machine does weighs on both.
#![expect(clippy::print_stdout, reason = "the samples are its output")]

use std::{
    error::Error,
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use astraforge_core::{
    id::SandboxId,
    ports::sessions::{Session, Sessions},
    session::{Command, SandboxSpec},
};
use astraforge_sandbox::{
    native::{NativeConfig, NativeDriver},
    sandboxes::Sandboxes,
};
use serde_json::json;

const N_CREATIONS: usize = 60;
const N_COMMANDS: usize = 200;
/// A container takes half a second, so there are fewer.
const N_CONTAINERS: usize = 5;

/// What bubblewrap is asked for: the same namespaces, the same file system, no network.
const BWRAP: &str = "bwrap --unshare-all --die-with-parent --new-session --ro-bind /usr /usr --symlink usr/bin /bin \
    --symlink usr/lib /lib --symlink usr/lib64 /lib64 --proc /proc --dev /dev --tmpfs /tmp --tmpfs /workspace \
    --chdir /workspace true";

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let Some(guest) = std::env::args().skip_while(|it| it != "--guest").nth(1) else {
        return Err("run it as `cargo xtask bench sandbox`".into());
    };
    let state = tempfile::tempdir()?;
    let driver = NativeDriver::new(NativeConfig::new(state.path(), Path::new(&guest)))?;
    let sandboxes = Sandboxes::new(Arc::new(driver));
    time_creation(&sandboxes).await?;
    time_commands(&sandboxes).await
}

/// From nothing to the end of the first command, and what it takes to remove all of it again.
async fn time_creation(sandboxes: &Sandboxes) -> Result<(), Failure> {
    let has_bwrap = runs("bwrap --version").await;
    let (mut ours, mut removal, mut bwrap) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=N_CREATIONS {
        let (created, removed) = one_sandbox(sandboxes).await?;
        let baseline = if has_bwrap { time(BWRAP).await? } else { Duration::ZERO };
        if round > 0 {
            ours.push(created);
            removal.push(removed);
            bwrap.push(baseline);
        }
    }
    let what = "create, then run `true` to its end";
    print("create", "native", what, "Sandboxes::create + exec true + collect", &ours);
    if has_bwrap {
        print("create", "bwrap", what, BWRAP, &bwrap);
    } else {
        leave_out("create", "bwrap", "bwrap does not run here: `apt-get install bubblewrap`");
    }
    time_containers(what).await?;
    print("destroy", "native", "remove it, processes first", "Sandboxes::destroy", &removal);
    Ok(())
}

async fn one_sandbox(sandboxes: &Sandboxes) -> Result<(Duration, Duration), Failure> {
    let id = SandboxId::random();
    let start = Instant::now();
    let session = sandboxes.create(id, SandboxSpec::default(), Vec::new()).await?;
    run_true(&*session).await?;
    let created = start.elapsed();
    let start = Instant::now();
    sandboxes.destroy(id).await?;
    Ok((created, start.elapsed()))
}

/// Times a container engine, if one answers and has an image at hand.
async fn time_containers(what: &str) -> Result<(), Failure> {
    let image = tokio::process::Command::new("docker").args(["image", "ls", "--quiet"]).output().await;
    let image = image.map(|output| String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned));
    let Ok(Some(image)) = image else {
        leave_out("create", "docker run", "no Docker engine with an image answers here");
        return Ok(());
    };
    let command = format!("docker run --rm --network none {image} true");
    let mut samples = Vec::new();
    for _ in 0..N_CONTAINERS {
        samples.push(time(&command).await?);
    }
    print("create", "docker run", what, &command, &samples);
    Ok(())
}

/// A command in a sandbox that lives, beside the same command started bare.
async fn time_commands(sandboxes: &Sandboxes) -> Result<(), Failure> {
    let id = SandboxId::random();
    let session = sandboxes.create(id, SandboxSpec::default(), Vec::new()).await?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..=N_COMMANDS {
        let start = Instant::now();
        run_true(&*session).await?;
        let inside = start.elapsed();
        let outside = time("true").await?;
        if round > 0 {
            ours.push(inside);
            bare.push(outside);
        }
    }
    sandboxes.destroy(id).await?;
    let what = "run `true` to its end, output read";
    print("exec", "native", what, "Session::exec true + collect", &ours);
    print("exec", "fork + exec", what, "tokio::process::Command true + output", &bare);
    Ok(())
}

async fn run_true(session: &dyn Session) -> Result<(), Failure> {
    let output = session.exec(Command::new(["true"])).await?.collect(1024).await?;
    if !output.stderr.is_empty() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(())
}

async fn time(line: &str) -> Result<Duration, Failure> {
    let start = Instant::now();
    let output = command(line).output().await?;
    let took = start.elapsed();
    if !output.status.success() {
        return Err(format!("`{line}`: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(took)
}

async fn runs(line: &str) -> bool {
    command(line).stdout(Stdio::null()).stderr(Stdio::null()).status().await.is_ok_and(|status| status.success())
}

fn command(line: &str) -> tokio::process::Command {
    let mut words = line.split_whitespace();
    let mut command = tokio::process::Command::new(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::null());
    command
}

fn print(section: &str, name: &str, what: &str, command: &str, samples: &[Duration]) {
    let samples_us: Vec<f64> = samples.iter().map(|sample| sample.as_secs_f64() * 1e6).collect();
    let line = json!({
        "section": section, "name": name, "what": what, "command": command, "samples_us": samples_us,
    });
    println!("{line}");
}

fn leave_out(section: &str, name: &str, why: &str) {
    println!("{}", json!({ "section": section, "name": name, "left_out": why }));
}
