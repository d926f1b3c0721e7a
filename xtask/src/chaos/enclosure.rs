//! Keeps all that a run starts below this very process, so that whatever is there is the run's own.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use rustix::process::getpid;

/// The control groups whose limits sandboxes are given.
const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", ""];

/// Makes orphans this process's children and, where it may, has their control groups beneath its own.
#[derive(Debug)]
pub(crate) struct Enclosure {
    /// Each group that was made, and the one that this process was in.
    groups: Vec<(PathBuf, PathBuf)>,
    folders: Vec<PathBuf>,
}

impl Enclosure {
    /// Closes this process in.
    pub(crate) fn enter() -> io::Result<Self> {
        rustix::process::set_child_subreaper(Some(getpid()))?;
        let memberships = fs::read_to_string("/proc/self/cgroup")?;
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
        let mut groups = Vec::new();
        for controller in CONTROLLERS {
            let own = group_of(&memberships, controller).zip(mount_of(&mountinfo, controller));
            let Some((path, mount)) = own else { continue };
            let own = mount.join(path.trim_start_matches('/'));
            let folder = own.join(format!("astraforge-chaos-{}.scope", process::id()));
            if join(&folder.join("runner")).is_ok() {
                groups.push((folder, own));
            }
        }
        let folders = groups.iter().map(|(folder, _)| folder.clone()).collect();
        Ok(Self { groups, folders })
    }

    /// The groups beneath which those of sandboxes are; none where an ordinary user may make none.
    pub(crate) fn groups(&self) -> &[PathBuf] {
        &self.folders
    }
}

impl Drop for Enclosure {
    fn drop(&mut self) {
        _ = rustix::process::set_child_subreaper(None);
        for (folder, own) in &self.groups {
            _ = fs::write(own.join("cgroup.procs"), process::id().to_string());
            _ = fs::remove_dir(folder.join("runner"));
            _ = fs::remove_dir(folder);
        }
    }
}

/// Makes a control group and enters it. A subgroup of a scope is what service managers give to those who make groups
/// of their own, and what the drivers look for.
fn join(runner: &Path) -> io::Result<()> {
    fs::create_dir_all(runner)?;
    let joined = fs::write(runner.join("cgroup.procs"), process::id().to_string());
    if joined.is_err() {
        _ = fs::remove_dir(runner);
        _ = runner.parent().map(fs::remove_dir);
    }
    joined
}

/// The group of this process that has a controller; the empty one is version 2.
fn group_of<'a>(memberships: &'a str, controller: &str) -> Option<&'a str> {
    memberships.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        names.split(',').any(|name| name == controller).then_some(path)
    })
}

/// Where the hierarchy of a controller is mounted.
fn mount_of(mountinfo: &str, controller: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut kind = kind.split_whitespace();
        let (kind, options) = (kind.next()?, kind.nth(1)?);
        let fits = match (kind, controller) {
            ("cgroup2", "") => true,
            ("cgroup", controller) if !controller.is_empty() => options.split(',').any(|option| option == controller),
            _ => false,
        };
        // Where only a part of the tree is seen, paths would not fit.
        let mut place = place.split_whitespace().skip(3);
        (place.next()? == "/" && fits).then_some(())?;
        place.next().map(PathBuf::from)
    })
}

#[cfg(test)]
mod tests {
    use super::{group_of, mount_of};

    const MEMBERSHIPS: &str = "4:memory:/a/b\n3:cpu,cpuacct:/c\n0::/d\n";
    const MOUNTS: &str = "\
        30 24 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        31 24 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        32 24 0:28 /part /elsewhere rw - cgroup cgroup rw,pids\n";

    #[test]
    fn groups_are_found_in_both_versions() {
        assert_eq!(group_of(MEMBERSHIPS, "memory"), Some("/a/b"));
        assert_eq!(group_of(MEMBERSHIPS, "cpu"), Some("/c"));
        assert_eq!(group_of(MEMBERSHIPS, ""), Some("/d"));
        assert_eq!(group_of(MEMBERSHIPS, "pids"), None);
        assert_eq!(mount_of(MOUNTS, "memory"), Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(mount_of(MOUNTS, ""), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_of(MOUNTS, "pids"), None);
    }
}
