//! What a sandbox is asked to be, and what a command in it is and yields.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{egress::Egress, files::Roots, image::Image, sandbox::Lifetime};

mod quantity;

pub use self::quantity::{ByteSize, Cpus, ParseByteSizeError, ParseCpusError};

/// How a limit is to be taken where a driver cannot enforce it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strictness {
    /// The sandbox is refused where the limit cannot be enforced.
    Required,
    /// The sandbox runs all the same; its capabilities say that the limit is not enforced.
    BestEffort,
}

/// One limit of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit<T> {
    /// The largest value the sandbox may reach.
    pub max: T,
    /// What happens where the driver cannot enforce it.
    pub strictness: Strictness,
}

impl<T> Limit<T> {
    /// A limit that must be enforced.
    pub const fn required(max: T) -> Self {
        Self { max, strictness: Strictness::Required }
    }

    /// A limit that is enforced where the machine allows it.
    pub const fn best_effort(max: T) -> Self {
        Self { max, strictness: Strictness::BestEffort }
    }
}

/// What a sandbox may use up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of all processes together.
    pub memory: Limit<ByteSize>,
    /// Number of processes and threads.
    pub processes: Limit<u32>,
    /// Processor time, in thousandths of a processor; `None` is no limit.
    pub cpu_millis: Option<Limit<u32>>,
    /// Open file descriptors of one process.
    pub open_files: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: Limit::best_effort(ByteSize::gib(4)),
            processes: Limit::required(512),
            cpu_millis: None,
            open_files: 4096,
        }
    }
}

/// Where a sandbox keeps `/workspace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Workspace {
    /// In memory, gone with the sandbox; its size is always enforced.
    Tmpfs {
        /// The largest total size of all files.
        size: ByteSize,
    },
    /// In a folder on disk.
    Disk {
        /// The largest total size of all files.
        size: Limit<ByteSize>,
    },
}

/// A folder of the host that a sandbox sees read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadOnlyFolder {
    /// The absolute path on the host.
    pub source: PathBuf,
    /// The absolute path inside the sandbox.
    pub target: PathBuf,
}

/// What a sandbox is asked to be. A driver gives all of it or refuses.
///
/// ```
/// use astraforge_core::session::{ByteSize, SandboxSpec, Workspace};
///
/// let spec = SandboxSpec::default()
///     .with_workspace(Workspace::Tmpfs { size: ByteSize::mib(64) })
///     .with_env("LANG", "C.UTF-8");
/// assert_eq!(spec.env["LANG"], "C.UTF-8");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SandboxSpec {
    /// What it sees as its system; `None` is the driver's default. Of an image's configuration the environment counts, and
    /// neither its user nor its working folder.
    pub image: Option<Image>,
    /// Where `/workspace` lives.
    pub workspace: Workspace,
    /// What the sandbox may use up.
    pub limits: Limits,
    /// Which addresses it may reach.
    pub egress: Egress,
    /// Host folders that it sees read-only, beside the driver's own toolchain folders.
    pub folders: Vec<ReadOnlyFolder>,
    /// Environment of every command, beneath what the command itself sets.
    pub env: BTreeMap<String, String>,
    /// Size of `/tmp`, which is always in memory.
    pub tmp_size: ByteSize,
    /// How long the sandbox outlives the loss of its server. Until a server was connected for the first time it is a
    /// minute at least.
    pub orphan_timeout: Duration,
    /// The folders in which callers may use file verbs.
    pub roots: Roots,
}

impl Default for SandboxSpec {
    fn default() -> Self {
        Self {
            image: None,
            workspace: Workspace::Tmpfs { size: ByteSize::gib(2) },
            limits: Limits::default(),
            egress: Egress::Off,
            folders: Vec::new(),
            env: BTreeMap::new(),
            tmp_size: ByteSize::gib(1),
            orphan_timeout: Duration::from_secs(120),
            roots: Roots::default(),
        }
    }
}

impl SandboxSpec {
    /// What a sandbox is that a person or an agent asks for and says nothing else of: its files are on disk, it reaches
    /// public addresses, and it outlives its server for as long as it may live. No server need be there all the time: the
    /// reaper ends it, and this only if nobody ever comes back.
    #[must_use]
    pub fn durable(lifetime: Lifetime) -> Self {
        Self::default()
            .with_workspace(Workspace::Disk { size: Limit::best_effort(ByteSize::gib(10)) })
            .with_egress(Egress::Public)
            .with_orphan_timeout(lifetime.max())
    }

    /// Sets what it sees as its system.
    #[must_use]
    pub fn with_image(mut self, image: Image) -> Self {
        self.image = Some(image);
        self
    }

    /// Sets which addresses it may reach.
    #[must_use]
    pub fn with_egress(mut self, egress: Egress) -> Self {
        self.egress = egress;
        self
    }

    /// Sets where `/workspace` lives.
    #[must_use]
    pub fn with_workspace(mut self, workspace: Workspace) -> Self {
        self.workspace = workspace;
        self
    }

    /// Sets what the sandbox may use up.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Shows a host folder read-only inside the sandbox.
    #[must_use]
    pub fn with_folder(mut self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.folders.push(ReadOnlyFolder { source: source.into(), target: target.into() });
        self
    }

    /// Sets one variable of every command's environment.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets how long the sandbox outlives the loss of its server.
    #[must_use]
    pub fn with_orphan_timeout(mut self, timeout: Duration) -> Self {
        self.orphan_timeout = timeout;
        self
    }
}

/// A command to run in a sandbox.
///
/// ```
/// use std::time::Duration;
/// use astraforge_core::session::Command;
///
/// let command = Command::new(["git", "status"])
///     .with_cwd("/workspace")
///     .with_timeout(Duration::from_secs(10));
/// assert_eq!(command.to_string(), "git status");
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Command {
    /// Program and arguments; never a shell line.
    pub argv: Vec<String>,
    /// Working directory; `/workspace` unless set.
    pub cwd: PathBuf,
    /// Environment, on top of the sandbox's own.
    pub env: BTreeMap<String, String>,
    /// What the command reads first.
    pub stdin: Bytes,
    /// What follows that.
    pub stdin_end: StdinEnd,
    /// The terminal it runs in; `None` is none. With one, all output is standard output.
    pub pty: Option<PtySize>,
    /// How long the whole process tree may run; `None` is no limit.
    pub timeout: Option<Duration>,
}

impl Command {
    /// A command from its program and arguments.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            cwd: PathBuf::from("/workspace"),
            env: BTreeMap::new(),
            stdin: Bytes::new(),
            stdin_end: StdinEnd::AtOnce,
            pty: None,
            timeout: None,
        }
    }

    /// A line for `/bin/sh`.
    pub fn shell(line: impl Into<String>) -> Self {
        Self::new(["/bin/sh".to_owned(), "-c".to_owned(), line.into()])
    }

    /// Sets the working directory.
    #[must_use]
    pub fn with_cwd(mut self, cwd: impl Into<PathBuf>) -> Self {
        self.cwd = cwd.into();
        self
    }

    /// Sets one environment variable.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets what the command reads.
    #[must_use]
    pub fn with_stdin(mut self, stdin: impl Into<Bytes>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// Leaves standard input open after what is read first; more comes through the running command's control.
    #[must_use]
    pub fn with_open_stdin(mut self) -> Self {
        self.stdin_end = StdinEnd::WhenClosed;
        self
    }

    /// Runs it in a terminal, with its standard input open.
    #[must_use]
    pub fn with_pty(mut self, size: PtySize) -> Self {
        self.pty = Some(size);
        self.with_open_stdin()
    }

    /// Sets how long the whole process tree may run.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtySize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl Default for PtySize {
    fn default() -> Self {
        Self { rows: 24, columns: 80 }
    }
}

/// When a command's standard input ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StdinEnd {
    /// After what it is given at its start.
    #[default]
    AtOnce,
    /// When its control closes it.
    WhenClosed,
}

/// Environment values may be secrets, so only their names are shown.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("argv", &self.argv)
            .field("cwd", &self.cwd)
            .field("env", &self.env.keys())
            .field("stdin_bytes", &self.stdin.len())
            .field("stdin_end", &self.stdin_end)
            .field("pty", &self.pty)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// Prints the command as a shell would take it.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, arg) in self.argv.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
            if !arg.is_empty() && arg.chars().all(plain) {
                f.write_str(arg)?;
            } else {
                write!(f, "'{}'", arg.replace('\'', r"'\''"))?;
            }
        }
        Ok(())
    }
}

/// A signal that a running command can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Asks the command to stop what it does (SIGINT).
    Interrupt,
    /// Asks the command to end (SIGTERM).
    Terminate,
    /// Ends the whole process tree at once (SIGKILL).
    Kill,
}

/// One thing a running command does that its caller can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// Bytes written to standard output.
    Stdout(Bytes),
    /// Bytes written to standard error.
    Stderr(Bytes),
    /// So many bytes of output, of both streams together, were written here and are no longer kept.
    Lost(u64),
    /// The command ended and its whole process tree is gone. Always the last event.
    Exited(Exit),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "cause")]
pub enum Exit {
    /// The program ended by itself.
    Exited {
        /// Its exit code, 0 to 255.
        code: i32,
    },
    /// A signal ended it.
    Signaled {
        /// The number of that signal.
        signal: i32,
    },
    /// The timeout passed.
    TimedOut,
    /// It used up the sandbox's memory.
    OutOfMemory,
}

impl Exit {
    /// Returns the exit code by the conventions of shells and `timeout(1)`: 128 + signal, 124, 137.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Exited { code } => code,
            Self::Signaled { signal } => 128 + signal,
            Self::TimedOut => 124,
            Self::OutOfMemory => 137,
        }
    }

    /// Tells whether the program ended by itself with exit code 0.
    #[must_use]
    pub const fn success(self) -> bool {
        matches!(self, Self::Exited { code: 0 })
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exit code {code}"),
            Self::Signaled { signal } => write!(f, "killed by signal {signal}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::OutOfMemory => f.write_str("out of memory"),
        }
    }
}

/// All that a finished command wrote, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Bytes written to standard output, up to the caller's cap.
    pub stdout: Vec<u8>,
    /// Bytes written to standard error, up to the caller's cap.
    pub stderr: Vec<u8>,
    /// How the command ended.
    pub exit: Exit,
    /// Whether bytes were left out because of the cap.
    pub truncated: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_a_shell_would_take_it() {
        let command = Command::new(["git", "commit", "-m", "it's done", ""]);
        assert_eq!(command.to_string(), r"git commit -m 'it'\''s done' ''");
    }

    #[test]
    fn debug_output_shows_no_environment_values() {
        let command = Command::new(["env"]).with_env("TOKEN", "hunter2");
        assert!(!format!("{command:?}").contains("hunter2"));
    }
}
