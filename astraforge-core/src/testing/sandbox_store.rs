//! Sandboxes remembered in memory.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::pages::{Order, page as page_of};
use crate::{
    id::{ArtifactId, NodeId, SandboxId, SnapshotId, TenantId},
    node::Node,
    page::{Page, Paged},
    ports::{sandbox_store::SandboxStore, store::StoreError},
    sandbox::{Artifact, Kept, Sandbox, SandboxStatus, Snapshot},
};

/// Remembers sandboxes in memory.
#[derive(Debug, Default)]
pub struct MemorySandboxStore {
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    snapshots: Vec<Snapshot>,
    artifacts: Vec<Artifact>,
    nodes: BTreeMap<NodeId, Node>,
}

impl MemorySandboxStore {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl SandboxStore for MemorySandboxStore {
    async fn add_sandbox(&self, sandbox: &Sandbox) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let free = !rows.sandboxes.contains_key(&sandbox.id);
        rows.sandboxes.entry(sandbox.id).or_insert_with(|| sandbox.clone());
        Ok(free)
    }

    async fn sandbox(&self, id: SandboxId) -> Result<Option<Sandbox>, StoreError> {
        Ok(self.rows().sandboxes.get(&id).cloned())
    }

    async fn sandboxes(&self, tenant: &TenantId) -> Result<Vec<Sandbox>, StoreError> {
        let rows = self.rows();
        let mut found: Vec<_> = rows.sandboxes.values().filter(|it| it.tenant == *tenant).cloned().collect();
        found.sort_by_key(|sandbox| std::cmp::Reverse((sandbox.created_at, sandbox.id)));
        Ok(found)
    }

    async fn sandboxes_page(&self, tenant: &TenantId, page: Page) -> Result<Paged<Sandbox>, StoreError> {
        let rows: Vec<_> = self.rows().sandboxes.values().cloned().collect();
        Ok(page_of(&rows, Order::Newest, page, |it| it.tenant == *tenant))
    }

    async fn live_sandboxes(&self) -> Result<Vec<Sandbox>, StoreError> {
        let live = |it: &&Sandbox| matches!(it.status, SandboxStatus::Starting | SandboxStatus::Ready);
        Ok(self.rows().sandboxes.values().filter(live).cloned().collect())
    }

    async fn update_sandbox(&self, sandbox: &Sandbox) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let Some(row) = rows.sandboxes.get_mut(&sandbox.id).filter(|row| row.version == sandbox.version) else {
            return Ok(false);
        };
        *row = Sandbox {
            version: sandbox.version + 1,
            last_activity_at: sandbox.last_activity_at.max(row.last_activity_at),
            last_heartbeat_at: sandbox.last_heartbeat_at.max(row.last_heartbeat_at),
            ..sandbox.clone()
        };
        Ok(true)
    }

    async fn note_activity(&self, id: SandboxId, at: DateTime<Utc>) -> Result<(), StoreError> {
        if let Some(row) = self.rows().sandboxes.get_mut(&id) {
            row.last_activity_at = row.last_activity_at.max(at);
        }
        Ok(())
    }

    async fn note_heartbeat(&self, id: SandboxId, at: DateTime<Utc>) -> Result<(), StoreError> {
        if let Some(row) = self.rows().sandboxes.get_mut(&id) {
            row.last_heartbeat_at = row.last_heartbeat_at.max(at);
        }
        Ok(())
    }

    async fn add_snapshot(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.rows().snapshots.push(snapshot.clone());
        Ok(())
    }

    async fn snapshot(&self, tenant: &TenantId, id: SnapshotId) -> Result<Option<Snapshot>, StoreError> {
        Ok(self.rows().snapshots.iter().find(|it| it.id == id && it.tenant == *tenant).cloned())
    }

    async fn snapshots(&self, sandbox: SandboxId) -> Result<Vec<Snapshot>, StoreError> {
        Ok(self.rows().snapshots.iter().rev().filter(|it| it.sandbox == sandbox).cloned().collect())
    }

    async fn snapshots_page(&self, sandbox: SandboxId, page: Page) -> Result<Paged<Snapshot>, StoreError> {
        Ok(page_of(&self.rows().snapshots, Order::LastAdded, page, |it| it.sandbox == sandbox))
    }

    async fn remove_snapshot(&self, id: SnapshotId) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        if rows.sandboxes.values().any(|it| it.latest_snapshot == Some(id) && !it.is_deleted()) {
            return Ok(false);
        }
        let n_before = rows.snapshots.len();
        rows.snapshots.retain(|it| it.id != id);
        Ok(rows.snapshots.len() < n_before)
    }

    async fn add_artifact(&self, artifact: &Artifact) -> Result<(), StoreError> {
        self.rows().artifacts.push(artifact.clone());
        Ok(())
    }

    async fn artifact(&self, tenant: &TenantId, id: ArtifactId) -> Result<Option<Artifact>, StoreError> {
        Ok(self.rows().artifacts.iter().find(|it| it.id == id && it.tenant == *tenant).cloned())
    }

    async fn artifacts(&self, sandbox: SandboxId) -> Result<Vec<Artifact>, StoreError> {
        Ok(self.rows().artifacts.iter().rev().filter(|it| it.sandbox == sandbox).cloned().collect())
    }

    async fn artifacts_page(&self, sandbox: SandboxId, page: Page) -> Result<Paged<Artifact>, StoreError> {
        Ok(page_of(&self.rows().artifacts, Order::LastAdded, page, |it| it.sandbox == sandbox))
    }

    async fn kept(&self, sandboxes: &[SandboxId]) -> Result<BTreeMap<SandboxId, Kept>, StoreError> {
        let (rows, mut kept) = (self.rows(), BTreeMap::<_, Kept>::new());
        for snapshot in rows.snapshots.iter().rev().filter(|it| sandboxes.contains(&it.sandbox)) {
            kept.entry(snapshot.sandbox).or_default().snapshots.push(snapshot.id);
        }
        for artifact in rows.artifacts.iter().filter(|it| sandboxes.contains(&it.sandbox)) {
            kept.entry(artifact.sandbox).or_default().n_artifacts += 1;
        }
        Ok(kept)
    }

    async fn note_node(&self, node: &Node) -> Result<(), StoreError> {
        self.rows().nodes.insert(node.id, node.clone());
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<Node>, StoreError> {
        Ok(self.rows().nodes.values().cloned().collect())
    }

    async fn forget_nodes(&self, before: DateTime<Utc>) -> Result<(), StoreError> {
        self.rows().nodes.retain(|_, node| node.seen_at >= before);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::sandbox_store_conformance!(async { ((), MemorySandboxStore::default()) });
}
