//! How many processes of each sandbox the kernel has killed because the sandbox's memory was used up.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use astraforge_core::id::SandboxId;

use super::record::Folder;
use crate::oom::{COUNTERS, read};

/// Where each sandbox's kills are counted. Found once, because it is asked around every command.
#[derive(Debug, Default)]
pub(super) struct OomCounters(Mutex<HashMap<SandboxId, PathBuf>>);

impl OomCounters {
    /// Counts the kills of sandbox `id`, whose folder says which control groups it has; `None` without one for memory.
    pub(super) fn count(&self, id: SandboxId, folder: impl FnOnce() -> Folder) -> Option<u64> {
        if let Some(count) = self.lock().get(&id).and_then(|file| read(file)) {
            return Some(count);
        }
        // Not asked yet, or one of another name since: a workspace that was taken over has a new control group.
        let cgroups = folder().record()?.cgroups;
        let files = cgroups.iter().flat_map(|it| COUNTERS.map(|name| it.join(name)));
        let (count, file) = files.into_iter().find_map(|file| Some((read(&file)?, file)))?;
        self.lock().insert(id, file);
        Some(count)
    }

    pub(super) fn forget(&self, id: SandboxId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SandboxId, PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
