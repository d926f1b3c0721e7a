//! `sandbox ls` and `show`: how sandboxes stand, and what they use.

use astraforge_core::{
    id::SandboxId,
    page::{Page, Paged},
    ports::machines::Usage,
    sandbox::{Sandbox, SandboxStatus, Termination},
    session::{ByteSize, Strictness, Workspace},
};
use serde_json::{Value, json};

use super::Desk;
use crate::{
    commands::{THERE_ARE_MORE, print},
    render::{Terminal, attention, bad, faint, good, harmless},
};

impl Desk<'_> {
    pub(super) async fn list(&self, limit: u32) -> anyhow::Result<()> {
        let Paged { items, next } = self.plane.list_page(&self.caller, Page::first(limit)).await?;
        self.list_all(&items, shown, row)?;
        if self.args.json {
            return Ok(());
        }
        match next {
            Some(_) => Terminal::detect().line(THERE_ARE_MORE),
            None if items.is_empty() => {
                Terminal::detect().line("No sandboxes yet. Make one with: astraforge sandbox create");
            }
            None => {}
        }
        Ok(())
    }

    /// Shows one sandbox. It is not woken for that.
    pub(super) async fn describe(&self, id: SandboxId) -> anyhow::Result<()> {
        let sandbox = self.plane.get(&self.caller, id).await?;
        let usage = self.plane.usage(&self.caller, id).await?;
        let mut value = shown(&sandbox);
        value["usage"] = usage.as_ref().map_or(Value::Null, shown_usage);
        print(self.args, &value, |terminal, _| {
            terminal.line(row(terminal, &sandbox));
            for (name, text) in facts(&sandbox, usage.as_ref()) {
                terminal.line(format!("  {} {}", terminal.paint(format!("{name:<10}"), faint()), harmless(&text)));
            }
        })
    }
}

/// What else there is to say about a sandbox.
fn facts(sandbox: &Sandbox, usage: Option<&Usage>) -> Vec<(&'static str, String)> {
    let spec = &sandbox.spec;
    let workspace = match spec.workspace {
        Workspace::Tmpfs { size } => format!("{size} in memory"),
        Workspace::Disk { size } if size.strictness == Strictness::Required => {
            format!("{} on disk, enforced", size.max)
        }
        Workspace::Disk { size } => format!("{} on disk", size.max),
    };
    let cpu = spec.limits.cpu_millis.map(|cpu| format!(", {}m of a processor", cpu.max)).unwrap_or_default();
    let mut facts = vec![
        ("files", workspace),
        ("limits", format!("{} memory, {} processes{cpu}", spec.limits.memory.max, spec.limits.processes.max)),
        ("expires", sandbox.expires_at().format("%Y-%m-%d %H:%M:%S UTC").to_string()),
    ];
    if let Some(image) = &spec.image {
        facts.push(("image", image.to_string()));
    }
    if let Some(snapshot) = sandbox.latest_snapshot {
        facts.push(("snapshot", snapshot.to_string()));
    }
    if let Some(usage) = usage {
        let size = |size: Option<ByteSize>| size.map_or("unknown".to_owned(), in_mib);
        let cpu = usage.cpu.map_or("unknown".to_owned(), |cpu| format!("{:.2} s", cpu.as_secs_f64()));
        let processes = usage.processes.map_or("unknown".to_owned(), |n| n.to_string());
        facts.push((
            "uses",
            format!(
                "{cpu} of processors, {} memory ({} at most so far), {} of files, {processes} processes",
                size(usage.memory),
                size(usage.memory_peak),
                size(usage.disk)
            ),
        ));
    }
    facts
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn in_mib(size: ByteSize) -> String {
    format!("{:.1} MiB", size.as_bytes() as f64 / (1024.0 * 1024.0))
}

/// A sandbox, as JSON.
pub(super) fn shown(sandbox: &Sandbox) -> Value {
    json!({
        "id": sandbox.id, "mode": sandbox.mode, "status": sandbox.status.as_str(), "ref": sandbox.reference(),
        "image": sandbox.spec.image, "created_at": sandbox.created_at, "expires_at": sandbox.expires_at(),
        "last_activity_at": sandbox.last_activity_at, "last_heartbeat_at": sandbox.last_heartbeat_at,
        "error_message": sandbox.error_message,
        "terminated_reason": sandbox.termination.map(Termination::as_str),
        "latest_snapshot_id": sandbox.latest_snapshot,
        "idle_timeout_sec": sandbox.lifetime.idle().as_secs(), "max_lifetime_sec": sandbox.lifetime.max().as_secs(),
    })
}

/// What a sandbox uses, as JSON; what its driver cannot tell is null.
fn shown_usage(usage: &Usage) -> Value {
    json!({
        "cpu_seconds": usage.cpu.map(|cpu| cpu.as_secs_f64()),
        "memory_bytes": usage.memory, "memory_peak_bytes": usage.memory_peak,
        "disk_bytes": usage.disk, "processes": usage.processes,
    })
}

fn row(terminal: Terminal, sandbox: &Sandbox) -> String {
    let style = match sandbox.status {
        SandboxStatus::Ready => good(),
        SandboxStatus::Failed => bad(),
        SandboxStatus::Starting | SandboxStatus::Terminated => attention(),
    };
    let why = sandbox.termination.map_or("", Termination::as_str);
    let status = terminal.paint(format!("{:<10}", sandbox.status.as_str()), style);
    let made = terminal.paint(sandbox.created_at.format("%Y-%m-%d %H:%M"), faint());
    format!("{}  {status}  {made}  {:<6}  {why}  {}", sandbox.id, sandbox.mode, harmless(&sandbox.error_message))
        .trim_end()
        .to_owned()
}
