//! A registry of our own, on the loopback address that the engine sees, with one image to pull.

use std::{
    fs::{self, File},
    net::TcpListener,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::{Engine, image};
use crate::process;

/// Tells tests which image the engine has to pull.
pub(crate) const VARIABLE: &str = "ASTRAFORGE_TEST_DOCKER_PULL";

/// The program and the package it comes from.
pub(super) const PROGRAM: &str = "docker-registry";

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A registry that runs as long as this value lives.
#[derive(Debug)]
pub(crate) struct Registry {
    child: Child,
    image: String,
}

impl Registry {
    /// Starts a registry beside the engine, and gives it the image of the tests under a name that the engine has not.
    pub(crate) fn start(engine: &Engine) -> anyhow::Result<Self> {
        // Nobody else is in the engine's network, or this machine's ports are as good as any.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let folder = engine.run.join("registry");
        fs::create_dir_all(&folder)?;
        let settings = folder.join("config.yml");
        fs::write(&settings, settings_of(&address, &folder.join("images").display().to_string()))?;
        let log = File::create(folder.join("log"))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "nsenter", "--net", "--target", &engine.child.id().to_string()]);
        command.args([PROGRAM, "serve"]).arg(&settings);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("cannot start a registry")?;
        let registry = Self { child, image: format!("{address}/astraforge/pulled:1") };
        registry.fill(engine)?;
        Ok(registry)
    }

    /// The image that the engine can pull, and has not.
    pub(crate) fn image(&self) -> &str {
        &self.image
    }

    fn fill(&self, engine: &Engine) -> anyhow::Result<()> {
        process::read(&mut engine.docker(&["tag", image::TEST, &self.image]))?;
        let began = Instant::now();
        while let Err(error) = process::read(&mut engine.docker(&["push", &self.image])) {
            if began.elapsed() > PATIENCE {
                let log = fs::read_to_string(engine.run.join("registry/log")).unwrap_or_default();
                bail!("nothing can be pushed to the registry: {error:#}\n{log}");
            }
            thread::sleep(Duration::from_millis(200));
        }
        process::read(&mut engine.docker(&["rmi", "--no-prune", &self.image]))?;
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn settings_of(address: &str, images: &str) -> String {
    format!(
        "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {images}\nhttp:\n  addr: \
         {address}\n"
    )
}
