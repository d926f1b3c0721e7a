//! A Docker engine of our own, for tests and the demonstration: started, given an image, and stopped again.
//!
//! Nothing of it touches an engine that this machine may run already: it has folders, a socket and a containerd of its
//! own, no default bridge, and leaves the firewall alone. For what needs a firewall it gets a network of its own.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use clap::Args;

use self::registry::Registry;
use crate::{demo::Interruption, guest, process, tools, workspace::Workspace};

pub(crate) mod image;
pub(crate) mod registry;

/// Tells tests where the engine answers.
pub(crate) const VARIABLE: &str = "ASTRAFORGE_TEST_DOCKER";

/// Tells tests that the engine can make bridges.
pub(crate) const BRIDGES: &str = "ASTRAFORGE_TEST_DOCKER_BRIDGES";

/// What an engine of our own is made of, and the packages that it comes in.
const PROGRAMS: [(&str, &str); 3] =
    [("dockerd", "docker.io"), ("docker", "docker.io"), (registry::PROGRAM, "docker-registry")];

/// How long the engine may take to answer, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// An engine that runs as long as this value lives.
#[derive(Debug)]
pub(crate) struct Engine {
    child: Child,
    /// Sockets and what only running containers need; below the system's own folder, because a socket's path is short.
    run: PathBuf,
    /// Images and volumes.
    data: PathBuf,
}

/// Where an engine's networks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wires {
    /// On this machine, whose firewall is left alone: what is pulled comes from outside, and bridges keep nobody apart.
    Machine,
    /// In a name space that leads nowhere, with a firewall that is the engine's: bridges do as they are told.
    Own,
}

impl Wires {
    /// Those of its own, where this machine can make them.
    pub(crate) fn own_if_possible() -> Self {
        let mut probe = Command::new("unshare");
        probe.args(["--net", "iptables", "--wait", "--table", "nat", "--list"]);
        match process::read(&mut probe) {
            Ok(_) => Self::Own,
            Err(error) => {
                println!("bridges of the engine are not tested, because no firewall can be made: {error:#}");
                Self::Machine
            }
        }
    }
}

/// Why this machine can't run an engine, unless it can. With `install` what is missing is installed, aloud.
pub(crate) fn obstacle(install: bool) -> anyhow::Result<Option<String>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Some("starting a Docker engine needs root".into()));
    }
    let missing = || PROGRAMS.iter().find(|(program, _)| !process::is_installed(program));
    if (missing().is_some() || image::obstacle().is_some()) && install && process::is_installed("apt-get") {
        tools::install_packages(&["docker.io", "docker-registry", "busybox-static"])?;
    }
    if let Some((program, package)) = missing() {
        return Ok(Some(format!("there is no {program}: `apt-get install {package}`")));
    }
    Ok(image::obstacle())
}

/// What is to be done with the engine.
#[derive(Debug, Args)]
pub(crate) struct EngineArguments {
    /// Give it a network of its own, which leads nowhere and in which bridges keep sandboxes apart
    #[arg(long)]
    bridges: bool,
    /// A command to run while it is up, with DOCKER_HOST set; without one, it stays up until Ctrl-C
    #[arg(last = true)]
    command: Vec<String>,
}

/// Starts an engine for a command, or for a person.
pub(crate) fn run(workspace: &Workspace, arguments: &EngineArguments) -> anyhow::Result<ExitCode> {
    if let Some(obstacle) = obstacle(true)? {
        bail!("no engine can be started here: {obstacle}");
    }
    let guest = guest::build(workspace)?;
    let interruption = Interruption::listen()?;
    let wires = if arguments.bridges { Wires::Own } else { Wires::Machine };
    let engine = Engine::start_with_test_image(workspace, wires)?;
    let pulled = Registry::start(&engine)?;
    let (host, socket, image) = (engine.host(), engine.socket(), image::TEST);
    println!("export DOCKER_HOST={host} {VARIABLE}={} SANDBOX_IMAGE={image}", socket.display());
    let status = interruption.run_or_wait(&arguments.command, |command| {
        command.env("DOCKER_HOST", host).env(VARIABLE, socket).env("SANDBOX_IMAGE", image).env(guest::VARIABLE, guest);
        command.env(registry::VARIABLE, pulled.image());
        if arguments.bridges {
            command.env(BRIDGES, "yes");
        }
    })?;
    drop(pulled);
    drop(engine);
    Ok(process::exit_code(status))
}

impl Engine {
    /// Starts the engine and gives it the image of the tests.
    pub(crate) fn start_with_test_image(workspace: &Workspace, wires: Wires) -> anyhow::Result<Self> {
        let engine = Self::start(workspace, wires)?;
        println!("an engine of our own answers at {}", engine.host());
        let scratch = workspace.target.join("docker-image");
        fs::create_dir_all(&scratch)?;
        image::load_test(&engine, &scratch)?;
        Ok(engine)
    }

    /// Starts the engine and waits until it answers.
    pub(crate) fn start(workspace: &Workspace, wires: Wires) -> anyhow::Result<Self> {
        let run = std::env::temp_dir().join(format!("astraforge-docker-{}", std::process::id()));
        let data = workspace.target.join(format!("docker-{}", std::process::id()));
        fs::create_dir_all(&run)?;
        fs::create_dir_all(&data)?;
        let log = File::create(run.join("log"))?;
        // It ends when we do, even when we are killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]);
        match wires {
            Wires::Machine => command.args(["dockerd", "--iptables=false", "--ip-masq=false"]),
            Wires::Own => {
                command.args(["unshare", "--net", "sh", "-c", "busybox ifconfig lo up && exec dockerd \"$@\"", "sh"])
            }
        };
        command.arg("--bridge=none");
        command.arg("--data-root").arg(&data).arg("--exec-root").arg(run.join("exec"));
        command
            .arg("--pidfile")
            .arg(run.join("pid"))
            .arg(format!("--host=unix://{}", run.join("docker.sock").display()));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("cannot start dockerd")?;
        let mut engine = Self { child, run, data };
        engine.wait_until_it_answers()?;
        Ok(engine)
    }

    /// The path of its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run.join("docker.sock")
    }

    /// Its address, as `DOCKER_HOST` spells it.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The `docker` program, talking to it.
    pub(crate) fn docker(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(words).env("DOCKER_HOST", self.host()).env("DOCKER_CONFIG", &self.run);
        command
    }

    fn wait_until_it_answers(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while process::read(&mut self.docker(&["version"])).is_err() {
            if self.child.try_wait()?.is_some() || began.elapsed() > PATIENCE {
                bail!("the Docker engine did not start:\n{}", self.last_words());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.run.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        let containers = process::read(&mut self.docker(&["ps", "--all", "--quiet"]))?;
        let containers: Vec<&str> = containers.split_whitespace().collect();
        if !containers.is_empty() {
            process::read(self.docker(&["rm", "--force", "--volumes"]).args(containers))?;
        }
        process::read(Command::new("kill").args(["-TERM", &self.child.id().to_string()]))?;
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(began.elapsed() < PATIENCE, "it does not stop");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            println!("the Docker engine did not stop as it should: {error:#}");
            _ = self.child.kill();
            _ = self.child.wait();
        }
        for folder in [&self.run, &self.data] {
            remove(folder);
        }
    }
}

/// Removes a folder of an engine that is gone, with what is still mounted in it.
fn remove(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounted =
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| Path::new(path).starts_with(folder));
    for path in mounted.collect::<Vec<_>>().into_iter().rev() {
        _ = Command::new("umount").args(["--lazy", path]).status();
    }
    if let Err(error) = fs::remove_dir_all(folder) {
        println!("cannot remove {}: {error}", folder.display());
    }
}
