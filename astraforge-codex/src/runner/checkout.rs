//! The first step in a workspace: the repository at the commit that the work begins at.

use std::time::Duration;

use astraforge_core::{
    ports::executor::Assignment,
    run::{FailureCause, RunFailure},
    session::Command,
};

use super::{Author, WORKSPACE, bench::Bench};

/// Where a workspace finds the quarantine of its request.
pub(super) const REPOSITORY_URL: &str = "git://127.0.0.2:9418/repository";
/// The port of that address.
pub(super) const REPOSITORY_PORT: u16 = 9418;

/// How long one git command may take.
const GIT_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Settings of every git command.
const SETTINGS: [(&str, &str); 2] = [("core.hooksPath", "/dev/null"), ("core.fsmonitor", "false")];

/// A git command that heeds no configuration but its own: none of the system, none of an agent, and no hook.
pub(super) fn git<S: Into<String>>(args: impl IntoIterator<Item = S>) -> Command {
    git_with(&[], args)
}

/// The same with more settings. They go by the environment, so that the log shows what is done and not how.
pub(super) fn git_with<S: Into<String>>(settings: &[(&str, &str)], args: impl IntoIterator<Item = S>) -> Command {
    let plain = [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("GIT_NO_REPLACE_OBJECTS", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_ALLOW_PROTOCOL", "git"),
        ("GIT_PAGER", "cat"),
        ("LC_ALL", "C"),
    ];
    let argv = ["git".to_owned()].into_iter().chain(args.into_iter().map(Into::into));
    let command = Command::new(argv).with_timeout(GIT_TIMEOUT);
    let command = plain.into_iter().fold(command, |command, (name, value)| command.with_env(name, value));
    let n_settings = SETTINGS.len() + settings.len();
    SETTINGS
        .iter()
        .chain(settings)
        .enumerate()
        .fold(command, |command, (i, (key, value))| {
            command.with_env(format!("GIT_CONFIG_KEY_{i}"), *key).with_env(format!("GIT_CONFIG_VALUE_{i}"), *value)
        })
        .with_env("GIT_CONFIG_COUNT", n_settings.to_string())
}

/// Clones the quarantine and checks the work branch out at the assignment's commit.
pub(super) async fn check_out(bench: &Bench, assignment: &Assignment, author: &Author) -> Result<(), RunFailure> {
    let (name, email) = (format!("user.name={}", author.name), format!("user.email={}", author.email));
    // The author is for commits that the agent makes by itself; an empty template brings no hooks.
    let clone = git([
        "clone",
        "--no-checkout",
        "--no-recurse-submodules",
        "--template=",
        "-c",
        &name,
        "-c",
        &email,
        REPOSITORY_URL,
        WORKSPACE,
    ]);
    bench
        .must(clone.with_cwd("/"), FailureCause::Repository, "The repository could not be cloned into the workspace")
        .await?;
    bench.log.status("clone", format!("Repository clone initiated from {REPOSITORY_URL}")).await;

    let branch = &assignment.work_branch;
    let checkout = git([
        "checkout",
        "--quiet",
        "--no-recurse-submodules",
        "--no-track",
        "-B",
        branch,
        &assignment.start_commit,
        "--",
    ]);
    let what = format!("Branch `{branch}` could not be checked out at commit {}", assignment.start_commit);
    bench.must(checkout, FailureCause::Repository, &what).await?;
    bench.log.status("workspace", format!("Checked out feature branch {branch}")).await;
    Ok(())
}
