//! How many processes of a sandbox the kernel has killed because its memory was used up.
//!
//! The engine does not count them. Where it runs on this machine, the kernel's own counter can be read: in the control
//! group of the container's first process.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use astraforge_core::id::SandboxId;

use super::{engine::Engine, names};
use crate::oom::read;

/// Where each sandbox's kills are counted. Found once, because it is asked around every command.
#[derive(Debug, Default)]
pub(super) struct Counters(Mutex<HashMap<SandboxId, Option<PathBuf>>>);

impl Counters {
    /// Counts the kills of sandbox `id`; `None` where it cannot be told.
    pub(super) async fn count(&self, engine: &Engine, id: SandboxId) -> Option<u64> {
        let known = self.lock().get(&id).cloned();
        let file = match known {
            Some(file) => file,
            None => {
                let file = find(engine, id).await;
                self.lock().insert(id, file.clone());
                file
            }
        };
        read(&file?)
    }

    pub(super) fn forget(&self, id: SandboxId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SandboxId, Option<PathBuf>>> {
        // No code panics while it holds the map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn find(engine: &Engine, id: SandboxId) -> Option<PathBuf> {
    let container = engine.inspect(&names::container(id)).await.ok()??;
    let pid = container.state?.pid.filter(|pid| *pid > 0)?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    counter(&groups, &container.id?).into_iter().find(|file| file.exists())
}

/// The files that may count, for a process whose control groups are these. An engine elsewhere means another process by
/// that number: only a group that is named after the container is the container's.
fn counter(groups: &str, container: &str) -> Vec<PathBuf> {
    let of_line = |line: &str| {
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(':')?;
        let below = path.trim_start_matches('/');
        if container.is_empty() || !below.contains(container) {
            return None;
        }
        match controllers {
            "" => Some(Path::new("/sys/fs/cgroup").join(below).join("memory.events")),
            names if names.split(',').any(|name| name == "memory") => {
                Some(Path::new("/sys/fs/cgroup/memory").join(below).join("memory.oom_control"))
            }
            _ => None,
        }
    };
    groups.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_a_container_is_found_and_no_other() {
        let groups = "12:pids:/docker/abc\n5:memory:/docker/abc\n0::/system.slice/docker-abc.scope\n";
        let files = [
            "/sys/fs/cgroup/memory/docker/abc/memory.oom_control",
            "/sys/fs/cgroup/system.slice/docker-abc.scope/memory.events",
        ];
        assert_eq!(counter(groups, "abc"), files.map(PathBuf::from));
        assert!(counter(groups, "another").is_empty());
        assert!(counter(groups, "").is_empty());
    }
}
