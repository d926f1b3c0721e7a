//! `sandbox export` and `artifacts`: files that outlive their sandbox.

use astraforge_core::{id::SandboxId, sandbox::Artifact};
use futures::TryStreamExt;
use serde_json::{Value, json};

use super::{Desk, copy::write_file, sandbox_id};
use crate::{
    cli::ExportArgs,
    commands::print,
    render::{Terminal, faint, harmless},
};

impl Desk<'_> {
    pub(super) async fn export(&self, args: &ExportArgs) -> anyhow::Result<()> {
        let id = sandbox_id(&args.id)?;
        let exported = self.plane.export(&self.caller, id, &args.path, args.filename.as_deref(), &args.content_type);
        let artifact = exported.await?;
        if let Some(output) = &args.output {
            let (_, bytes) = self.plane.artifact(&self.caller, artifact.id).await?;
            write_file(output, Some(artifact.size), bytes.map_err(anyhow::Error::from_boxed)).await?;
        }
        print(self.args, &shown(&artifact), |terminal, _| terminal.line(row(terminal, &artifact)))
    }

    pub(super) async fn artifacts(&self, id: SandboxId) -> anyhow::Result<()> {
        self.list_all(&self.plane.artifacts(&self.caller, id).await?, shown, row)
    }
}

fn shown(artifact: &Artifact) -> Value {
    json!({
        "id": artifact.id, "sandbox": artifact.sandbox, "filename": artifact.filename,
        "content_type": artifact.content_type, "size_bytes": artifact.size, "sha256": artifact.sha256,
        "storage_path": artifact.path, "created_at": artifact.created_at,
    })
}

fn row(terminal: Terminal, artifact: &Artifact) -> String {
    let made = terminal.paint(artifact.created_at.format("%Y-%m-%d %H:%M"), faint());
    format!("{}  {made}  {:>12}  {}", artifact.id, format!("{} B", artifact.size), harmless(&artifact.filename))
}
