//! `sandbox snapshot`, `snapshots`, `restore` and `diff`: files that are kept.

use std::path::Path;

use anyhow::{Context, bail};
use astraforge_core::{
    archive::{TreeChange, TreeChangeKind},
    control_plane::NewSnapshot,
    id::SandboxId,
    ports::sessions::SessionError,
};
use astraforge_http::wire::sandbox::SnapshotView;
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use super::{Desk, copy::bar, listing::at, sandbox_id, snapshot_id};
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
        let id = sandbox_id(&args.id)?;
        let snapshot = self.plane.snapshot(id, new).await?;
        print(self.args, &shown(id, &snapshot), |terminal, _| terminal.line(row(terminal, &snapshot)))
    }

    pub(super) async fn snapshots(&self, id: SandboxId) -> anyhow::Result<()> {
        self.list_all(&self.plane.snapshots(id).await?, |snapshot| shown(id, snapshot), row)
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
        self.plane.restore(id, snapshot).await?;
        self.say(&json!({ "restored": snapshot }), "The files are those of the snapshot.")
    }

    async fn restore_from(&self, id: SandboxId, from: &Path) -> anyhow::Result<()> {
        let file = tokio::fs::File::open(from).await.with_context(|| format!("cannot read {}", from.display()))?;
        let bar = bar(file.metadata().await.ok().map(|meta| meta.len()));
        let seen = bar.clone();
        let archive = ReaderStream::with_capacity(file, 256 * 1024)
            .inspect_ok(move |bytes| seen.inc(bytes.len() as u64))
            .map_err(|error| SessionError::Backend { operation: "read the archive", source: error.into() });
        let restored = self.plane.restore_archive(id, archive.boxed()).await;
        bar.finish_and_clear();
        restored?;
        self.say(&json!({ "restored": from.display().to_string() }), "The files are those of the archive.")
    }

    pub(super) async fn diff(&self, id: SandboxId, snapshot: Option<&str>) -> anyhow::Result<()> {
        let snapshot = match snapshot {
            Some(snapshot) => snapshot_id(snapshot)?,
            None => {
                let latest = self.plane.get(id).await?.metadata.latest_snapshot_id;
                latest.context("this sandbox has no snapshot yet; make one with: astraforge sandbox snapshot")?
            }
        };
        let comparison = self.plane.diff(id, snapshot).await?;
        print(self.args, &comparison, |terminal, comparison| {
            comparison.changes.iter().for_each(|change| terminal.line(changed(terminal, change)));
            if comparison.truncated {
                terminal.note("and more");
            }
        })
    }
}

/// A snapshot, as JSON. What it says of where its bytes lie is true where they lie.
fn shown(sandbox: SandboxId, snapshot: &SnapshotView) -> Value {
    json!({
        "id": snapshot.id, "sandbox": sandbox, "label": snapshot.label, "s3_key": snapshot.s3_key,
        "archive_path": snapshot.archive_path, "size_bytes": snapshot.size_bytes, "sha256": snapshot.sha256,
        "include_paths": snapshot.include_paths, "exclude_paths": snapshot.exclude_paths,
        "created_at": at(snapshot.created_at),
    })
}

fn row(terminal: Terminal, snapshot: &SnapshotView) -> String {
    let made = terminal.paint(snapshot.created_at.format("%Y-%m-%d %H:%M"), faint());
    format!("{}  {made}  {:>12}  {}", snapshot.id, format!("{} B", snapshot.size_bytes), harmless(&snapshot.label))
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
