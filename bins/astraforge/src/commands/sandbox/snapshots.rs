//! `sandbox snapshot`, `snapshots`, `restore` and `diff`: files that are kept.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use astraforge_core::{
    archive::{TreeChange, TreeChangeKind},
    control_plane::NewSnapshot,
    id::SandboxId,
    ports::{artifacts::Place, sessions::SessionError},
    sandbox::Snapshot,
};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use super::{Desk, copy::bar, sandbox_id, snapshot_id};
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
        print(self.args, &self.shown_snapshot(&snapshot), |terminal, _| terminal.line(row(terminal, &snapshot)))
    }

    pub(super) async fn snapshots(&self, id: SandboxId) -> anyhow::Result<()> {
        let snapshots = self.plane.snapshots(&self.caller, id).await?;
        let values: Vec<_> = snapshots.iter().map(|it| self.shown_snapshot(it)).collect();
        print(self.args, &values, |terminal, _| snapshots.iter().for_each(|it| terminal.line(row(terminal, it))))
    }

    pub(super) async fn restore(&self, args: &RestoreArgs) -> anyhow::Result<()> {
        let id = sandbox_id(&args.id)?;
        if let Some(from) = &args.from {
            return self.restore_from(id, from).await;
        }
        let Some(snapshot) = &args.snapshot else {
            bail!("name a snapshot, as `astraforge sandbox snapshots {id}` lists them, or pass --from FILE");
        };
        let snapshot = snapshot_id(snapshot)?;
        self.plane.restore(&self.caller, id, snapshot).await?;
        self.say(&json!({ "restored": snapshot }), "The files are those of the snapshot.")
    }

    /// A snapshot, as JSON. What it says of where its bytes lie is true.
    fn shown_snapshot(&self, snapshot: &Snapshot) -> Value {
        let (path, key) = match self.plane.place_of(snapshot) {
            Place::File(path) => (path, String::new()),
            Place::Key(key) => (PathBuf::new(), key),
        };
        json!({
            "id": snapshot.id, "sandbox": snapshot.sandbox, "label": snapshot.label, "s3_key": key,
            "archive_path": path, "size_bytes": snapshot.size, "sha256": snapshot.sha256,
            "include_paths": snapshot.include, "exclude_paths": snapshot.exclude, "created_at": snapshot.created_at,
        })
    }

    async fn restore_from(&self, id: SandboxId, from: &Path) -> anyhow::Result<()> {
        let file = tokio::fs::File::open(from).await.with_context(|| format!("cannot read {}", from.display()))?;
        let bar = bar(file.metadata().await.ok().map(|meta| meta.len()));
        let seen = bar.clone();
        let archive = ReaderStream::with_capacity(file, 256 * 1024)
            .inspect_ok(move |bytes| seen.inc(bytes.len() as u64))
            .map_err(|error| SessionError::Backend { operation: "read the archive", source: error.into() });
        let restored = self.plane.restore_archive(&self.caller, id, archive.boxed()).await;
        bar.finish_and_clear();
        restored?;
        self.say(&json!({ "restored": from.display().to_string() }), "The files are those of the archive.")
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
