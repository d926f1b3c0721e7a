//! The host of containers, when it is this machine: what its own `/proc` tells, whichever engine made them.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use astraforge_core::{BoxError, id::SandboxId};
use async_trait::async_trait;

use super::HostView;
use crate::attack::{Footprint, HostProcess, footprint::tree};

/// This machine as the host of containers, of Docker or of a cluster's node.
///
/// A container's first process is found by the host name that its engine gave it. That takes the right to read its
/// environment; without it, or when the containers run elsewhere, their processes cannot be looked at.
#[derive(Debug, Default)]
pub struct ContainerView {
    /// Whether any container was ever found here.
    is_here: AtomicBool,
}

impl ContainerView {
    /// The first processes of the containers of a sandbox.
    fn first_processes(id: SandboxId) -> Vec<HostProcess> {
        let name = format!("HOSTNAME=sandbox-{id}");
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|it| it.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|it| *it == 0).any(|it| it.starts_with(name.as_bytes()))
        })
        .filter_map(HostProcess::find)
        .filter(|it| it.status("NSpid").is_some_and(|it| it.split_whitespace().last() == Some("1")))
        .collect()
    }
}

#[async_trait]
impl HostView for ContainerView {
    async fn footprint(&self, id: SandboxId) -> Result<Footprint, BoxError> {
        let first = Self::first_processes(id);
        let processes: Vec<_> = first.iter().flat_map(|it| tree(it.pid)).collect();
        let paths = first.iter().flat_map(|it| cgroups(it.pid)).collect();
        let is_here = self.is_here.fetch_or(!processes.is_empty(), Ordering::Relaxed) || !processes.is_empty();
        Ok(Footprint { processes: is_here.then_some(processes), paths, ..Footprint::default() })
    }

    async fn remains(&self, id: SandboxId, before: &Footprint) -> Result<Vec<String>, BoxError> {
        let mut left: Vec<_> =
            before.paths.iter().filter(|it| it.exists()).map(|it| it.display().to_string()).collect();
        left.extend(Self::first_processes(id).iter().map(|it| format!("process {} ({})", it.pid, it.name)));
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        left.extend(mounts.lines().filter(|it| it.contains(&id.to_string())).map(|it| format!("the mount {it}")));
        Ok(left)
    }
}

/// The control groups of a process that are its container's own.
fn cgroups(pid: i32) -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let theirs = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut paths = folders(&own, &theirs);
    paths.retain(|it| it.is_dir());
    paths
}

/// Where the groups of `theirs` may be that are not among `own`, both as `/proc` tells them: below the hierarchy's own
/// folder, or in the only one that there is. The root is nobody's own: a process is in it until its engine has moved it,
/// and again once it has ended.
fn folders(own: &str, theirs: &str) -> Vec<PathBuf> {
    let others = theirs.lines().filter(|it| !own.lines().any(|own| own == *it));
    let paths = others.filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        let hierarchy = controllers.strip_prefix("name=").unwrap_or(controllers);
        let top = PathBuf::from("/sys/fs/cgroup");
        (!path.is_empty()).then(|| [top.join(path), top.join(hierarchy).join(path)])
    });
    paths.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_a_container_are_those_that_the_server_is_not_in_without_the_root() {
        let own = "5:memory:/server\n4:cpu,cpuacct:/\n1:name=systemd:/docker/b\n0::/\n";
        let theirs = "5:memory:/\n4:cpu,cpuacct:/docker/a\n1:name=systemd:/docker/b\n0::/docker/a\n";
        let found = folders(own, theirs);
        let expected = ["docker/a", "cpu,cpuacct/docker/a", "docker/a", "docker/a"];
        assert_eq!(found, expected.map(|it| PathBuf::from("/sys/fs/cgroup").join(it)));
    }
}
