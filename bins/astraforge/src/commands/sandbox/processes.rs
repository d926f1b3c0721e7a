//! `sandbox ps`, `logs` and `kill`: commands that go on when nobody watches them.

use anyhow::Context;
use astraforge_core::{
    id::SandboxId,
    process::{Process, ProcessName},
    session::{ExecEvent, Exit, Signal},
};
use serde_json::{Value, json};

use super::{Desk, Next, exec::hand_on, listing::at, sandbox_id};
use crate::{
    cli::{KillArgs, KillSignal, ProcessLogsArgs},
    render::{Terminal, attention, faint, good, harmless},
};

impl Desk<'_> {
    pub(super) async fn processes(&self, id: SandboxId) -> anyhow::Result<()> {
        let processes = self.machine(id).await?.processes().await?;
        if processes.is_empty() && !self.args.json {
            Terminal::detect().note("Nothing was started with: astraforge sandbox exec --detach");
        }
        self.list_all(&processes, shown_process, row)
    }

    pub(super) async fn logs(&self, args: &ProcessLogsArgs) -> anyhow::Result<()> {
        let id = sandbox_id(&args.id)?;
        let machine = self.machine(id).await?;
        let named = |it: &Process| match &args.process {
            ProcessName::Id(number) => it.id == *number,
            ProcessName::Tag(tag) => it.tag.as_ref() == Some(tag),
        };
        let processes = machine.processes().await?;
        let process = processes.iter().rev().find(|it| named(it)).with_context(|| {
            format!("no command `{}` in this sandbox; `astraforge sandbox ps {id}` lists them", args.process)
        })?;
        let end = if args.follow || process.exit.is_some() { u64::MAX } else { process.next_sequence };
        let mut seen = args.from;
        if seen >= end {
            return Ok(());
        }
        let mut execution = machine.attach(ProcessName::Id(process.id), args.from).await?;
        let see = |event: ExecEvent| {
            seen += match &event {
                ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => bytes.len() as u64,
                ExecEvent::Lost(n_bytes) => *n_bytes,
                ExecEvent::Exited(_) => 0,
            };
            hand_on(event)?;
            Ok(if seen >= end { Next::Enough } else { Next::More })
        };
        self.attend(id, &mut execution, see).await.map(drop)
    }

    pub(super) async fn kill(&self, args: &KillArgs) -> anyhow::Result<()> {
        let id = sandbox_id(&args.id)?;
        let signal = match args.signal {
            KillSignal::Int => Signal::Interrupt,
            KillSignal::Term => Signal::Terminate,
            KillSignal::Kill => Signal::Kill,
        };
        self.machine(id).await?.signal(args.process.clone(), signal).await?;
        self.say(&json!({ "signaled": args.process.to_string() }), "Told.")
    }
}

/// A process, as JSON.
pub(super) fn shown_process(process: &Process) -> Value {
    json!({
        "id": process.id.0, "tag": process.tag, "command": process.command, "started_at": at(process.started_at),
        "exit_code": process.exit.map(Exit::code), "pty": process.pty,
        "first_sequence": process.first_sequence, "next_sequence": process.next_sequence,
    })
}

fn row(terminal: Terminal, process: &Process) -> String {
    let (state, style) = match process.exit {
        None => ("running".to_owned(), good()),
        Some(exit) => (format!("ended {}", exit.code()), attention()),
    };
    let tag = process.tag.as_ref().map_or("", |tag| tag.as_str());
    let state = terminal.paint(format!("{state:<10}"), style);
    let started = terminal.paint(process.started_at.format("%Y-%m-%d %H:%M"), faint());
    format!(
        "{:>4}  {state}  {started}  {:>10} B  {tag:<12}  {}",
        process.id,
        process.next_sequence,
        harmless(&process.command)
    )
    .trim_end()
    .to_owned()
}
