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

    /// Removes all that it holds.
    pub(crate) fn flush(&self) {
        assert_eq!(self.command(&["FLUSHALL"]).trim(), "OK");
    }

    /// The sequence numbers in a stream.
    pub(crate) fn ids(&self, stream: &str) -> Vec<u64> {
        let ids = self.entries(stream).into_iter().map(|(id, _)| id);
        ids.filter_map(|id| id.strip_suffix("-0")?.parse().ok()).collect()
    }

    /// The texts in a stream.
    pub(crate) fn data(&self, stream: &str) -> Vec<String> {
        self.entries(stream).into_iter().map(|(_, data)| data).collect()
    }

    /// After how many seconds something is removed; -1 for never.
    pub(crate) fn ttl(&self, name: &str) -> i64 {
        self.command(&["TTL", name]).trim().parse().unwrap()
    }

    pub(crate) fn set(&self, name: &str, value: &str) {
        assert_eq!(self.command(&["SET", name, value]).trim(), "OK");
    }

    pub(crate) fn add(&self, stream: &str, id: &str, data: &str) {
        assert_eq!(self.command(&["XADD", stream, id, "data", data]).trim(), id);
    }

    /// Makes a login with these rights and no others.
    pub(crate) fn allow(&self, user: &str, password: &str, rights: &str) {
        let password = format!(">{password}");
        let words = ["ACL", "SETUSER", user, "reset", "on", &password].into_iter().chain(rights.split(' '));
        assert_eq!(self.command(&words.collect::<Vec<_>>()).trim(), "OK");
    }

    /// Ids and texts of a stream: `redis-cli` prints an entry as a line each for id, field and value.
    fn entries(&self, stream: &str) -> Vec<(String, String)> {
        let text = self.command(&["XRANGE", stream, "-", "+"]);
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        lines.chunks(3).map(|entry| (entry[0].to_owned(), entry[2].to_owned())).collect()
    }

    /// Runs a command through the server's own client, which fails with `-e` when the server answers with an error.
    fn command(&self, words: &[&str]) -> String {
        let mut client = Command::new("redis-cli");
        let output = client.args(["-e", "-p", &self.port.to_string()]).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
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
