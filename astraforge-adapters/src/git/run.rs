//! Runs the git program: output bounded, time bounded, and no process left behind.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use astraforge_core::ports::git::GitError;
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
};

use super::argv::Call;

/// What is kept of a program's complaints.
const MAX_STDERR: usize = 16 * 1024;

/// The git program of this machine.
#[derive(Debug, Clone)]
pub(crate) struct Git {
    pub(crate) program: PathBuf,
    /// How long one call may take.
    pub(crate) timeout: Duration,
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) success: bool,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Output {
    /// Returns what git printed, or what it complained of as the failure of `operation`.
    pub(crate) fn printed(self, operation: &'static str) -> Result<Vec<u8>, GitError> {
        if self.success { Ok(self.stdout) } else { Err(backend(operation, RunError::Failed { said: self.stderr })) }
    }

    /// Returns what git printed as one trimmed text.
    pub(crate) fn line(self, operation: &'static str) -> Result<String, GitError> {
        Ok(String::from_utf8_lossy(&self.printed(operation)?).trim().to_owned())
    }
}

/// Why a call yielded nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(
        "git was not found as `{}`; install it (`apt-get install git`, `dnf install git`, `brew install git`) or \
         configure its path", program.display()
    )]
    Missing { program: PathBuf },
    #[error("git could not be run: {0}")]
    Io(#[from] std::io::Error),
    #[error("git did not end within {} seconds", after.as_secs())]
    TimedOut { after: Duration },
    #[error("git printed more than {max} bytes")]
    TooMuch { max: usize },
    #[error("git said: {said}")]
    Failed { said: String },
}

/// Wraps a failure of git itself.
pub(crate) fn backend(
    operation: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> GitError {
    GitError::Backend { operation, source: source.into() }
}

impl Git {
    /// Runs a call to its end.
    ///
    /// # Cancel safety
    /// Dropping the future kills git and everything that it started.
    pub(crate) async fn run(&self, call: Call, stdin: Bytes, max_stdout: usize) -> Result<Output, RunError> {
        match tokio::time::timeout(self.timeout, self.run_unbounded(call, stdin, max_stdout)).await {
            Ok(result) => result,
            Err(_) => Err(RunError::TimedOut { after: self.timeout }),
        }
    }

    /// Runs a call that needs no input and prints little.
    pub(crate) async fn ask(&self, call: Call, operation: &'static str) -> Result<Output, GitError> {
        self.run(call, Bytes::new(), 16 << 20).await.map_err(|error| backend(operation, error))
    }

    async fn run_unbounded(&self, call: Call, input: Bytes, max_stdout: usize) -> Result<Output, RunError> {
        let mut running = self.start(call)?;
        let stdin = running.child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A git that ends early closes its input; what it then says matters, not this.
                let _ = stdin.write_all(&input).await;
            }
        };
        let (stdout, stderr) = (running.child.stdout.take(), running.child.stderr.take());
        let (_, stdout, stderr) = tokio::join!(feed, at_most(stdout, max_stdout), drained(stderr));
        let stdout = stdout?.ok_or(RunError::TooMuch { max: max_stdout })?;
        let status = running.wait().await?;
        Ok(Output { success: status.success(), stdout, stderr: stderr? })
    }

    /// Starts a call with all three streams piped, in a process group of its own.
    pub(crate) fn start(&self, call: Call) -> Result<Running, RunError> {
        let child = Command::new(&self.program)
            .args(&call.args)
            .env_clear()
            .envs(call.env)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => RunError::Missing { program: self.program.clone() },
                _ => RunError::Io(error),
            })?;
        Ok(Running { child })
    }

    /// The program's path.
    pub(crate) fn path(&self) -> &Path {
        &self.program
    }
}

/// A running git. Dropping it kills the whole process group.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
}

impl Running {
    /// Waits for git itself to end.
    pub(crate) async fn wait(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.child.wait().await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `id` is `None` once the child was waited for, so a reused number is never hit.
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself a moment ago.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Reads to the end; `None` as soon as there is more than `max`.
async fn at_most(source: Option<impl AsyncRead + Unpin>, max: usize) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    if let Some(source) = source {
        source.take(max as u64 + 1).read_to_end(&mut bytes).await?;
    }
    Ok((bytes.len() <= max).then_some(bytes))
}

/// Reads to the end, keeps the beginning, and makes one clean text of it.
pub(crate) async fn drained(source: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let Some(mut source) = source else { return Ok(String::new()) };
    let mut kept = Vec::new();
    (&mut source).take(MAX_STDERR as u64).read_to_end(&mut kept).await?;
    tokio::io::copy(&mut source, &mut tokio::io::sink()).await?;
    let printable = |c: &char| *c == '\n' || !c.is_control();
    Ok(String::from_utf8_lossy(&kept).chars().filter(printable).collect::<String>().trim().to_owned())
}
