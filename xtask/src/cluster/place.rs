//! What a cluster occupies on this machine beside its processes: a folder, control groups, two addresses.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::process;

/// Where control groups are.
const CGROUPS: &str = "/sys/fs/cgroup";
/// What every control group of ours begins with.
const PREFIX: &str = "astraforge-cluster-";

/// The place of one cluster; dropped, it is removed.
#[derive(Debug)]
pub(super) struct Place {
    id: u32,
    folder: PathBuf,
    /// The first of four addresses: ours is the second, the node's the third.
    network: Ipv4Addr,
}

impl Place {
    /// Takes a place below `parent`, and removes those that dead processes left there.
    pub(super) fn take(parent: &Path) -> anyhow::Result<Self> {
        sweep(parent);
        let id = std::process::id();
        let place = Self { id, folder: parent.join(id.to_string()), network: free_network(id)? };
        place.remove();
        fs::create_dir_all(&place.folder).with_context(|| format!("cannot make {}", place.folder.display()))?;
        for hierarchy in hierarchies() {
            let group = hierarchy.join(place.cgroup());
            fs::create_dir(&group).with_context(|| format!("cannot make the control group {}", group.display()))?;
            inherit(&hierarchy, &group);
        }
        Ok(place)
    }

    /// The folder of everything large, and of the logs.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The control group that pods are put below.
    pub(super) fn cgroup(&self) -> String {
        format!("{PREFIX}{}", self.id)
    }

    /// The address of the API server.
    pub(super) fn node_address(&self) -> String {
        self.address(2)
    }

    /// Lays the cable to the node whose first process is `init`.
    pub(super) fn connect(&self, init: u32) -> anyhow::Result<()> {
        let name = format!("afc{}", self.id);
        let (ours, init) = (format!("{}/30", self.address(1)), init.to_string());
        let ip = |words: &[&str]| process::read(Command::new("ip").args(words)).map(drop);
        ip(&["link", "add", &name, "type", "veth", "peer", "name", "uplink", "netns", &init])?;
        ip(&["addr", "add", &ours, "dev", &name])?;
        ip(&["link", "set", &name, "up"])
    }

    /// Waits until none of the cluster's processes is left; it was killed before.
    pub(super) fn wait_until_empty(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while hierarchies().iter().any(|it| !is_empty(&it.join(self.cgroup()))) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn address(&self, offset: u32) -> String {
        Ipv4Addr::from(u32::from(self.network) + offset).to_string()
    }

    fn remove(&self) {
        remove(&self.folder, &self.cgroup());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes the places of processes that are gone.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_ok() && !Path::new("/proc").join(&name).exists() {
            remove(&entry.path(), &format!("{PREFIX}{name}"));
        }
    }
}

fn remove(folder: &Path, cgroup: &str) {
    for hierarchy in hierarchies() {
        remove_groups(&hierarchy.join(cgroup));
    }
    if folder.exists()
        && let Err(error) = fs::remove_dir_all(folder)
    {
        println!("could not remove {}: {error}", folder.display());
    }
}

/// Removes a control group and those below it; files in it are the kernel's.
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|it| it.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    // One that is not there, or not empty yet, is met again by the next sweep.
    _ = fs::remove_dir(group);
}

/// Whether no process is in a control group or below it.
fn is_empty(group: &Path) -> bool {
    let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let below = fs::read_dir(group).into_iter().flatten().flatten();
    processes.trim().is_empty()
        && below.filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir())).all(|it| is_empty(&it.path()))
}

/// The trees of control groups, one for each controller.
fn hierarchies() -> Vec<PathBuf> {
    let entries = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
    // Two names of one tree are listed as a link.
    entries.filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir())).map(|it| it.path()).collect()
}

/// A new group of `cpuset` has no processors until it is given some, and takes no process without.
fn inherit(hierarchy: &Path, group: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = fs::read(hierarchy.join(file)) {
            _ = fs::write(group.join(file), value);
        }
    }
}

/// Four addresses that this machine has no route to.
fn free_network(id: u32) -> anyhow::Result<Ipv4Addr> {
    for attempt in 0..64 {
        let slot = (id.wrapping_add(attempt * 97)) % (1 << 14);
        let network = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 213, 0, 0)) + slot * 4);
        let mut routes = Command::new("ip");
        routes.args(["-4", "route", "show", "to", "match", &format!("{network}/30")]);
        if process::read(&mut routes)?.lines().all(|route| route.starts_with("default")) {
            return Ok(network);
        }
    }
    bail!("this machine has routes to all of 10.213.0.0/16")
}
