//! What a sandbox occupies on its host, as the host's own `/proc` tells it.

use std::{collections::HashMap, fs, path::PathBuf};

/// What a sandbox occupies on its host at a moment.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Footprint {
    /// The processes that run inside; `None` when they run on a machine that cannot be looked at.
    pub processes: Option<Vec<HostProcess>>,
    /// The processes of the host that stand by it, such as its launcher.
    pub keepers: Vec<HostProcess>,
    /// Folders and control groups.
    pub paths: Vec<PathBuf>,
}

/// A process as the host sees it; it can't be mistaken for a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostProcess {
    /// Its number on the host.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
    /// Its own name.
    pub name: String,
    /// Its threads.
    pub n_threads: u64,
    state: char,
    parent: i32,
}

impl HostProcess {
    /// Looks at a process; `None` when there is none.
    #[must_use]
    pub fn find(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, rest) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |it: usize| fields.get(it)?.parse::<u64>().ok();
        let state = fields.first()?.chars().next()?;
        let parent = fields.get(1)?.parse().ok()?;
        Some(Self { pid, start_time: number(19)?, name, n_threads: number(17)?, state, parent })
    }

    /// Tells whether it still runs; one that only waits to be reaped does not.
    #[must_use]
    pub fn lives(&self) -> bool {
        Self::find(self.pid).is_some_and(|it| it.start_time == self.start_time && !it.is_zombie())
    }

    /// Tells whether it has ended and waits for its parent.
    #[must_use]
    pub const fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Tells whether it is one of the guest's own, which the programs here never call themselves like.
    #[must_use]
    pub fn is_guest(&self) -> bool {
        // The kernel keeps 15 letters of a name.
        self.name == "astraforge-gues"
    }

    /// Reads a field of its `status`.
    #[must_use]
    pub fn status(&self, field: &str) -> Option<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        status.lines().find_map(|it| Some(it.strip_prefix(field)?.strip_prefix(':')?.trim().to_owned()))
    }

    /// Reads one of its limits: the soft and the hard one.
    #[must_use]
    pub fn limit(&self, name: &str) -> Option<(String, String)> {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.pid)).ok()?;
        let mut fields = limits.lines().find_map(|it| it.strip_prefix(name))?.split_whitespace();
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    }
}

/// All processes of this machine that descend from `first`, itself included.
pub(crate) fn tree(first: i32) -> Vec<HostProcess> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all: HashMap<i32, HostProcess> = pids
        .filter_map(|it| HostProcess::find(it.file_name().to_str()?.parse().ok()?))
        .map(|it| (it.pid, it))
        .collect();
    let descends = |pid: i32| {
        std::iter::successors(Some(pid), |it| all.get(it).map(|it| it.parent)).take(10_000).any(|it| it == first)
    };
    let mut found: Vec<_> = all.values().filter(|it| descends(it.pid)).cloned().collect();
    found.sort_by_key(|it| it.pid);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_and_its_death_seen() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = HostProcess::find(child.id().cast_signed()).unwrap();
        assert!(found.lives() && found.n_threads == 1);
        assert!(tree(std::process::id().cast_signed()).iter().any(|it| it.pid == found.pid));
        assert_eq!(found.status("Tgid"), Some(found.pid.to_string()));
        assert!(found.limit("Max open files").is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!found.lives());
    }
}
