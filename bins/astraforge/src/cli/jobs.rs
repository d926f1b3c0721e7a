//! The words of `astraforge jobs`.

use astraforge_core::job::JobState;
use clap::{Args, Subcommand};

/// What to do with the queue.
#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// List jobs that are not over, of all tenants, the oldest first
    Ls(ListJobsArgs),
    /// Have dead jobs tried again, and waiting ones at once
    Retry(JobsArgs),
    /// End dead jobs without their work; the log of their requests says so
    Drop(JobsArgs),
}

/// Arguments of `jobs ls`.
#[derive(Debug, Args)]
pub(crate) struct ListJobsArgs {
    /// Only those: waiting, running or dead
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Option<JobState>,
    /// At most so many of each state
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: u32,
}

/// Some jobs.
#[derive(Debug, Args)]
pub(crate) struct JobsArgs {
    /// The jobs
    #[arg(required = true, value_name = "JOB")]
    pub(crate) ids: Vec<String>,
}
