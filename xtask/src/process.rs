//! Runs a command so that its output is seen live and can still be read afterwards.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// Runs `command` with our terminal and fails when it fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("could not start {}", line(command)))?;
    ensure_success(command, status)
}

/// Runs `command`, shows all that it prints, and returns its status with the text.
///
/// Both streams are piped, so tools draw no progress bars.
pub(crate) fn run_and_read(command: &mut Command) -> anyhow::Result<(ExitStatus, String)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {}", line(command)))?;
    let out = child.stdout.take().map(|pipe| thread::spawn(move || show(pipe, std::io::stdout())));
    let err = child.stderr.take().map(|pipe| thread::spawn(move || show(pipe, std::io::stderr())));
    let status = child.wait()?;
    let mut text = String::new();
    for reader in [out, err].into_iter().flatten() {
        text.push_str(&reader.join().unwrap_or_default());
    }
    Ok((status, text))
}

/// Runs `command` silently and returns what it wrote to its output.
pub(crate) fn read(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("could not start {}", line(command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({}):\n{}", line(command), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `command` with our terminal, and kills it when `limit` has passed.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).spawn().with_context(|| format!("could not start {}", line(command)))?;
    loop {
        if let Some(status) = child.try_wait()? {
            return ensure_success(command, status);
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("`{}` did not end within {} s", line(command), limit.as_secs());
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Fails, naming the command, unless it succeeded.
pub(crate) fn ensure_success(command: &Command, status: ExitStatus) -> anyhow::Result<()> {
    if !status.success() {
        bail!("`{}` failed ({status})", line(command));
    }
    Ok(())
}

/// What to end with after a command that ended so.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// The command as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Whether `program` can be found on the PATH.
pub(crate) fn is_installed(program: &str) -> bool {
    find(program).is_some()
}

/// Where `program` is on the PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn show(pipe: impl Read, mut terminal: impl Write) -> String {
    let mut text = String::new();
    let mut reader = BufReader::new(pipe);
    let mut bytes = Vec::new();
    while matches!(reader.read_until(b'\n', &mut bytes), Ok(n) if n > 0) {
        // A closed terminal must not stop the check; what it would have shown is in the text.
        let _ = terminal.write_all(&bytes).and_then(|()| terminal.flush());
        text.push_str(&String::from_utf8_lossy(&bytes));
        bytes.clear();
    }
    text
}

/// The libraries that a program or library of this machine is linked with, and its loader; of a static program or a
/// script there are none.
pub(crate) fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    // `ldd` calls those that have none a failure.
    let output = Command::new("ldd").arg(program).stdin(Stdio::null()).output().context("cannot start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(paths.filter(|path| path.is_file()).collect())
}
