//! A Redis server that one test may stop, flush and start again.

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use astraforge_adapters::redis::RedisConfig;

/// A server on a port of its own, which keeps nothing on disk. It ends with this value.
pub(crate) struct Server {
    port: u16,
    child: Option<Child>,
    folder: tempfile::TempDir,
}

impl Server {
    pub(crate) fn new() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { port, child: None, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn started() -> Self {
        let mut server = Self::new();
        server.start();
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn config(&self) -> RedisConfig {
        RedisConfig::new(&format!("redis://127.0.0.1:{}/0", self.port)).unwrap()
    }

    pub(crate) fn start(&mut self) {
        let mut server = Command::new("setpriv");
        server.args(["--pdeathsig", "KILL", "redis-server", "--bind", "127.0.0.1", "--port", &self.port.to_string()]);
        server.args(["--save", "", "--appendonly", "no", "--dir"]).arg(self.folder.path());
        self.child = Some(server.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(began.elapsed() < super::PATIENCE, "the server does not start");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it, with all that it held.
    pub(crate) fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.stop();
        }
    }
}
