//! `sandbox`: isolated machines that keep their files, from the command line.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use astraforge_core::{
    files::Roots,
    id::{SandboxId, SnapshotId},
    ports::{machines::Machine, sessions::Execution},
    session::{ExecEvent, Exit},
};
use futures::StreamExt;
use serde::Serialize;
use serde_json::json;

use crate::{
    cli::{ConnectionArgs, SandboxCommand},
    commands::print,
    connection::parse_id,
    render::Terminal,
};

mod artifacts;
pub(crate) mod attack;
mod copy;
mod create;
mod egress;
mod exec;
mod files;
mod folder;
mod listing;
mod plane;
mod processes;
mod screenshot;
mod shell;
mod snapshots;
mod watch;

use self::plane::Plane;

/// How often a command that runs says that somebody is there.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// Carries out one of the subcommands; the exit code of `exec` and `shell` is their command's.
pub(crate) async fn sandbox(args: &ConnectionArgs, command: &SandboxCommand) -> anyhow::Result<ExitCode> {
    if let SandboxCommand::Attack(options) = command {
        if args.server.is_some() {
            bail!(
                "attacks are tried on the drivers of this machine, not on those of a server: run it there, without --server"
            );
        }
        return attack::attack(args, options).await;
    }
    Desk { plane: plane::open(args).await?, args }.carry_out(command).await
}

/// What every subcommand works with.
struct Desk<'a> {
    plane: Arc<dyn Plane>,
    args: &'a ConnectionArgs,
}

impl Desk<'_> {
    async fn carry_out(&self, command: &SandboxCommand) -> anyhow::Result<ExitCode> {
        match command {
            SandboxCommand::Exec(args) => return self.exec(args).await,
            SandboxCommand::Shell(args) => return self.shell(args).await,
            SandboxCommand::Create(args) => self.create(args).await?,
            SandboxCommand::Ls { limit } => self.list(*limit).await?,
            SandboxCommand::Show(which) => self.describe(sandbox_id(&which.id)?).await?,
            SandboxCommand::Ps(which) => self.processes(sandbox_id(&which.id)?).await?,
            SandboxCommand::Logs(args) => self.logs(args).await?,
            SandboxCommand::Kill(args) => self.kill(args).await?,
            SandboxCommand::Cp(args) => self.copy(args).await?,
            SandboxCommand::Egress(args) => self.egress(args).await?,
            SandboxCommand::Files(command) => self.files(command).await?,
            SandboxCommand::Snapshot(args) => self.snapshot(args).await?,
            SandboxCommand::Snapshots(which) => self.snapshots(sandbox_id(&which.id)?).await?,
            SandboxCommand::Restore(args) => self.restore(args).await?,
            SandboxCommand::Fork(which) => {
                let fork = self.plane.fork(sandbox_id(&which.id)?).await?;
                self.show_new(&fork)?;
            }
            SandboxCommand::Diff(args) => self.diff(sandbox_id(&args.id)?, args.snapshot.as_deref()).await?,
            SandboxCommand::Export(args) => self.export(args).await?,
            SandboxCommand::Artifacts(which) => self.artifacts(sandbox_id(&which.id)?).await?,
            SandboxCommand::Link(args) => self.link(args).await?,
            SandboxCommand::Watch(args) => self.watch(args).await?,
            SandboxCommand::Screenshot(args) => self.screenshot(args).await?,
            SandboxCommand::Heartbeat(which) => {
                let sandbox = self.plane.heartbeat(sandbox_id(&which.id)?).await?;
                let text = format!("Noted. It runs until {} at the latest.", sandbox.expires_at.format("%F %R UTC"));
                self.say(&listing::shown(&sandbox), &text)?;
            }
            SandboxCommand::Stop(which) => {
                let id = sandbox_id(&which.id)?;
                self.plane.stop(id).await?;
                self.say(&json!({ "stopped": id }), "Stopped. It comes back with its files when it is used.")?;
            }
            SandboxCommand::Rm(which) => {
                let id = sandbox_id(&which.id)?;
                self.plane.delete(id).await?;
                self.say(&json!({ "deleted": id }), "Deleted.")?;
            }
            // It has sandboxes of its own, and was carried out before this desk was opened.
            SandboxCommand::Attack(_) => {}
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Prints a value, or a text that stands for it.
    fn say<T: Serialize>(&self, value: &T, text: &str) -> anyhow::Result<()> {
        print(self.args, value, |terminal, _| terminal.line(text))
    }

    /// Prints values, or one line for each.
    fn list_all<T>(
        &self,
        all: &[T],
        value: impl Fn(&T) -> serde_json::Value,
        line: impl Fn(Terminal, &T) -> String,
    ) -> anyhow::Result<()> {
        let values: Vec<_> = all.iter().map(value).collect();
        print(self.args, &values, |terminal, _| all.iter().for_each(|it| terminal.line(line(terminal, it))))
    }

    /// The machine of a sandbox; one that was stopped comes back first.
    async fn machine(&self, id: SandboxId) -> anyhow::Result<Arc<dyn Machine>> {
        self.plane.machine(id).await
    }

    /// Where file verbs may work in it.
    async fn roots(&self, id: SandboxId) -> anyhow::Result<Roots> {
        Ok(Roots(self.plane.get(id).await?.roots))
    }

    /// Hands on what a command does until it ends, and tells the sandbox all along that somebody is there.
    async fn attend(
        &self,
        id: SandboxId,
        execution: &mut Execution,
        mut see: impl FnMut(ExecEvent) -> anyhow::Result<Next>,
    ) -> anyhow::Result<Option<Exit>> {
        let mut gone = std::pin::pin!(self.stay(id));
        loop {
            tokio::select! {
                event = execution.events.next() => match event.context("the sandbox is gone")?? {
                    ExecEvent::Exited(exit) => return Ok(Some(exit)),
                    event => if see(event)? == Next::Enough { return Ok(None) },
                },
                error = &mut gone => return Err(error),
            }
        }
    }

    /// Tells a sandbox again and again that somebody is there. Ends only when there is no such sandbox any more.
    async fn stay(&self, id: SandboxId) -> anyhow::Error {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            heartbeat.tick().await;
            match self.plane.heartbeat(id).await {
                Err(error) if plane::is_gone(&error) => return error,
                // What is waited for goes on, or says itself why it cannot.
                Err(error) => tracing::debug!("cannot say that somebody is there: {error:#}"),
                Ok(_) => {}
            }
        }
    }
}

/// Whether the output of a command is read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    More,
    Enough,
}

fn sandbox_id(text: &str) -> anyhow::Result<SandboxId> {
    parse_id(text, "astraforge sandbox ls")
}

fn snapshot_id(text: &str) -> anyhow::Result<SnapshotId> {
    parse_id(text, "astraforge sandbox snapshots SANDBOX")
}
