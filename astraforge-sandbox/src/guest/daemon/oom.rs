//! Tells of a command that used up the sandbox's memory, where the sandbox's own control group is shown inside of it.

use std::path::{Path, PathBuf};

use astraforge_core::session::Exit;

use crate::oom::{COUNTERS, Told, is_kill, read};

/// Where the counters of a container's own control group are, of version 2 and version 1.
const FOLDERS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory"];

/// The kernel's kills in this sandbox; without a counter nothing is told, and whoever sees it from outside may.
#[derive(Debug)]
pub(super) struct Kills {
    counter: Option<PathBuf>,
    told: Told,
}

impl Kills {
    pub(super) fn find() -> Self {
        let files = FOLDERS.iter().flat_map(|folder| COUNTERS.map(|name| Path::new(folder).join(name)));
        Self { counter: files.into_iter().find(|file| read(file).is_some()), told: Told::default() }
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.counter.as_deref().and_then(read).unwrap_or(0)
    }

    /// Says how a command really ended before which there were that many.
    pub(super) fn explain(&self, exit: Exit, before: u64) -> Exit {
        if is_kill(exit) { self.told.explain(exit, before, self.count()) } else { exit }
    }
}
