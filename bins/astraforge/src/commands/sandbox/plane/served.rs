//! The sandboxes of another server, over its HTTP API.

use std::sync::Arc;

use astraforge_core::{
    archive::Comparison,
    control_plane::{NewExport, NewSandbox, NewSnapshot},
    egress::Egress,
    error::ForgeError,
    id::{ArtifactId, SandboxId, SnapshotId},
    ports::machines::{ByteStream, Machine},
    session::{Cpus, Strictness, Workspace},
};
use astraforge_http::{
    Client, ClientError,
    wire::sandbox::{
        ArtifactView, ExportBody, FilesOn, LinkView, NewSession, NewSnapshotBody, SessionPatch, SessionView,
        SnapshotView, UsageView, egress::EgressView,
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};

use super::Plane;
use crate::commands::Listed;

/// What a server has.
pub(super) struct ServedPlane {
    client: Client,
    /// Its address as it was typed: what its links begin with, where it is not told its own.
    address: String,
}

impl ServedPlane {
    pub(super) fn new(client: Client, address: &str) -> Self {
        Self { client, address: address.trim_end_matches('/').to_owned() }
    }
}

/// An error of a call about a sandbox, as one of the data folder's gives it.
fn about(id: SandboxId) -> impl Fn(ClientError) -> anyhow::Error {
    move |error| match &error {
        ClientError::Refused { failure: Some(_), .. } => error.into_session_error().into(),
        ClientError::Refused { detail: Some(detail), .. } if detail.starts_with("No SandboxSession ") => {
            ForgeError::NoSandbox { id }.into()
        }
        _ => error.into(),
    }
}

#[async_trait]
impl Plane for ServedPlane {
    async fn create(&self, new: NewSandbox) -> anyhow::Result<SessionView> {
        Ok(self.client.create_sandbox(&new_session(new)).await?)
    }

    async fn list(&self, limit: u32) -> anyhow::Result<Listed<SessionView>> {
        Ok(Listed::read(self.client.stream_sandboxes(), limit).await?)
    }

    async fn get(&self, id: SandboxId) -> anyhow::Result<SessionView> {
        self.client.sandbox(id).await.map_err(about(id))
    }

    async fn usage(&self, id: SandboxId) -> anyhow::Result<Option<UsageView>> {
        self.client.measure_sandbox(id).await.map_err(about(id))
    }

    async fn machine(&self, id: SandboxId) -> anyhow::Result<Arc<dyn Machine>> {
        Ok(Arc::new(self.client.open_sandbox(id).await.map_err(about(id))?))
    }

    async fn heartbeat(&self, id: SandboxId) -> anyhow::Result<SessionView> {
        self.client.note_heartbeat(id).await.map_err(about(id))?;
        self.get(id).await
    }

    async fn set_egress(&self, id: SandboxId, egress: Egress) -> anyhow::Result<()> {
        let patch = SessionPatch { egress: Some(egress) };
        self.client.change_sandbox(id, &patch).await.map(drop).map_err(about(id))
    }

    async fn egress(&self, id: SandboxId, last: usize) -> anyhow::Result<EgressView> {
        self.client.show_egress(id, last).await.map_err(about(id))
    }

    async fn stop(&self, id: SandboxId) -> anyhow::Result<()> {
        self.client.stop_sandbox(id).await.map_err(about(id))
    }

    async fn delete(&self, id: SandboxId) -> anyhow::Result<()> {
        self.client.delete_sandbox(id).await.map_err(about(id))
    }

    async fn fork(&self, id: SandboxId) -> anyhow::Result<SessionView> {
        self.client.fork_sandbox(id).await.map_err(about(id))
    }

    async fn snapshot(&self, id: SandboxId, new: NewSnapshot) -> anyhow::Result<SnapshotView> {
        let NewSnapshot { label, include, exclude } = new;
        let body = NewSnapshotBody { label, include_paths: include, exclude_paths: exclude };
        self.client.take_snapshot(id, &body).await.map_err(about(id))
    }

    async fn snapshots(&self, id: SandboxId) -> anyhow::Result<Vec<SnapshotView>> {
        Ok(self.client.snapshots(id).await.map_err(about(id))?.snapshots)
    }

    async fn restore(&self, id: SandboxId, snapshot: SnapshotId) -> anyhow::Result<()> {
        self.client.restore_snapshot(id, snapshot).await.map_err(about(id))
    }

    async fn restore_archive(&self, id: SandboxId, archive: ByteStream) -> anyhow::Result<()> {
        self.client.restore_archive(id, archive).await.map_err(about(id))
    }

    async fn diff(&self, id: SandboxId, snapshot: SnapshotId) -> anyhow::Result<Comparison> {
        self.client.diff_snapshot(id, snapshot).await.map_err(about(id))
    }

    async fn export(&self, id: SandboxId, new: NewExport) -> anyhow::Result<ArtifactView> {
        let NewExport { path, filename, content_type } = new;
        let body = ExportBody { path, filename, content_type: Some(content_type) };
        self.client.export_file(id, &body).await.map_err(about(id))
    }

    async fn artifacts(&self, id: SandboxId) -> anyhow::Result<Vec<ArtifactView>> {
        Ok(self.client.artifacts(id).await.map_err(about(id))?.artifacts)
    }

    async fn artifact(&self, id: ArtifactId) -> anyhow::Result<BoxStream<'static, anyhow::Result<Bytes>>> {
        Ok(self.client.read_artifact(id).await?.map_err(anyhow::Error::from).boxed())
    }

    async fn link(&self, id: ArtifactId, seconds: u32) -> anyhow::Result<LinkView> {
        let LinkView { url, expires_at } = self.client.link_artifact(id, seconds).await?;
        let url = if url.starts_with('/') { format!("{}{url}", self.address) } else { url };
        Ok(LinkView { url, expires_at })
    }
}

/// A sandbox to make, as the server is asked for it.
fn new_session(new: NewSandbox) -> NewSession {
    let NewSandbox { id, mode, spec, lifetime, restore } = new;
    let (size, files_on, is_hard) = match spec.workspace {
        Workspace::Tmpfs { size } => (size, FilesOn::Memory, false),
        Workspace::Disk { size } => (size.max, FilesOn::Disk, size.strictness == Strictness::Required),
    };
    NewSession {
        id,
        mode,
        image: spec.image,
        cpu: spec.limits.cpu_millis.map(|cpu| Cpus::millis(cpu.max)),
        memory: Some(spec.limits.memory.max),
        ephemeral_storage: Some(size),
        restore_snapshot_id: restore,
        idle_timeout_sec: Some(lifetime.idle().as_secs()),
        max_lifetime_sec: Some(lifetime.max().as_secs()),
        egress: Some(spec.egress),
        env: spec.env,
        processes: Some(spec.limits.processes.max),
        files_on: Some(files_on),
        enforced: is_hard || spec.limits.memory.strictness == Strictness::Required,
    }
}
