//! How many processes of each sandbox the kernel has killed because the sandbox's memory was used up.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use astraforge_core::id::SandboxId;

use super::record::Folder;

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

/// Version 2 and version 1 of control groups.
const COUNTERS: [&str; 2] = ["memory.events", "memory.oom_control"];

fn read(file: &Path) -> Option<u64> {
    parse(&fs::read_to_string(file).ok()?)
}

fn parse(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_read_from_either_version() {
        assert_eq!(parse("low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n"), Some(3));
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"), Some(4));
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
