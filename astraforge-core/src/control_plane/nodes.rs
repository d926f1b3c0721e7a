//! Several nodes on one store: how they find each other, and what becomes of the sandboxes of one that is gone.

use super::engine::Engine;
use crate::{
    error::ForgeError,
    id::{NodeId, SandboxId},
    node::Node,
    sandbox::Sandbox,
};

impl Engine {
    pub(super) async fn announce(&self, url: &str) -> Result<(), ForgeError> {
        let Some(id) = self.settings.node else { return Ok(()) };
        Ok(self.store.note_node(&Node { id, url: url.to_owned(), seen_at: self.clock.now() }).await?)
    }

    pub(super) async fn withdraw(&self) -> Result<(), ForgeError> {
        let Some(id) = self.settings.node else { return Ok(()) };
        Ok(self.store.forget_node(id).await?)
    }

    pub(super) async fn other_nodes(&self) -> Result<Vec<Node>, ForgeError> {
        let mut nodes = self.store.nodes().await?;
        nodes.retain(|node| Some(node.id) != self.settings.node);
        Ok(nodes)
    }

    pub(super) async fn node_of(&self, id: SandboxId) -> Result<Option<NodeId>, ForgeError> {
        let sandbox = self.store.sandbox(id).await?;
        Ok(sandbox.and_then(|sandbox| sandbox.elsewhere(self.settings.node)))
    }

    /// The sandbox, which is this node's from now on if its node is gone and this one reaches its machine.
    pub(super) async fn taken_over(&self, sandbox: Sandbox) -> Result<Sandbox, ForgeError> {
        match sandbox.elsewhere(self.settings.node) {
            Some(node) if self.is_shared(&sandbox.mode) && self.is_gone(node).await? => {
                self.change(sandbox, &|row| {
                    // Unless another was quicker.
                    if row.node == Some(node) {
                        row.node = self.settings.node;
                    }
                })
                .await
            }
            _ => Ok(sandbox),
        }
    }

    /// Whether all nodes reach the machines of a driver.
    pub(super) fn is_shared(&self, mode: &str) -> bool {
        self.settings.shared_modes.iter().any(|shared| shared == mode)
    }

    /// Whether a node is gone: it has withdrawn, or has been silent for too long.
    async fn is_gone(&self, id: NodeId) -> Result<bool, ForgeError> {
        let now = self.clock.now();
        Ok(self.store.nodes().await?.iter().all(|node| node.id != id || node.is_gone(now)))
    }
}
