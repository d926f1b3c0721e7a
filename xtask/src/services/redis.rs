//! A Redis server of our own.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;

use super::{PATIENCE, wait_until_it_answers};
use crate::{process, tools};

/// Tells tests where the server answers.
pub(crate) const VARIABLE: &str = "ASTRAFORGE_TEST_REDIS";

/// A server that runs as long as this value lives.
#[derive(Debug)]
pub(crate) struct Redis {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
}

/// Why this machine can't run a server and its tests, unless it can. With `install` what lacks is installed, aloud.
pub(crate) fn obstacle(install: bool) -> anyhow::Result<Option<String>> {
    // A subscriber of the tests is a program in Python, so that none of our code is in it.
    let is_there = || ["redis-server", "redis-cli", "python3"].into_iter().all(process::is_installed);
    if !is_there() && install && rustix::process::geteuid().is_root() && process::is_installed("apt-get") {
        tools::install_packages(&["redis-server", "python3-minimal"])?;
    }
    let missing = "no Redis server with Python is installed: `apt-get install redis-server python3-minimal`";
    Ok(if is_there() { None } else { Some(missing.into()) })
}

impl Redis {
    /// Starts a server that keeps nothing on disk, and waits until it answers.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("astraforge-redis-").tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = File::create(folder.path().join("log"))?;
        // It ends with this process, even when that is killed.
        let mut server = Command::new("setpriv");
        server.args(["--pdeathsig", "KILL", "redis-server", "--port", &port.to_string(), "--bind", "127.0.0.1"]);
        server.args(["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir"]).arg(folder.path());
        let child = server.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let mut redis = Self { child: child.context("cannot start setpriv")?, folder, port };
        let log = redis.folder.path().join("log");
        wait_until_it_answers("Redis", &mut redis.child, &log, || Ok(answers(port)))?;
        println!("a Redis server of our own answers at {}", redis.url());
        Ok(redis)
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }
}

/// Whether the server at that port answers.
fn answers(port: u16) -> bool {
    let ping = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        Ok(answer == *b"+PONG")
    };
    ping().unwrap_or(false)
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Its data goes with it.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
