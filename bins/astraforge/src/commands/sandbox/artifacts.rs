//! `sandbox export` and `artifacts`: files that outlive their sandbox.

use anyhow::Context;
use astraforge_core::{control_plane::NewExport, id::SandboxId, sandbox::Artifact};
use futures::TryStreamExt;
use serde_json::{Value, json};

use super::{Desk, copy::write_file, sandbox_id};
use crate::{
    cli::{ExportArgs, LinkArgs},
    commands::print,
    connection::parse_id,
    data_folder,
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
        let artifact = self.plane.export(&self.caller, id, new).await?;
        if let Some(output) = &args.output {
            let (_, bytes) = self.plane.artifact(&self.caller, artifact.id).await?;
            write_file(output, Some(artifact.size), bytes.map_err(anyhow::Error::from_boxed)).await?;
        }
        print(self.args, &shown(&artifact), |terminal, _| terminal.line(row(terminal, &artifact)))
    }

    pub(super) async fn artifacts(&self, id: SandboxId) -> anyhow::Result<()> {
        self.list_all(&self.plane.artifacts(&self.caller, id).await?, shown, row)
    }

    pub(super) async fn link(&self, args: &LinkArgs) -> anyhow::Result<()> {
        let artifact = parse_id(&args.artifact, "astraforge sandbox artifacts SANDBOX")?;
        let link = self.plane.link(&self.caller, artifact, args.expires).await?;
        let files = &self.args.node.files;
        let server = data_folder::announced(&self.root).map(|server| server.url);
        let base = files.link_base().map(str::to_owned).or(server).context(
            "no server runs on this data folder, so a link would lead nowhere; start one with `astraforge up`, or set \
             SANDBOX_ARTIFACT_BASE_URL",
        )?;
        let url = format!("{base}{}", link.path_and_query());
        let expires_at = chrono::DateTime::from_timestamp(link.claim.expires, 0);
        self.say(&json!({ "url": url, "expires_at": expires_at }), &url)
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
