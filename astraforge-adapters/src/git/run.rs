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
    /// How much memory one process of git may allocate, in bytes.
    pub(crate) max_memory: u64,
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

    /// The same git with less time.
    pub(crate) fn within(&self, timeout: Duration) -> Self {
        Self { timeout: self.timeout.min(timeout), ..self.clone() }
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
        let running = Running { child };
        running.limit_memory(self.max_memory)?;
        Ok(running)
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

impl Running {
    /// Its process id; `None` once it was waited for, so a reused number is never hit.
    fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
    }

    /// Limits what it and all that it starts from now on may allocate. A few bytes of a pack can stand for gigabytes,
    /// and git has read nothing yet: its input comes from us.
    #[cfg(target_os = "linux")]
    fn limit_memory(&self, bytes: u64) -> std::io::Result<()> {
        use rustix::process::{Resource, Rlimit, prlimit};
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        match self.pid().map(|pid| prlimit(Some(pid), Resource::Data, limit)) {
            Some(Err(error)) if error != rustix::io::Errno::SRCH => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Other systems have no way to limit a process from outside.
    #[cfg(not(target_os = "linux"))]
    fn limit_memory(&self, _: u64) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell in the place of git, to see what becomes of any program.
    async fn shell(line: &str, timeout: Duration, max_stdout: usize) -> Result<Output, RunError> {
        let git = Git { program: "/bin/sh".into(), timeout, max_memory: 64 << 20 };
        let call = Call { args: vec!["-c".into(), line.into()], env: vec![("PATH".into(), "/usr/bin:/bin".into())] };
        git.run(call, Bytes::from_static(b"input"), max_stdout).await
    }

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn output_complaints_and_the_exit_code_are_returned() {
        let output = shell("cat; echo 'bad\tthing' >&2; exit 3", LONG, 100).await.unwrap();
        assert_eq!(
            (output.success, output.stdout.as_slice(), output.stderr.as_str()),
            (false, &b"input"[..], "badthing")
        );
        let error = output.printed("try").unwrap_err();
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "git said: badthing");
    }

    #[tokio::test]
    async fn output_without_end_is_cut_off() {
        assert!(matches!(shell("yes", LONG, 1000).await, Err(RunError::TooMuch { max: 1000 })));
        let output = shell("head -c 1000 /dev/zero", LONG, 1000).await.unwrap();
        assert_eq!(output.stdout.len(), 1000);
        let output = shell("head -c 3000000 /dev/zero | tr '\\0' x >&2", LONG, 1000).await.unwrap();
        assert_eq!(output.stderr.len(), MAX_STDERR);
    }

    #[tokio::test]
    async fn a_timeout_ends_the_whole_process_group() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let line = format!("sleep 300 & echo $! $$ > '{}'; wait", pids.display());
        let result = shell(&line, Duration::from_millis(500), 1000).await;
        assert!(matches!(result, Err(RunError::TimedOut { .. })));
        let pids = std::fs::read_to_string(pids).unwrap();
        assert_eq!(pids.split_whitespace().count(), 2);
        let alive = |pid: &str| {
            // A killed child that nobody has waited for yet is a zombie, which runs nothing.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim_start().starts_with('Z'))
        };
        for _ in 0..100 {
            if !pids.split_whitespace().any(alive) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("some of {pids:?} still run");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn memory_is_limited_for_children_too() {
        // The input arrives after the limit is set.
        let output = shell("cat > /dev/null; ulimit -d; sh -c 'ulimit -d'", LONG, 1000).await.unwrap();
        assert_eq!(output.stdout, b"65536\n65536\n");
    }
}
