//! `sandbox ls` and `show`: how sandboxes stand, and what they use.

use astraforge_core::{
    id::SandboxId,
    sandbox::{SandboxStatus, Termination},
};
use astraforge_http::wire::sandbox::{FilesOn, SessionView, UsageView};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::Desk;
use crate::{
    commands::{Listed, THERE_ARE_MORE, print},
    render::{Terminal, attention, bad, faint, good, harmless},
};

impl Desk<'_> {
    pub(super) async fn list(&self, limit: u32) -> anyhow::Result<()> {
        let Listed { entries, has_more } = self.plane.list(limit).await?;
        self.list_all(&entries, shown, row)?;
        let terminal = Terminal::detect();
        match (has_more, self.args.json) {
            (true, true) => terminal.note(THERE_ARE_MORE),
            (true, false) => terminal.line(THERE_ARE_MORE),
            (false, false) if entries.is_empty() => {
                terminal.line("No sandboxes yet. Make one with: astraforge sandbox create");
            }
            _ => {}
        }
        Ok(())
    }

    /// Shows one sandbox. It is not woken for that.
    pub(super) async fn describe(&self, id: SandboxId) -> anyhow::Result<()> {
        let sandbox = self.plane.get(id).await?;
        let usage = self.plane.usage(id).await?;
        let mut value = shown(&sandbox);
        value["usage"] = json!(usage);
        print(self.args, &value, |terminal, _| {
            terminal.line(row(terminal, &sandbox));
            for (name, text) in facts(&sandbox, usage.as_ref()) {
                terminal.line(format!("  {} {}", terminal.paint(format!("{name:<10}"), faint()), harmless(&text)));
            }
        })
    }
}

/// What else there is to say about a sandbox.
fn facts(sandbox: &SessionView, usage: Option<&UsageView>) -> Vec<(&'static str, String)> {
    let size = &sandbox.ephemeral_storage;
    let workspace = match sandbox.files_on {
        FilesOn::Memory => format!("{size} in memory"),
        FilesOn::Disk if sandbox.enforced => format!("{size} on disk, enforced"),
        FilesOn::Disk => format!("{size} on disk"),
    };
    let cpu = if sandbox.cpu.is_empty() { String::new() } else { format!(", {} processors", sandbox.cpu) };
    let mut facts = vec![
        ("files", workspace),
        ("limits", format!("{} memory, {} processes{cpu}", sandbox.memory, sandbox.processes)),
        ("expires", sandbox.expires_at.format("%Y-%m-%d %H:%M:%S UTC").to_string()),
    ];
    if !sandbox.image.is_empty() {
        facts.push(("image", sandbox.image.clone()));
    }
    if let Some(snapshot) = sandbox.metadata.latest_snapshot_id {
        facts.push(("snapshot", snapshot.to_string()));
    }
    if let Some(usage) = usage {
        let size = |n_bytes: Option<u64>| n_bytes.map_or("unknown".to_owned(), in_mib);
        let cpu = usage.cpu_seconds.map_or("unknown".to_owned(), |seconds| format!("{seconds:.2} s"));
        let processes = usage.processes.map_or("unknown".to_owned(), |n| n.to_string());
        facts.push((
            "uses",
            format!(
                "{cpu} of processors, {} memory ({} at most so far), {} of files, {processes} processes",
                size(usage.memory_bytes),
                size(usage.memory_peak_bytes),
                size(usage.disk_bytes)
            ),
        ));
    }
    facts
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn in_mib(n_bytes: u64) -> String {
    format!("{:.1} MiB", n_bytes as f64 / (1024.0 * 1024.0))
}

/// A sandbox, as JSON.
pub(super) fn shown(sandbox: &SessionView) -> Value {
    let image = Some(&sandbox.image).filter(|image| !image.is_empty());
    json!({
        "id": sandbox.id, "mode": sandbox.mode, "status": sandbox.status.as_str(), "ref": sandbox.reference,
        "image": image, "created_at": at(sandbox.created_at), "expires_at": at(sandbox.expires_at),
        "last_activity_at": at(sandbox.last_activity_at), "last_heartbeat_at": at(sandbox.last_heartbeat_at),
        "error_message": sandbox.error_message,
        "terminated_reason": sandbox.metadata.terminated_reason.map(Termination::as_str),
        "latest_snapshot_id": sandbox.metadata.latest_snapshot_id,
        "idle_timeout_sec": sandbox.idle_timeout_sec, "max_lifetime_sec": sandbox.max_lifetime_sec,
    })
}

/// A time, as JSON: to the microsecond, which is as much as comes over the wire.
pub(super) fn at(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn row(terminal: Terminal, sandbox: &SessionView) -> String {
    let style = match sandbox.status {
        SandboxStatus::Ready => good(),
        SandboxStatus::Failed => bad(),
        SandboxStatus::Starting | SandboxStatus::Terminated => attention(),
    };
    let why = sandbox.metadata.terminated_reason.map_or("", Termination::as_str);
    let status = terminal.paint(format!("{:<10}", sandbox.status.as_str()), style);
    let made = terminal.paint(sandbox.created_at.format("%Y-%m-%d %H:%M"), faint());
    format!("{}  {status}  {made}  {:<6}  {why}  {}", sandbox.id, sandbox.mode, harmless(&sandbox.error_message))
        .trim_end()
        .to_owned()
}
