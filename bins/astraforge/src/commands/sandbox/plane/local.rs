//! The sandboxes of the data folder, by a control plane in this process.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use astraforge_core::{
    access::Caller,
    archive::Comparison,
    control_plane::{ControlPlane, NewExport, NewSandbox, NewSnapshot},
    egress::Egress,
    id::{ArtifactId, SandboxId, SnapshotId},
    page::Page,
    ports::machines::{ByteStream, Machine},
    sandbox::{Kept, Sandbox, Snapshot},
};
use astraforge_http::wire::sandbox::{
    ArtifactView, LinkView, SessionView, SnapshotView, UsageView, egress::EgressView,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};

use super::Plane;
use crate::{commands::Listed, config::ServerArgs, data_folder, egress_log::EgressLog, sandbox_plane};

/// The most changes that are told of one comparison.
const MAX_CHANGES: usize = 10_000;

/// A control plane of one's own, beside a server that may run on the data folder.
pub(super) struct LocalPlane {
    plane: ControlPlane,
    caller: Caller,
    /// The data folder.
    root: PathBuf,
    /// What links begin with, where that is set.
    link_base: Option<String>,
}

impl LocalPlane {
    pub(super) async fn open(args: &ServerArgs, root: PathBuf) -> anyhow::Result<Self> {
        let plane = sandbox_plane::open(args, &root).await?;
        plane.reap().await?;
        let link_base = args.files.link_base().map(str::to_owned);
        Ok(Self { plane, caller: sandbox_plane::owner(), root, link_base })
    }

    fn snapshot_view(&self, snapshot: Snapshot) -> SnapshotView {
        let place = self.plane.place_of(&snapshot);
        SnapshotView::new(snapshot, place)
    }
}

fn view(sandbox: Sandbox) -> SessionView {
    SessionView::new(sandbox, Kept::default(), None)
}

#[async_trait]
impl Plane for LocalPlane {
    async fn create(&self, new: NewSandbox) -> anyhow::Result<SessionView> {
        Ok(view(self.plane.create(&self.caller, new).await?.sandbox))
    }

    async fn list(&self, limit: u32) -> anyhow::Result<Listed<SessionView>> {
        Ok(Listed::page(self.plane.list_page(&self.caller, Page::first(limit)).await?, view))
    }

    async fn get(&self, id: SandboxId) -> anyhow::Result<SessionView> {
        Ok(view(self.plane.get(&self.caller, id).await?))
    }

    async fn usage(&self, id: SandboxId) -> anyhow::Result<Option<UsageView>> {
        Ok(self.plane.usage(&self.caller, id).await?.map(UsageView::from))
    }

    async fn machine(&self, id: SandboxId) -> anyhow::Result<Arc<dyn Machine>> {
        Ok(self.plane.machine(&self.caller, id).await?)
    }

    async fn heartbeat(&self, id: SandboxId) -> anyhow::Result<SessionView> {
        Ok(view(self.plane.heartbeat(&self.caller, id).await?))
    }

    async fn set_egress(&self, id: SandboxId, egress: Egress) -> anyhow::Result<()> {
        Ok(self.plane.set_egress(&self.caller, id, egress).await.map(drop)?)
    }

    async fn egress(&self, id: SandboxId, last: usize) -> anyhow::Result<EgressView> {
        let egress = self.plane.get(&self.caller, id).await?.spec.egress.to_string();
        Ok(EgressView { egress, events: EgressLog::open(&self.root)?.last(id, last)? })
    }

    async fn stop(&self, id: SandboxId) -> anyhow::Result<()> {
        Ok(self.plane.stop(&self.caller, id).await?)
    }

    async fn delete(&self, id: SandboxId) -> anyhow::Result<()> {
        Ok(self.plane.delete(&self.caller, id).await?)
    }

    async fn fork(&self, id: SandboxId) -> anyhow::Result<SessionView> {
        Ok(view(self.plane.fork(&self.caller, id).await?))
    }

    async fn snapshot(&self, id: SandboxId, new: NewSnapshot) -> anyhow::Result<SnapshotView> {
        Ok(self.snapshot_view(self.plane.snapshot(&self.caller, id, new).await?))
    }

    async fn snapshots(&self, id: SandboxId) -> anyhow::Result<Vec<SnapshotView>> {
        let snapshots = self.plane.snapshots(&self.caller, id).await?;
        Ok(snapshots.into_iter().map(|snapshot| self.snapshot_view(snapshot)).collect())
    }

    async fn restore(&self, id: SandboxId, snapshot: SnapshotId) -> anyhow::Result<()> {
        Ok(self.plane.restore(&self.caller, id, snapshot).await?)
    }

    async fn restore_archive(&self, id: SandboxId, archive: ByteStream) -> anyhow::Result<()> {
        Ok(self.plane.restore_archive(&self.caller, id, archive).await?)
    }

    async fn diff(&self, id: SandboxId, snapshot: SnapshotId) -> anyhow::Result<Comparison> {
        Ok(self.plane.diff(&self.caller, id, snapshot, MAX_CHANGES).await?)
    }

    async fn export(&self, id: SandboxId, new: NewExport) -> anyhow::Result<ArtifactView> {
        Ok(ArtifactView::new(self.plane.export(&self.caller, id, new).await?, String::new()))
    }

    async fn artifacts(&self, id: SandboxId) -> anyhow::Result<Vec<ArtifactView>> {
        let artifacts = self.plane.artifacts(&self.caller, id).await?;
        Ok(artifacts.into_iter().map(|artifact| ArtifactView::new(artifact, String::new())).collect())
    }

    async fn artifact(&self, id: ArtifactId) -> anyhow::Result<BoxStream<'static, anyhow::Result<Bytes>>> {
        let (_, bytes) = self.plane.artifact(&self.caller, id).await?;
        Ok(bytes.map_err(anyhow::Error::from_boxed).boxed())
    }

    async fn link(&self, id: ArtifactId, seconds: u32) -> anyhow::Result<LinkView> {
        let link = self.plane.link(&self.caller, id, seconds).await?;
        let server = || data_folder::announced(&self.root).map(|server| server.url);
        let base = self.link_base.clone().or_else(server).context(
            "no server runs on this data folder, so a link would lead nowhere; start one with `astraforge up`, or set \
             SANDBOX_ARTIFACT_BASE_URL",
        )?;
        let expires_at = chrono::DateTime::from_timestamp(link.claim.expires, 0).context("a time after all others")?;
        Ok(LinkView { url: format!("{base}{}", link.path_and_query()), expires_at })
    }
}
