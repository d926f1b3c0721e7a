//! `sandbox snapshot`, `snapshots`, `restore` and `diff`: files that are kept.

use anyhow::Context;
use astraforge_core::{
    archive::{TreeChange, TreeChangeKind},
    control_plane::NewSnapshot,
    id::SandboxId,
    sandbox::Snapshot,
};
use serde_json::{Value, json};

use super::{Desk, sandbox_id, snapshot_id};
use crate::{
    cli::{RestoreArgs, SnapshotArgs},
    commands::print,
    render::{Terminal, attention, bad, faint, good, harmless},
};

impl Desk<'_> {
    pub(super) async fn snapshot(&self, args: &SnapshotArgs) -> anyhow::Result<()> {
        let mut new = NewSnapshot {
            label: args.label.clone().unwrap_or_default(),
            exclude: args.exclude.clone(),
            ..NewSnapshot::default()
        };
        if !args.include.is_empty() {
            new.include.clone_from(&args.include);
        }
        let snapshot = self.plane.snapshot(&self.caller, sandbox_id(&args.id)?, new).await?;
        print(self.args, &shown(&snapshot), |terminal, _| terminal.line(row(terminal, &snapshot)))
    }

    pub(super) async fn snapshots(&self, id: SandboxId) -> anyhow::Result<()> {
        self.list_all(&self.plane.snapshots(&self.caller, id).await?, shown, row)
    }

    pub(super) async fn restore(&self, args: &RestoreArgs) -> anyhow::Result<()> {
        let (id, snapshot) = (sandbox_id(&args.id)?, snapshot_id(&args.snapshot)?);
        self.plane.restore(&self.caller, id, snapshot).await?;
        self.say(&json!({ "restored": snapshot }), "The files are those of the snapshot.")
    }

    pub(super) async fn diff(&self, id: SandboxId, snapshot: Option<&str>) -> anyhow::Result<()> {
        let snapshot = match snapshot {
            Some(snapshot) => snapshot_id(snapshot)?,
            None => {
                let latest = self.plane.get(&self.caller, id).await?.latest_snapshot;
                latest.context("this sandbox has no snapshot yet; make one with: astraforge sandbox snapshot")?
            }
        };
        let comparison = self.plane.diff(&self.caller, id, snapshot, 10_000).await?;
        print(self.args, &comparison, |terminal, comparison| {
            comparison.changes.iter().for_each(|change| terminal.line(changed(terminal, change)));
            if comparison.truncated {
                terminal.note("and more");
            }
        })
    }
}

fn shown(snapshot: &Snapshot) -> Value {
    json!({
        "id": snapshot.id, "sandbox": snapshot.sandbox, "label": snapshot.label, "size_bytes": snapshot.size,
        "sha256": snapshot.sha256, "include_paths": snapshot.include, "exclude_paths": snapshot.exclude,
        "created_at": snapshot.created_at,
    })
}

fn row(terminal: Terminal, snapshot: &Snapshot) -> String {
    let made = terminal.paint(snapshot.created_at.format("%Y-%m-%d %H:%M"), faint());
    format!("{}  {made}  {:>12}  {}", snapshot.id, format!("{} B", snapshot.size), harmless(&snapshot.label))
        .trim_end()
        .to_owned()
}

fn changed(terminal: Terminal, change: &TreeChange) -> String {
    let (mark, style) = match change.change {
        TreeChangeKind::Added => ("A", good()),
        TreeChangeKind::Modified => ("M", attention()),
        TreeChangeKind::Removed => ("D", bad()),
    };
    format!("{}  {}", terminal.paint(mark, style), harmless(&change.path))
}
