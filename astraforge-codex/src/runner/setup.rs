//! Commands that the repository brings along: its setup and its tests. Both are shell lines of its link.

use std::time::Duration;

use astraforge_core::{
    repository::RepositoryEnvironment,
    run::{FailureCause, RunFailure, TestReport},
    session::{Command, Exit},
};

use super::bench::{Bench, Output, failed_command};

/// Runs the setup command; tells whether there is one.
pub(super) async fn set_up(
    bench: &Bench,
    environment: &RepositoryEnvironment,
    timeout: Duration,
) -> Result<bool, RunFailure> {
    let Some(line) = &environment.setup else { return Ok(false) };
    bench.log.status("workspace", "Running the repository's setup command").await;
    let finished = bench.run(shell(line, environment, timeout), Output::Shown).await?;
    if finished.exit.success() {
        return Ok(true);
    }
    bench.log.emit(failed_command(line, finished.exit, &finished.tail)).await;
    let how = match finished.exit {
        Exit::TimedOut => format!("took longer than {} s", timeout.as_secs()),
        exit => format!("failed ({exit})"),
    };
    let message = format!(
        "The repository's setup command {how}; correct it in the repository link. The end of its output:\n{}",
        finished.tail
    );
    Err(RunFailure::new(FailureCause::Setup, message))
}

/// Runs the test command, if there is one. Tests that fail are a result, not a failure of the run.
pub(super) async fn test(
    bench: &Bench,
    environment: &RepositoryEnvironment,
    timeout: Duration,
) -> Result<Option<TestReport>, RunFailure> {
    let Some(line) = &environment.test else { return Ok(None) };
    bench.log.status("test", "Running the repository's tests").await;
    let finished = bench.run(shell(line, environment, timeout), Output::Shown).await?;
    let verdict =
        if finished.exit.success() { "Tests passed".to_owned() } else { format!("Tests failed ({})", finished.exit) };
    bench.log.status("test", verdict).await;
    Ok(Some(TestReport { command: line.clone(), exit_code: finished.exit.code(), output_tail: finished.tail }))
}

fn shell(line: &str, environment: &RepositoryEnvironment, timeout: Duration) -> Command {
    environment
        .env
        .iter()
        .fold(Command::shell(line).with_timeout(timeout), |command, (name, value)| command.with_env(name, value))
}
