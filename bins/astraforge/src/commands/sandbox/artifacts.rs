//! `sandbox export` and `artifacts`: files that outlive their sandbox.

use astraforge_core::{control_plane::NewExport, id::SandboxId};
use astraforge_http::wire::sandbox::ArtifactView;
use serde_json::{Value, json};

use super::{Desk, copy::write_file, listing::at, sandbox_id};
use crate::{
    cli::{ExportArgs, LinkArgs},
    commands::print,
    connection::parse_id,
    render::{Terminal, faint, harmless},
};

impl Desk<'_> {
    pub(super) async fn export(&self, args: &ExportArgs) -> anyhow::Result<()> {
        let id = sandbox_id(&args.id)?;
        let new = NewExport {
            filename: args.filename.clone(),
            content_type: args.content_type.clone(),
            ..NewExport::new(&args.path)
        };
        let artifact = self.plane.export(id, new).await?;
        if let Some(output) = &args.output {
            let bytes = self.plane.artifact(artifact.id).await?;
            write_file(output, Some(artifact.size_bytes), bytes).await?;
        }
        print(self.args, &shown(id, &artifact), |terminal, _| terminal.line(row(terminal, &artifact)))
    }

    pub(super) async fn artifacts(&self, id: SandboxId) -> anyhow::Result<()> {
        self.list_all(&self.plane.artifacts(id).await?, |artifact| shown(id, artifact), row)
    }

    pub(super) async fn link(&self, args: &LinkArgs) -> anyhow::Result<()> {
        let artifact = parse_id(&args.artifact, "astraforge sandbox artifacts SANDBOX")?;
        let link = self.plane.link(artifact, args.expires).await?;
        self.say(&json!({ "url": link.url, "expires_at": link.expires_at }), &link.url)
    }
}

fn shown(sandbox: SandboxId, artifact: &ArtifactView) -> Value {
    json!({
        "id": artifact.id, "sandbox": sandbox, "filename": artifact.filename,
        "content_type": artifact.content_type, "size_bytes": artifact.size_bytes, "sha256": artifact.sha256,
        "storage_path": artifact.storage_path, "created_at": at(artifact.created_at),
    })
}

fn row(terminal: Terminal, artifact: &ArtifactView) -> String {
    let made = terminal.paint(artifact.created_at.format("%Y-%m-%d %H:%M"), faint());
    format!("{}  {made}  {:>12}  {}", artifact.id, format!("{} B", artifact.size_bytes), harmless(&artifact.filename))
}
