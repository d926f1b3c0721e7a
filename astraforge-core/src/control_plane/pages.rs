//! The control plane's lists, a page at a time.

use super::{ControlPlane, engine::Engine};
use crate::{
    access::{Action, Caller},
    error::ForgeError,
    id::SandboxId,
    page::{Page, Paged},
    sandbox::{Artifact, Sandbox, Snapshot},
};

/// So many rows are read at least: among them may be many that were deleted, which only their records tell.
const AT_LEAST: u32 = 100;

impl ControlPlane {
    /// Lists what [`list`](Self::list) does, a page at a time.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list_page(&self, caller: &Caller, page: Page) -> Result<Paged<Sandbox>, ForgeError> {
        self.context.list_page(caller, page).await
    }

    /// Lists what [`snapshots`](Self::snapshots) does, a page at a time.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`].
    pub async fn snapshots_page(
        &self,
        caller: &Caller,
        id: SandboxId,
        page: Page,
    ) -> Result<Paged<Snapshot>, ForgeError> {
        self.context.get(caller, id).await?;
        Ok(self.context.store.snapshots_page(id, page).await?)
    }

    /// Lists what [`artifacts`](Self::artifacts) does, a page at a time.
    ///
    /// # Errors
    /// [`ForgeError::NoSandbox`].
    pub async fn artifacts_page(
        &self,
        caller: &Caller,
        id: SandboxId,
        page: Page,
    ) -> Result<Paged<Artifact>, ForgeError> {
        self.context.find_even_deleted(caller, id).await?;
        Ok(self.context.store.artifacts_page(id, page).await?)
    }
}

impl Engine {
    async fn list_page(&self, caller: &Caller, page: Page) -> Result<Paged<Sandbox>, ForgeError> {
        caller.may(Action::Read)?;
        let (mut left, mut after) = (Vec::new(), page.after);
        loop {
            let rows = Page { after, limit: page.limit.saturating_add(1).max(AT_LEAST) };
            let read = self.store.sandboxes_page(&caller.tenant, rows).await?;
            left.extend(read.items.into_iter().filter(|sandbox| !sandbox.is_deleted()));
            after = read.next;
            if after.is_none() || left.len() > page.limit as usize {
                return Ok(Paged::cut(left, page.limit));
            }
        }
    }
}
