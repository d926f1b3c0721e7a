//! The command line: what can be typed, and what each word means.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{config::ServerArgs, programs::ListenArgs};

mod audit;
mod jobs;
mod sandbox;
mod users;

pub(crate) use self::{audit::*, jobs::*, sandbox::*, users::*};

/// From a plain-language request to a reviewed merge request, by a coding agent in a sandbox.
#[derive(Debug, Parser)]
#[command(name = "astraforge", version, propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to reach a server. Without one, a command starts its own in this process, on the data folder.
#[derive(Debug, Args)]
pub(crate) struct ConnectionArgs {
    /// Address of the server, such as http://127.0.0.1:8001
    #[arg(long, global = true, env = "ASTRAFORGE_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// API key for it
    #[arg(long, global = true, env = "ASTRAFORGE_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Print one JSON value instead of text; `logs` prints one a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) node: ServerArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server and its workers until Ctrl-C
    Up(UpArgs),
    /// Let the agent work on a repository, and decide on its change
    Run(RunArgs),
    /// Bring an approved change into your clone
    Apply(ApplyArgs),
    /// List requests, or show one
    Requests(ListOrOne),
    /// Show what happens on a request
    Logs(LogsArgs),
    /// Show the change that waits for approval
    Diff(RequestArg),
    /// Approve that change
    Approve(ApproveArgs),
    /// Stop the runs of a request
    Cancel(RequestArg),
    /// List merge requests, or show one with its review
    Mr(ListOrOne),
    /// Make isolated machines that keep their files, and work in them
    #[command(subcommand)]
    Sandbox(SandboxCommand),
    /// Look after the queue: see what waits, is at work or is dead, and have dead jobs tried again
    ///
    /// Works on the database itself, whether or not the server runs.
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Look after people who log in with a name and a password
    ///
    /// Works on the database itself, whether or not the server runs.
    #[command(subcommand)]
    Users(UsersCommand),
    /// Read what was done, by whom and with which outcome, and tell whether that was changed
    ///
    /// Works on the database itself, whether or not the server runs.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Bring the database to the version of this program; a server does so too when it starts
    Migrate,
    /// Say what is set, to what and by whom; secrets are blanked
    ///
    /// Fails if a variable is unknown, or settings contradict each other.
    Config,
    /// Say what this machine can do, and what would change what it can't
    Doctor,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Arguments of `up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// What to do, in plain language; `-` reads it from standard input
    #[arg(allow_hyphen_values = true)]
    pub(crate) prompt: String,
    /// Your clone, of which only commits are seen, or the name of a repository that the server has
    #[arg(long, default_value = ".", value_name = "PATH")]
    pub(crate) repo: String,
    /// Branch that the change is for [default: the one that is checked out in the clone]
    #[arg(long, value_name = "NAME")]
    pub(crate) branch: Option<String>,
    /// Command to run before the agent starts, such as `npm ci`; remembered for the repository until it is ""
    #[arg(long, value_name = "LINE")]
    pub(crate) setup: Option<String>,
    /// Command that tests the change, such as `node --test`; remembered for the repository until it is ""
    #[arg(long, value_name = "LINE")]
    pub(crate) test: Option<String>,
    /// Hosts that the run may reach, such as package registries: HOST, *.HOST or HOST:PORT; remembered for the repository
    /// until it is ""
    #[arg(long, value_name = "HOSTS", value_delimiter = ',')]
    pub(crate) allow: Option<Vec<String>>,
    /// Approve without asking
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The request
    pub(crate) request: String,
    /// Your clone
    #[arg(long, default_value = ".", value_name = "PATH")]
    pub(crate) repo: PathBuf,
}

/// One thing, or a list of the last ones.
#[derive(Debug, Args)]
pub(crate) struct ListOrOne {
    /// The id; the last ones if left out
    pub(crate) id: Option<String>,
    /// List at most so many, the newest first
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(conflicts_with = "id")]
    pub(crate) limit: u32,
}

/// A request.
#[derive(Debug, Args)]
pub(crate) struct RequestArg {
    /// The request
    pub(crate) request: String,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The request
    pub(crate) request: String,
    /// Stay and show what comes, later runs included
    #[arg(long, short)]
    pub(crate) follow: bool,
}

/// Arguments of `approve`.
#[derive(Debug, Args)]
pub(crate) struct ApproveArgs {
    /// The request
    pub(crate) request: String,
    /// Digest of the change you saw, as `diff` prints it
    #[arg(long)]
    pub(crate) digest: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_prompt_may_begin_with_a_dash() {
        let cli = Cli::try_parse_from(["astraforge", "run", "--repo", "x", "-v is ignored"]).unwrap();
        let Command::Run(args) = cli.command else { panic!("not run") };
        assert_eq!((args.prompt.as_str(), args.repo.as_str()), ("-v is ignored", "x"));
    }
}
