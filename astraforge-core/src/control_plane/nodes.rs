//! Several nodes on one store: how they find each other, and what becomes of the sandboxes of one that is gone.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

use super::engine::Engine;
use crate::{
    access::Caller,
    error::ForgeError,
    id::{NodeId, SandboxId},
    node::{FORGOTTEN, GONE, Node},
    sandbox::Sandbox,
};

/// How long there may be between two signs of life that belong together.
const TOGETHER: TimeDelta = TimeDelta::seconds(25);

/// Since when this node has said without a break that it is there, and when it last did. Whoever was cut off from the
/// store does not know how long the others were, too.
pub(super) type Presence = Mutex<Option<(DateTime<Utc>, DateTime<Utc>)>>;

impl Engine {
    pub(super) async fn announce(&self, url: Option<&str>) -> Result<(), ForgeError> {
        let Some(id) = self.settings.node else { return Ok(()) };
        let seen_at = self.clock.now();
        let node = Node { id, url: url.map(str::to_owned), seen_at, has_stopped: false };
        self.store.note_node(&node).await?;
        self.store.forget_nodes(seen_at - FORGOTTEN).await?;
        let mut presence = self.presence.lock().unwrap_or_else(PoisonError::into_inner);
        *presence = match *presence {
            Some((since, last)) if seen_at - last <= TOGETHER => Some((since, seen_at)),
            _ => Some((seen_at, seen_at)),
        };
        Ok(())
    }

    pub(super) async fn withdraw(&self) -> Result<(), ForgeError> {
        let Some(id) = self.settings.node else { return Ok(()) };
        let node = Node { id, url: None, seen_at: self.clock.now(), has_stopped: true };
        Ok(self.store.note_node(&node).await?)
    }

    pub(super) async fn other_nodes(&self) -> Result<Vec<Node>, ForgeError> {
        let mut nodes = self.store.nodes().await?;
        nodes.retain(|node| Some(node.id) != self.settings.node);
        Ok(nodes)
    }

    pub(super) async fn elsewhere(&self, caller: &Caller, id: SandboxId) -> Result<Option<NodeId>, ForgeError> {
        let sandbox = self.find(caller, id).await?;
        match sandbox.elsewhere(self.settings.node) {
            Some(node) if self.is_shared(&sandbox.mode) && self.may_take_over(node).await? => Ok(None),
            node => Ok(node),
        }
    }

    /// The sandbox, which is this node's from now on if its node is gone and this one reaches its machine.
    pub(super) async fn taken_over(&self, sandbox: Sandbox) -> Result<Sandbox, ForgeError> {
        match sandbox.elsewhere(self.settings.node) {
            Some(node) if self.is_shared(&sandbox.mode) && self.may_take_over(node).await? => {
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

    /// Whether a node is gone, as far as this one can tell: it is there itself, and has been for so long that the other
    /// would have said that it is.
    pub(super) async fn may_take_over(&self, id: NodeId) -> Result<bool, ForgeError> {
        let now = self.clock.now();
        let presence = *self.presence.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = presence.is_some_and(|(since, last)| now - last <= TOGETHER && now - since > GONE);
        Ok(is_there && self.store.nodes().await?.iter().all(|node| node.id != id || node.is_gone(now)))
    }
}
