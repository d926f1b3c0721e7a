//! Where sandboxes are: what subcommands need of it, the same for those of the data folder and those of another server.

use std::sync::Arc;

use astraforge_core::{
    archive::Comparison,
    control_plane::{NewExport, NewSandbox, NewSnapshot},
    egress::Egress,
    error::ForgeError,
    id::{ArtifactId, SandboxId, SnapshotId},
    ports::machines::{ByteStream, Machine},
};
use astraforge_http::{
    Client,
    wire::sandbox::{ArtifactView, LinkView, SessionView, SnapshotView, UsageView, egress::EgressView},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use self::{local::LocalPlane, served::ServedPlane};
use crate::{cli::ConnectionArgs, commands::Listed, connection, data_folder};

mod local;
mod served;

/// All that subcommands do with sandboxes and not within one; that is done with the [`Machine`].
///
/// What is answered has the shapes of the HTTP API, so that nothing that is printed depends on where it comes from.
#[async_trait]
pub(super) trait Plane: Send + Sync {
    async fn create(&self, new: NewSandbox) -> anyhow::Result<SessionView>;
    /// The first sandboxes, the newest first.
    async fn list(&self, limit: u32) -> anyhow::Result<Listed<SessionView>>;
    async fn get(&self, id: SandboxId) -> anyhow::Result<SessionView>;
    async fn usage(&self, id: SandboxId) -> anyhow::Result<Option<UsageView>>;
    /// The machine of a sandbox; one that was stopped comes back when it is used, if it did not before.
    async fn machine(&self, id: SandboxId) -> anyhow::Result<Arc<dyn Machine>>;
    /// Says that somebody is there.
    async fn heartbeat(&self, id: SandboxId) -> anyhow::Result<SessionView>;
    async fn set_egress(&self, id: SandboxId, egress: Egress) -> anyhow::Result<()>;
    /// What a sandbox may reach, and the last connections that it tried to make.
    async fn egress(&self, id: SandboxId, last: usize) -> anyhow::Result<EgressView>;
    async fn stop(&self, id: SandboxId) -> anyhow::Result<()>;
    async fn delete(&self, id: SandboxId) -> anyhow::Result<()>;
    async fn fork(&self, id: SandboxId) -> anyhow::Result<SessionView>;
    async fn snapshot(&self, id: SandboxId, new: NewSnapshot) -> anyhow::Result<SnapshotView>;
    async fn snapshots(&self, id: SandboxId) -> anyhow::Result<Vec<SnapshotView>>;
    async fn restore(&self, id: SandboxId, snapshot: SnapshotId) -> anyhow::Result<()>;
    async fn restore_archive(&self, id: SandboxId, archive: ByteStream) -> anyhow::Result<()>;
    async fn diff(&self, id: SandboxId, snapshot: SnapshotId) -> anyhow::Result<Comparison>;
    async fn export(&self, id: SandboxId, new: NewExport) -> anyhow::Result<ArtifactView>;
    async fn artifacts(&self, id: SandboxId) -> anyhow::Result<Vec<ArtifactView>>;
    /// The bytes of a file that was taken out.
    async fn artifact(&self, id: ArtifactId) -> anyhow::Result<BoxStream<'static, anyhow::Result<Bytes>>>;
    async fn link(&self, id: ArtifactId, seconds: u32) -> anyhow::Result<LinkView>;
}

/// Opens the plane that the command line means.
pub(super) async fn open(args: &ConnectionArgs) -> anyhow::Result<Arc<dyn Plane>> {
    if let Some(url) = &args.server {
        let client = Client::new(url, connection::key(args)?)?;
        return Ok(Arc::new(ServedPlane::new(client, url)));
    }
    let root = args.node.data_folder()?;
    data_folder::make_private(&root)?;
    Ok(Arc::new(LocalPlane::open(&args.node, root).await?))
}

/// Whether an error says that there is no such sandbox.
pub(super) fn is_gone(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ForgeError::NoSandbox { .. }))
}
