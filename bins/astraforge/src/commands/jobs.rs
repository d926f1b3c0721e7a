//! `jobs`: what whoever runs the server sees of the queue, and can do about dead jobs.

use std::{process::ExitCode, sync::Arc};

use astraforge_adapters::{clock::SystemClock, wakeup::InProcessWakeups};
use astraforge_core::{
    audit::NewEntry,
    error::ForgeError,
    id::JobId,
    job::{JobKind, JobState, QueuedJob, desk},
    journal::Journal,
    redact::Redactor,
};
use serde_json::{Value, json};

use crate::{
    audit,
    cli::{ConnectionArgs, JobsArgs, JobsCommand, ListJobsArgs},
    commands::print,
    connection::{open_database, parse_id},
    render::{Terminal, attention, bad, faint, good, harmless, report},
};

/// Does what was asked. Of several jobs, those that can be changed are; any that cannot makes it fail.
pub(crate) async fn jobs(args: &ConnectionArgs, command: &JobsCommand) -> anyhow::Result<ExitCode> {
    let database = open_database(args).await?;
    // A server that runs looks for work every second, so nobody has to be woken.
    let wakeups = Arc::new(InProcessWakeups::default());
    let journal = Journal::new(database.requests(), wakeups, Arc::new(SystemClock), Redactor::default())
        .with_audit(audit::of_command_line(args, &database)?);
    let done = match command {
        JobsCommand::Ls(which) => list(args, &journal, which).await,
        JobsCommand::Retry(which) => {
            let retry = async |id| noted(&journal, "job.retry", desk::retry(&journal, id).await?).await;
            each(args, which, "tried again", retry).await
        }
        JobsCommand::Drop(which) => {
            let drop = async |id| noted(&journal, "job.drop", desk::drop(&journal, id).await?).await;
            each(args, which, "dropped", drop).await
        }
    };
    database.close().await;
    done
}

async fn list(args: &ConnectionArgs, journal: &Journal, which: &ListJobsArgs) -> anyhow::Result<ExitCode> {
    let states = which.state.map_or(vec![JobState::Dead, JobState::Running, JobState::Waiting], |state| vec![state]);
    let mut listed = Vec::new();
    for state in states {
        listed.extend(journal.store().jobs(state, which.limit).await?);
    }
    let shown: Vec<Value> = listed.iter().map(shown).collect();
    print(args, &shown, |terminal, _| {
        if listed.is_empty() {
            terminal.line("No jobs: nothing waits, is at work or is dead.");
        }
        listed.iter().for_each(|queued| terminal.line(row(terminal, queued)));
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Does something with each job, and says what became of it.
async fn each(
    args: &ConnectionArgs,
    which: &JobsArgs,
    done: &str,
    act: impl AsyncFn(JobId) -> Result<QueuedJob, ForgeError>,
) -> anyhow::Result<ExitCode> {
    let ids: Vec<JobId> =
        which.ids.iter().map(|id| parse_id(id, "astraforge jobs ls")).collect::<anyhow::Result<_>>()?;
    let mut changed = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for id in ids {
        match act(id).await {
            Ok(queued) => changed.push(queued),
            Err(error) => {
                code = ExitCode::FAILURE;
                report(&anyhow::Error::new(error).context(format!("job {id} is left as it is")));
            }
        }
    }
    let ids: Vec<String> = changed.iter().map(|queued| queued.job.id.to_string()).collect();
    print(args, &ids, |terminal, _| {
        for queued in &changed {
            terminal.line(format!("{} is {done}: {}", queued.job.id, name(queued.job.kind)));
        }
    })?;
    Ok(code)
}

/// Has the audit say what was done with a job.
async fn noted(journal: &Journal, action: &str, queued: QueuedJob) -> Result<QueuedJob, ForgeError> {
    let (tenant, id) = (queued.job.tenant.clone(), queued.job.id.to_string());
    let entry = NewEntry::new(tenant, audit::whoever_types(), action, id, "done");
    journal.note(entry.with("request", queued.job.request.to_string()).with("kind", name(queued.job.kind))).await;
    Ok(queued)
}

/// A job as JSON.
fn shown(queued: &QueuedJob) -> Value {
    let QueuedJob { job, state, not_before, error } = queued;
    json!({
        "id": job.id,
        "tenant": job.tenant.as_str(),
        "request_id": job.request,
        "kind": name(job.kind),
        "state": state,
        "attempts": job.attempts,
        "failures": job.failures,
        "created_at": job.created_at,
        "not_before": not_before,
        "error": error,
    })
}

/// A job as a line of a table.
fn row(terminal: Terminal, queued: &QueuedJob) -> String {
    let QueuedJob { job, state, not_before, error } = queued;
    let style = match state {
        JobState::Waiting => attention(),
        JobState::Running => good(),
        JobState::Dead => bad(),
    };
    let state = terminal.paint(format!("{:<7}", state.as_str()), style);
    let made = terminal.paint(job.created_at.format("%Y-%m-%d %H:%M:%S"), faint());
    let again = not_before.map(|time| format!("  not before {}", time.format("%H:%M:%S"))).unwrap_or_default();
    let error = error.as_deref().map(|error| format!("  {}", harmless(error))).unwrap_or_default();
    let kind = name(job.kind);
    let tenant = harmless(job.tenant.as_str());
    format!(
        "{}  {state}  {made}  {kind:<7}  request {}  {tenant}  {} failures{again}{error}",
        job.id, job.request, job.failures
    )
}

fn name(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Execute { .. } => "run",
        JobKind::OpenMergeRequest { .. } => "publish",
        JobKind::Review { .. } => "review",
        _ => "other",
    }
}
