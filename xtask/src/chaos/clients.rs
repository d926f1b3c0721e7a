//! The program under test, as processes of its own that can be killed: a server, and commands beside it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal};
use serde_json::Value;

/// How long a server may take to start, and a command to end, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Where the program is, and the folder of all that it writes.
#[derive(Debug)]
pub(crate) struct Program {
    astraforge: PathBuf,
    guest: PathBuf,
    pub(crate) scratch: PathBuf,
}

/// A server.
#[derive(Debug)]
pub(crate) struct Server(Child);

/// A command that runs, or has run.
#[derive(Debug)]
pub(crate) struct Client {
    child: Child,
    line: String,
    folder: PathBuf,
    began: Instant,
    was_killed: bool,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// As a person would type it.
    pub(crate) line: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
    /// Whether we killed it before it ended.
    pub(crate) was_killed: bool,
}

impl Program {
    /// Copies the program and its guest, so that a build meanwhile changes nothing.
    pub(crate) fn install(astraforge: &Path, guest: &Path, scratch: &Path) -> anyhow::Result<Self> {
        let copy = |from: &Path| {
            let to = scratch.join("bin").join(from.file_name().unwrap_or_default());
            fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
            anyhow::Ok(to)
        };
        Ok(Self { astraforge: copy(astraforge)?, guest: copy(guest)?, scratch: scratch.to_owned() })
    }

    /// The program, set up as it is on a machine where nobody has set it up.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.astraforge);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.scratch.join("home")).env("TMPDIR", self.scratch.join("tmp")).env("EXECUTOR", "stub");
        command.arg("--data").arg(self.scratch.join("data")).arg("--guest").arg(&self.guest);
        command.stdin(Stdio::null()).current_dir(&self.scratch);
        command
    }

    /// Starts a server; it is killed after `dies_after`, wherever it is then, if that is sooner than its greeting.
    pub(crate) fn start_server(&self, dies_after: Option<Duration>) -> anyhow::Result<Option<Server>> {
        let log = fs::File::options().create(true).append(true).open(self.scratch.join("server.log"))?;
        let mut command = self.command();
        command.args(["up", "--json", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().context("the server does not start")?;
        let stdout = child.stdout.take().context("a pipe")?;
        let (said, hears) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            _ = BufReader::new(stdout).read_line(&mut line);
            _ = said.send(line);
        });
        let greeting = hears.recv_timeout(dies_after.unwrap_or(PATIENCE)).unwrap_or_default();
        if serde_json::from_str::<Value>(&greeting).is_ok() {
            return Ok(Some(Server(child)));
        }
        child.kill()?;
        child.wait()?;
        if dies_after.is_none() {
            bail!("the server did not start:\n{}", self.end_of_log());
        }
        Ok(None)
    }

    /// The last of what servers had to say.
    pub(crate) fn end_of_log(&self) -> String {
        let log = fs::read_to_string(self.scratch.join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Starts `astraforge sandbox …`; `folder` is where its output goes.
    pub(crate) fn start(&self, words: &[String], folder: &Path) -> anyhow::Result<Client> {
        fs::create_dir_all(folder)?;
        let mut command = self.command();
        command.args(["sandbox", "--json"]).args(words);
        command.stdout(fs::File::create(folder.join("out"))?).stderr(fs::File::create(folder.join("err"))?);
        let child = command.spawn().context("a command does not start")?;
        let line = format!("astraforge sandbox {}", words.join(" "));
        Ok(Client { child, line, folder: folder.to_owned(), began: Instant::now(), was_killed: false })
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, words: &[&str]) -> anyhow::Result<Ended> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        self.start(&words, &self.scratch.join("out/one"))?.end()
    }
}

impl Server {
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap_or_default()
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    /// Ends it as a service manager would.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        signal(&self.0, Signal::TERM);
        let began = Instant::now();
        while self.0.try_wait()?.is_none() {
            if began.elapsed() > PATIENCE {
                self.kill()?;
                bail!("the server did not stop when it was told to");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Client {
    /// Kills it, if it still runs; tells whether it did.
    pub(crate) fn kill(&mut self) -> anyhow::Result<bool> {
        if self.child.try_wait()?.is_some() {
            return Ok(false);
        }
        self.child.kill()?;
        self.was_killed = true;
        Ok(true)
    }

    /// Has it stand still for a while, if it still runs.
    pub(crate) fn pause(&mut self, pause: Duration) -> anyhow::Result<bool> {
        if self.child.try_wait()?.is_some() {
            return Ok(false);
        }
        signal(&self.child, Signal::STOP);
        thread::sleep(pause);
        signal(&self.child, Signal::CONT);
        Ok(true)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub(crate) fn end(mut self) -> anyhow::Result<Ended> {
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if self.began.elapsed() > PATIENCE {
                self.child.kill()?;
                self.child.wait()?;
                bail!("`{}` is stuck: it did not end within {} s", self.line, PATIENCE.as_secs());
            }
            thread::sleep(Duration::from_millis(2));
        };
        let read = |name: &str| -> anyhow::Result<String> {
            let mut bytes = Vec::new();
            fs::File::open(self.folder.join(name))?.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Ended {
            status,
            stdout: read("out")?,
            stderr: read("err")?,
            took: self.began.elapsed(),
            was_killed: self.was_killed,
            line: self.line,
        })
    }
}

impl Ended {
    /// What it printed as a value.
    pub(crate) fn value(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("`{}` printed {:?}", self.line, self.stdout))
    }

    /// A field of what it printed.
    pub(crate) fn field(&self, name: &str) -> anyhow::Result<String> {
        let value = self.value()?;
        let field = value[name].as_str();
        Ok(field.with_context(|| format!("`{}` printed no {name}: {value}", self.line))?.to_owned())
    }

    /// Fails, with what it had to say, unless it did what it was asked.
    pub(crate) fn ensure_success(&self) -> anyhow::Result<()> {
        if !self.status.success() {
            bail!("`{}` failed ({}): {}", self.line, self.status, self.stderr.trim());
        }
        Ok(())
    }
}

/// Sends a signal to a child that was not waited for, so that its id is still its own.
fn signal(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        _ = rustix::process::kill_process(pid, signal);
    }
}
