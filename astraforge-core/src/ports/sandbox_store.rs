//! The port for what is remembered of sandboxes.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    id::{ArtifactId, SandboxId, SnapshotId, TenantId},
    node::Node,
    page::{Page, Paged},
    ports::store::StoreError,
    sandbox::{Artifact, Kept, Sandbox, Snapshot},
};

/// Remembers sandboxes, their snapshots and artifacts.
///
/// # Contract
/// A row is written whole or not at all, and what was written is read by every process that shares the store.
#[async_trait]
pub trait SandboxStore: fmt::Debug + Send + Sync + 'static {
    /// Adds a sandbox; tells whether its id was free, whoever has it.
    async fn add_sandbox(&self, sandbox: &Sandbox) -> Result<bool, StoreError>;
    /// Finds a sandbox, whoever it belongs to.
    async fn sandbox(&self, id: SandboxId) -> Result<Option<Sandbox>, StoreError>;
    /// Lists a tenant's sandboxes, the newest first.
    async fn sandboxes(&self, tenant: &TenantId) -> Result<Vec<Sandbox>, StoreError>;
    /// Lists a tenant's sandboxes in the same order, a page at a time.
    async fn sandboxes_page(&self, tenant: &TenantId, page: Page) -> Result<Paged<Sandbox>, StoreError>;
    /// Lists the sandboxes of all tenants that are starting or ready.
    async fn live_sandboxes(&self) -> Result<Vec<Sandbox>, StoreError>;
    /// Replaces a sandbox of version `sandbox.version`, which then has the next one; tells whether it had that version.
    /// Times of use that were noted meanwhile are kept where they are later.
    async fn update_sandbox(&self, sandbox: &Sandbox) -> Result<bool, StoreError>;
    /// Notes that a sandbox was used; the version stays.
    async fn note_activity(&self, id: SandboxId, at: DateTime<Utc>) -> Result<(), StoreError>;
    /// Notes that a sandbox's user is there; the version stays.
    async fn note_heartbeat(&self, id: SandboxId, at: DateTime<Utc>) -> Result<(), StoreError>;

    /// Adds a snapshot.
    async fn add_snapshot(&self, snapshot: &Snapshot) -> Result<(), StoreError>;
    /// Finds a tenant's snapshot.
    async fn snapshot(&self, tenant: &TenantId, id: SnapshotId) -> Result<Option<Snapshot>, StoreError>;
    /// Lists a sandbox's snapshots, the newest first.
    async fn snapshots(&self, sandbox: SandboxId) -> Result<Vec<Snapshot>, StoreError>;
    /// Lists a sandbox's snapshots in the same order, a page at a time.
    async fn snapshots_page(&self, sandbox: SandboxId, page: Page) -> Result<Paged<Snapshot>, StoreError>;

    /// Removes a snapshot, unless it is what a sandbox comes back from; tells whether it did.
    async fn remove_snapshot(&self, id: SnapshotId) -> Result<bool, StoreError>;

    /// Adds an artifact.
    async fn add_artifact(&self, artifact: &Artifact) -> Result<(), StoreError>;
    /// Finds a tenant's artifact.
    async fn artifact(&self, tenant: &TenantId, id: ArtifactId) -> Result<Option<Artifact>, StoreError>;
    /// Lists a sandbox's artifacts, the newest first.
    async fn artifacts(&self, sandbox: SandboxId) -> Result<Vec<Artifact>, StoreError>;
    /// Lists a sandbox's artifacts in the same order, a page at a time.
    async fn artifacts_page(&self, sandbox: SandboxId, page: Page) -> Result<Paged<Artifact>, StoreError>;

    /// Tells what is kept of sandboxes; those of which nothing is are left out.
    async fn kept(&self, sandboxes: &[SandboxId]) -> Result<BTreeMap<SandboxId, Kept>, StoreError>;

    /// Notes how a node is, in place of what was noted of it before.
    async fn note_node(&self, node: &Node) -> Result<(), StoreError>;
    /// Lists the nodes that were noted.
    async fn nodes(&self) -> Result<Vec<Node>, StoreError>;
    /// Forgets the nodes that were last seen before a time.
    async fn forget_nodes(&self, before: DateTime<Utc>) -> Result<(), StoreError>;
}
