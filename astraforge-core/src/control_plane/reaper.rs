//! What ends sandboxes by itself, and what a server does about those that an earlier one left.

use std::sync::Arc;

use futures::{StreamExt, stream};

use super::engine::Engine;
use crate::{
    error::ForgeError,
    id::SandboxId,
    ports::{machines::Machines, sessions::SessionError},
    sandbox::{Sandbox, SandboxStatus, Termination},
};

/// Sandboxes that are ended at once.
const AT_ONCE: usize = 4;

/// What a round of the reaper did.
#[derive(Debug, Default)]
pub struct Reaped {
    /// How many sandboxes it looked at.
    pub n_checked: usize,
    /// Which it ended, and why.
    pub ended: Vec<(SandboxId, Termination)>,
    /// Which it could not end or bring up, and why; they are tried again.
    pub failed: Vec<(SandboxId, ForgeError)>,
}

impl Engine {
    /// Ends the sandboxes whose time has come; their files are kept first. Those that somebody began to start and then
    /// died are brought up. One that fails holds up no other. Those that this process is connected to are told anew what
    /// they may reach, which another may have changed.
    pub(super) async fn reap(&self) -> Result<Reaped, ForgeError> {
        let sandboxes = self.live_here().await?;
        let mut reaped = Reaped { n_checked: sandboxes.len(), ..Reaped::default() };
        for sandbox in &sandboxes {
            let known = self.driver(&sandbox.mode).ok().and_then(|driver| driver.known_egress(sandbox.id));
            if known.is_some_and(|egress| egress != sandbox.spec.egress)
                && let Err(error) = self.agree_on_egress(sandbox.id).await
            {
                reaped.failed.push((sandbox.id, error));
            }
        }
        let now = self.clock.now();
        let is_due = |sandbox: &Sandbox| sandbox.due(now).is_some() || sandbox.is_abandoned(now);
        let due = sandboxes.into_iter().filter(is_due).map(|sandbox| sandbox.id);
        let ends = stream::iter(due).map(|id| async move { (id, self.reap_one(id).await) });
        let mut ends = ends.buffer_unordered(AT_ONCE);
        while let Some((id, end)) = ends.next().await {
            match end {
                Ok(Some(why)) => reaped.ended.push((id, why)),
                Ok(None) => {}
                Err(error) => reaped.failed.push((id, error)),
            }
        }
        Ok(reaped)
    }

    /// Ends one or brings it up, unless it was used since it was looked at.
    async fn reap_one(&self, id: SandboxId) -> Result<Option<Termination>, ForgeError> {
        let turn = self.turns.of(id);
        let _turn = turn.lock().await;
        let Some(sandbox) = self.store.sandbox(id).await? else { return Ok(None) };
        let now = self.clock.now();
        if sandbox.is_abandoned(now) {
            if let Some(sandbox) = self.update(sandbox, |it| it.start(now, self.settings.node)).await? {
                self.bring_up(sandbox).await?;
            }
            return Ok(None);
        }
        let Some(why) = sandbox.due(now) else { return Ok(None) };
        self.end(sandbox, why).await.map(|()| Some(why))
    }

    /// Gives a machine the egress that another process gave its row.
    async fn agree_on_egress(&self, id: SandboxId) -> Result<(), ForgeError> {
        let turn = self.turns.of(id);
        let _turn = turn.lock().await;
        match self.store.sandbox(id).await? {
            Some(sandbox) if sandbox.status == SandboxStatus::Ready => self.tell_egress(&sandbox).await,
            _ => Ok(()),
        }
    }

    /// Carries out [`ControlPlane::adopt`](super::ControlPlane::adopt).
    pub(super) async fn adopt(&self, is_foreign: &(dyn Fn(SandboxId) -> bool + Sync)) -> Result<(), ForgeError> {
        for sandbox in self.store.live_sandboxes().await? {
            self.taken_over(sandbox).await?;
        }
        // Where all nodes reach a driver's machines, this one sees those of the others.
        let may_be_here = |row: &Sandbox| self.is_here(row) || self.is_shared(&row.mode);
        let lives =
            |row: &Sandbox| matches!(row.status, SandboxStatus::Starting | SandboxStatus::Ready) && may_be_here(row);
        for driver in self.machines.values() {
            self.remove_unless(driver, driver.ids().await?, is_foreign, lives).await?;
            self.remove_unless(driver, driver.left().await?, is_foreign, |row| !row.is_deleted() && may_be_here(row))
                .await?;
        }
        for sandbox in self.live_here().await?.into_iter().filter(|row| row.status == SandboxStatus::Ready) {
            // Whoever has changed the row meanwhile knows better.
            match self.look_at(&sandbox).await {
                Err(ForgeError::Session(SessionError::Lost)) => {
                    self.update(sandbox, |row| row.terminate(Termination::Lost)).await?;
                }
                // It is from before there were several nodes, and its machine is here.
                Ok(_) if sandbox.node != self.settings.node && self.settings.node.is_some() => {
                    self.update(sandbox, |row| row.node = self.settings.node).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a machine that its row does not want is this node's to remove: where all nodes reach it, another may be about
    /// to make it anew.
    async fn may_remove(&self, mode: &str, row: Option<&Sandbox>) -> Result<bool, ForgeError> {
        match row.and_then(|row| row.node).filter(|node| Some(*node) != self.settings.node) {
            Some(node) if self.is_shared(mode) => self.may_take_over(node).await,
            _ => Ok(true),
        }
    }

    /// Removes those of a driver's sandboxes whose row is not `wanted` any more, or that have none.
    async fn remove_unless(
        &self,
        driver: &Arc<dyn Machines>,
        ids: Vec<SandboxId>,
        is_foreign: &(dyn Fn(SandboxId) -> bool + Sync),
        wanted: impl Fn(&Sandbox) -> bool,
    ) -> Result<(), ForgeError> {
        for id in ids.into_iter().filter(|id| !is_foreign(*id)) {
            let turn = self.turns.of(id);
            let _turn = turn.lock().await;
            // Asked only now: a machine whose row is older than this question is in it.
            let row = self.store.sandbox(id).await?;
            if !row.as_ref().is_some_and(&wanted) && self.may_remove(driver.mode(), row.as_ref()).await? {
                driver.remove(id).await?;
            }
        }
        Ok(())
    }
}
