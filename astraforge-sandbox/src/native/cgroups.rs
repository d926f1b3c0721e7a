//! Control groups: which limits this machine lets us set, and how they are set.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use astraforge_core::session::{Limit, Limits, Strictness};
use serde::{Deserialize, Serialize};

use crate::driver::{DriverError, Enforcement};

/// The folders beneath which this process may make control groups, by what they limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cgroups {
    parents: BTreeMap<Controller, Parent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Controller {
    Memory,
    Pids,
    Cpu,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }
}

/// How the groups begin by which is tried what works; the process that tries follows.
const PROBE: &str = "astraforge-probe-";
/// How often this process has tried.
static N_PROBES: AtomicU32 = AtomicU32::new(0);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parent {
    version: Version,
    folder: PathBuf,
}

/// One control group to make, and what to write into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CgroupPlan {
    /// Its folder.
    pub(crate) folder: PathBuf,
    /// File, value, and whether a kernel without that file is fine.
    pub(crate) settings: Vec<(String, String, bool)>,
}

impl Cgroups {
    /// Finds out by trying which limits can be set beneath this process's own control groups.
    pub(crate) fn probe() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let mut found = Self::of(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        found.parents.retain(|controller, parent| parent.settle(*controller));
        found
    }

    /// Reads from the kernel's tables where this process's own control groups are.
    fn of(mountinfo: &str, memberships: &str) -> Self {
        let mut parents = BTreeMap::new();
        for line in memberships.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            for controller in Controller::ALL {
                let version = match controllers {
                    "" => Version::V2,
                    list if list.split(',').any(|it| it == controller.name()) => Version::V1,
                    _ => continue,
                };
                // A controller is in one hierarchy only, and version 1 names the ones it has.
                if version == Version::V2 && parents.contains_key(&controller) {
                    continue;
                }
                if let Some(folder) = folder(mountinfo, version, controller, path) {
                    parents.insert(controller, Parent { version, folder });
                }
            }
        }
        Self { parents }
    }

    /// How a limit holds here.
    pub(crate) fn enforcement(&self, controller: Controller) -> Enforcement {
        if self.parents.contains_key(&controller) { Enforcement::Hard } else { Enforcement::None }
    }

    /// Plans the control groups named `name` that hold `limits`.
    ///
    /// # Errors
    /// [`DriverError::Unsupported`] when a required limit cannot be set here.
    pub(crate) fn plan(&self, name: &str, limits: &Limits) -> Result<Vec<CgroupPlan>, DriverError> {
        let mut plans: BTreeMap<PathBuf, Vec<(String, String, bool)>> = BTreeMap::new();
        let wanted = [
            (Controller::Memory, Some(limits.memory.map_value(|it| it.as_bytes()))),
            // The kernel limits processes without control groups too; this one holds for setuid tricks as well.
            (Controller::Pids, Some(Limit::best_effort(u64::from(limits.processes.max) + 1))),
            (Controller::Cpu, limits.cpu_millis.map(|it| it.map_value(u64::from))),
        ];
        for (controller, limit) in wanted {
            match (self.parents.get(&controller), limit) {
                (Some(parent), Some(limit)) => {
                    plans.entry(parent.folder.join(name)).or_default().extend(parent.settings(controller, limit.max));
                }
                (None, Some(Limit { strictness: Strictness::Required, .. })) => return Err(unsupported(controller)),
                _ => {}
            }
        }
        Ok(plans.into_iter().map(|(folder, settings)| CgroupPlan { folder, settings }).collect())
    }
}

trait MapValue<T> {
    fn map_value<U>(self, f: impl FnOnce(T) -> U) -> Limit<U>;
}

impl<T> MapValue<T> for Limit<T> {
    fn map_value<U>(self, f: impl FnOnce(T) -> U) -> Limit<U> {
        Limit { max: f(self.max), strictness: self.strictness }
    }
}

impl Parent {
    /// Settles for a folder that works: this process's own group, else the one above it that was delegated.
    fn settle(&mut self, controller: Controller) -> bool {
        if self.works(controller) {
            return true;
        }
        let Some(folder) = self.delegated_above() else { return false };
        let above = Self { version: self.version, folder };
        let works = above.works(controller);
        if works {
            *self = above;
        }
        works
    }

    /// The group above, where a service manager put this process into a subgroup of what it delegated to the unit
    /// (systemd's `DelegateSubgroup=`). Version 2 takes no limited groups beside processes, so that is the place for
    /// them; any other group above belongs to somebody else.
    fn delegated_above(&self) -> Option<PathBuf> {
        let is_unit = |folder: &Path| {
            folder.extension().is_some_and(|kind| ["service", "scope", "slice"].iter().any(|unit| kind == *unit))
        };
        let above = self.folder.parent()?;
        (self.version == Version::V2 && !is_unit(&self.folder) && is_unit(above)).then(|| above.to_owned())
    }

    /// Tries whether a control group can be made here and has the files that the limit needs.
    fn works(&self, controller: Controller) -> bool {
        if self.version == Version::V2 {
            // Refused where this process itself is in the group; then an administrator has to delegate a subtree.
            let _ = fs::write(self.folder.join("cgroup.subtree_control"), format!("+{}", controller.name()));
        }
        self.sweep();
        let turn = N_PROBES.fetch_add(1, Ordering::Relaxed);
        let probe = self.folder.join(format!("{PROBE}{}-{}-{turn}", std::process::id(), controller.name()));
        // One of an earlier process that had the same number.
        let _ = fs::remove_dir(&probe);
        let is_there = |file: &str| fs::OpenOptions::new().write(true).open(probe.join(file)).is_ok();
        for _ in 0..3 {
            let made = fs::create_dir(&probe).is_ok();
            let has_files =
                self.settings(controller, 1 << 30).iter().all(|(file, _, optional)| *optional || is_there(file));
            let is_left = fs::remove_dir(&probe).is_ok();
            // Where it is gone, somebody who does not see this process has swept it away.
            if !made || is_left {
                return made && has_files;
            }
        }
        false
    }

    /// Removes the probes of processes that were killed while they probed. A group with anything in it stays.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|it| it.strip_prefix(PROBE)?.split('-').next()?.parse::<u32>().ok());
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }

    fn settings(&self, controller: Controller, max: u64) -> Vec<(String, String, bool)> {
        let required = |file: &str, value: String| (file.to_owned(), value, false);
        let optional = |file: &str, value: String| (file.to_owned(), value, true);
        match (self.version, controller) {
            (Version::V1, Controller::Memory) => vec![
                required("memory.limit_in_bytes", max.to_string()),
                optional("memory.memsw.limit_in_bytes", max.to_string()),
                // Version 1 counts what lies in TCP sockets apart, and only where there is a limit for it. Each socket
                // still gets its first 90 KiB or so; the large buffers are what this takes away.
                optional("memory.kmem.tcp.limit_in_bytes", (max / 8).to_string()),
            ],
            (Version::V2, Controller::Memory) => {
                vec![required("memory.max", max.to_string()), optional("memory.swap.max", "0".to_owned())]
            }
            (_, Controller::Pids) => vec![required("pids.max", max.to_string())],
            (Version::V1, Controller::Cpu) => vec![
                required("cpu.cfs_period_us", "100000".to_owned()),
                required("cpu.cfs_quota_us", (max * 100).max(1000).to_string()),
            ],
            (Version::V2, Controller::Cpu) => vec![required("cpu.max", format!("{} 100000", (max * 100).max(1000)))],
        }
    }
}

impl CgroupPlan {
    /// Makes the control group and sets its limits.
    pub(super) fn make(&self) -> io::Result<()> {
        match fs::create_dir(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        for (file, value, optional) in &self.settings {
            match fs::write(self.folder.join(file), value) {
                Err(error) if !optional || error.kind() != io::ErrorKind::NotFound => {
                    return Err(io::Error::new(error.kind(), format!("{file} = {value}: {error}")));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Moves the calling process, which has one thread, into the control group.
    ///
    /// A thread that moves itself by the `tasks` file of version 1 spares the kernel a lock over all processes of the
    /// machine, which may take it ten milliseconds to get.
    pub(super) fn enter(&self) -> io::Result<()> {
        let write = |file| fs::OpenOptions::new().write(true).open(self.folder.join(file))?.write_all(b"0");
        match write("tasks") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => write("cgroup.procs"),
            entered => entered,
        }
    }
}

/// Removes a control group whose processes are gone; one that is not there is fine.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    // The last process may still be on its way out of the kernel's tables.
    for _ in 0..200 {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(Duration::from_millis(5)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return Ok(()),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("{} still has processes", folder.display())))
}

/// Finds the folder of control group `path` in the file system that `version` and `controller` name.
fn folder(mountinfo: &str, version: Version, controller: Controller, path: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, target) = (place.next()?, place.next()?);
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next()?, kind.nth(1).unwrap_or_default());
        let fits = match version {
            Version::V2 => name == "cgroup2",
            Version::V1 => name == "cgroup" && options.split(',').any(|it| it == controller.name()),
        };
        let below = Path::new(path).strip_prefix(root).ok().or_else(|| Path::new(path).strip_prefix("/").ok())?;
        fits.then(|| Path::new(target).join(below))
    })
}

fn unsupported(controller: Controller) -> DriverError {
    DriverError::Unsupported {
        what: format!(
            "a required limit on {}",
            match controller {
                Controller::Memory => "memory",
                Controller::Pids => "processes",
                Controller::Cpu => "processor time",
            }
        ),
        reason: format!(
            "this server may not make control groups with the `{}` controller; start it with a delegated subtree \
             (systemd 254 or newer): systemd-run --user --pty -p Delegate=yes -p DelegateSubgroup=server astraforge up",
            controller.name()
        ),
    }
}

#[cfg(test)]
mod tests {
    use astraforge_core::session::ByteSize;

    use super::*;

    const MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    #[track_caller]
    fn check(memberships: &str, controller: Controller, folder: Option<&str>) {
        let found = Cgroups::of(MOUNTS, memberships);
        assert_eq!(found.parents.get(&controller).map(|it| it.folder.as_path()), folder.map(Path::new));
    }

    #[test]
    fn own_groups_are_found_where_they_are_mounted() {
        let memberships = "4:memory:/docker/abc/server\n1:cpu,cpuacct:/\n0::/user.slice";
        check(memberships, Controller::Memory, Some("/sys/fs/cgroup/memory/server"));
        check(memberships, Controller::Cpu, Some("/sys/fs/cgroup/cpu,cpuacct"));
        check(memberships, Controller::Pids, Some("/sys/fs/cgroup/unified/user.slice"));
        check("4:memory:/elsewhere", Controller::Cpu, None);
    }

    #[test]
    fn probes_of_processes_that_are_gone_are_swept_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let name = |pid: u32| format!("{PROBE}{pid}-memory-0");
        for name in [name(child.id()), name(std::process::id()), "other".to_owned(), format!("{PROBE}x")] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        Parent { version: Version::V1, folder: home.path().to_owned() }.sweep();
        assert!(!home.path().join(name(child.id())).exists());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 3);
    }

    #[track_caller]
    fn check_above(version: Version, own: &str, above: Option<&str>) {
        let parent = Parent { version, folder: own.into() };
        assert_eq!(parent.delegated_above().as_deref(), above.map(Path::new));
    }

    #[test]
    fn only_a_subgroup_of_a_unit_looks_above_itself() {
        check_above(
            Version::V2,
            "/sys/fs/cgroup/a.slice/forge.service/server",
            Some("/sys/fs/cgroup/a.slice/forge.service"),
        );
        check_above(Version::V2, "/sys/fs/cgroup/a.slice/forge.service", None);
        check_above(Version::V2, "/sys/fs/cgroup", None);
        check_above(Version::V1, "/sys/fs/cgroup/memory/forge.service/server", None);
    }

    #[test]
    fn a_required_limit_that_cannot_be_set_is_refused_by_name() {
        let limits = Limits { memory: Limit::required(ByteSize::mib(64)), ..Limits::default() };
        let error = Cgroups::default().plan("x", &limits).unwrap_err();
        assert!(error.to_string().contains("a required limit on memory is not supported"), "{error}");
        assert!(error.to_string().contains("Delegate=yes"), "{error}");
    }

    #[test]
    fn a_best_effort_limit_that_cannot_be_set_is_left_out() {
        assert_eq!(Cgroups::default().plan("x", &Limits::default()).unwrap(), []);
    }

    #[test]
    fn version_two_puts_all_limits_into_one_group() {
        let parent = Parent { version: Version::V2, folder: "/cg".into() };
        let cgroups = Cgroups { parents: Controller::ALL.map(|it| (it, parent.clone())).into() };
        let limits = Limits { cpu_millis: Some(Limit::required(1500)), ..Limits::default() };
        let plans = cgroups.plan("x", &limits).unwrap();
        assert_eq!(plans.len(), 1);
        let has = |file: &str, value: &str| plans[0].settings.iter().any(|(f, v, _)| f == file && v == value);
        assert!(has("cpu.max", "150000 100000") && has("pids.max", "513") && has("memory.max", "4294967296"));
    }

    /// A folder stands for the kernel's: what is written there is what the kernel would be told.
    #[test]
    fn a_group_of_version_two_is_made_limited_and_entered() {
        let home = tempfile::tempdir().unwrap();
        let parent = Parent { version: Version::V2, folder: home.path().to_owned() };
        let cgroups = Cgroups { parents: Controller::ALL.map(|it| (it, parent.clone())).into() };
        let limits = Limits {
            memory: Limit::required(ByteSize::mib(64)),
            processes: Limit::required(9),
            cpu_millis: Some(Limit::required(5)),
            ..Limits::default()
        };
        let [plan] = &cgroups.plan("x", &limits).unwrap()[..] else { panic!("one group") };
        plan.make().unwrap();
        let folder = home.path().join("x");
        let told = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
        assert_eq!((told("memory.max").as_str(), told("memory.swap.max").as_str()), ("67108864", "0"));
        assert_eq!((told("pids.max").as_str(), told("cpu.max").as_str()), ("10", "1000 100000"));
        // Version 2 has no file that takes a single thread.
        fs::write(folder.join("cgroup.procs"), "").unwrap();
        plan.enter().unwrap();
        assert_eq!(told("cgroup.procs"), "0");
        plan.make().expect("one that is there already is fine");
    }

    #[test]
    fn a_group_whose_processes_are_gone_is_removed_and_one_that_is_gone_is_fine() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("x");
        fs::create_dir(&folder).unwrap();
        remove(&folder).unwrap();
        remove(&folder).unwrap();
        assert!(!folder.exists());
    }
}
