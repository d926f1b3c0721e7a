//! What sandboxes use: asked for one, and measured for all from time to time.

use std::sync::{Mutex, PoisonError};

use super::engine::Engine;
use crate::{
    access::{Action, Caller},
    error::ForgeError,
    id::{SandboxId, TenantId},
    ports::{machines::Usage, sessions::SessionError},
    sandbox::SandboxStatus,
};

/// What a sandbox used when it was last measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageSample {
    /// The sandbox.
    pub id: SandboxId,
    /// Who it belongs to.
    pub tenant: TenantId,
    /// Its driver, by name.
    pub mode: String,
    /// What it used.
    pub usage: Usage,
}

/// The last measurement of all.
pub(super) type Samples = Mutex<Vec<UsageSample>>;

impl Engine {
    pub(super) async fn usage(&self, caller: &Caller, id: SandboxId) -> Result<Option<Usage>, ForgeError> {
        let sandbox = self.get(caller, id).await?;
        if sandbox.status != SandboxStatus::Ready {
            return Ok(None);
        }
        match self.look_at(&sandbox).await {
            Ok(machine) => Ok(Some(machine.usage().await?)),
            Err(ForgeError::Session(SessionError::Lost)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn sample_usage(&self) -> Result<(), ForgeError> {
        let mut samples = Vec::new();
        for sandbox in self.live_here().await? {
            if sandbox.status == SandboxStatus::Ready
                && let Ok(machine) = self.look_at(&sandbox).await
                && let Ok(usage) = machine.usage().await
            {
                samples.push(UsageSample { id: sandbox.id, tenant: sandbox.tenant, mode: sandbox.mode, usage });
            }
        }
        *self.samples.lock().unwrap_or_else(PoisonError::into_inner) = samples;
        Ok(())
    }

    pub(super) fn usage_samples(&self, caller: &Caller) -> Result<Vec<UsageSample>, ForgeError> {
        caller.may(Action::Read)?;
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(samples.iter().filter(|sample| sample.tenant == caller.tenant).cloned().collect())
    }
}
