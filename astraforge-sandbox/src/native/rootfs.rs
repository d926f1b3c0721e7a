//! The file system a sandbox sees, put together from what its plan shows of the host.

use std::{
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    mount::{MountAttrFlags, UnmountFlags},
};

use super::{
    launch_spec::{AtStep, Failure, LaunchSpec, WorkspacePlan},
    mounts,
    root_plan::{RootPlan, Shown},
};

/// Where the agent's own files live.
pub(super) const HOME: &str = "/home/agent";

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Parts of `/proc` that say more about the host than a sandbox should know.
const HIDDEN_PROC: [&str; 14] = [
    "acpi",
    "asound",
    "bus",
    "config.gz",
    "interrupts",
    "kallsyms",
    "kcore",
    "keys",
    "kmsg",
    "latency_stats",
    "modules",
    "sched_debug",
    "scsi",
    "timer_list",
];

/// Parts of `/proc` that steer the host.
const READ_ONLY_PROC: [&str; 4] = ["fs", "irq", "sys", "sysrq-trigger"];

/// Mounts of the host, copied while the launcher still resolves paths as itself.
pub(super) struct Sources {
    at: OwnedFd,
    shown: Vec<(OwnedFd, PathBuf)>,
    devices: Vec<(OwnedFd, &'static str)>,
    workspace: Option<OwnedFd>,
}

impl Sources {
    /// Copies what `spec` names. A workspace that is a file system of its own is `disk`.
    pub(super) fn open(spec: &LaunchSpec, disk: Option<OwnedFd>) -> Result<Self, Failure> {
        let at = rustix::fs::open(&spec.folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .at("open the sandbox's folder")?;
        let shown = spec.shape.root.shown.iter().map(|Shown { source, target }| {
            let tree = mounts::copy_with(source, mounts::READ_ONLY).at(format_args!("show {}", source.display()))?;
            Ok((tree, target.clone()))
        });
        let devices = DEVICES.into_iter().map(|name| {
            let tree = mounts::copy_with(&Path::new("/dev").join(name), mounts::DEVICE)
                .at(format_args!("show /dev/{name}"))?;
            Ok((tree, name))
        });
        let workspace = match spec.shape.workspace {
            WorkspacePlan::Memory(_) => None,
            WorkspacePlan::Limited(_) => disk,
            WorkspacePlan::Disk => {
                Some(mounts::copy_with(&spec.folder.join("workspace"), mounts::WRITABLE).at("mount the workspace")?)
            }
        };
        Ok(Self {
            at,
            shown: shown.collect::<Result<_, Failure>>()?,
            devices: devices.collect::<Result<_, Failure>>()?,
            workspace,
        })
    }

    /// Puts the sandbox's file system together and leaves the host's behind.
    pub(super) fn into_root(self, spec: &LaunchSpec) -> Result<(), Failure> {
        let root = Root::new(&self.at)?;
        root.layout(&spec.shape.root)?;
        for (tree, name) in self.devices {
            let target = format!("dev/{name}");
            root.file(&target, "")?;
            mounts::attach(tree, &root.0, &target).at(format_args!("mount /{target}"))?;
        }
        root.mount_system(spec.host_id.is_some())?;
        root.mount_writable(spec, self.workspace)?;
        for (tree, target) in self.shown {
            root.show(tree, &target)?;
        }
        root.enter()
    }
}

/// The new root, a file system in memory.
struct Root(OwnedFd);

impl Root {
    fn new(at: &OwnedFd) -> Result<Self, Failure> {
        let options = [("size", "1m"), ("nr_inodes", "4096"), ("mode", "0755")];
        let root = mounts::fresh("tmpfs", &options, mounts::WRITABLE).at("make the root file system")?;
        mounts::attach_over(&root, at).at("attach the root file system")?;
        Ok(Self(root))
    }

    /// Makes the folders, links and small files that every sandbox has.
    fn layout(&self, plan: &RootPlan) -> Result<(), Failure> {
        for folder in
            ["dev", "dev/pts", "dev/shm", "etc", "home", "home/agent", "proc", "run", "sys", "tmp", "var", "workspace"]
        {
            self.folder(folder)?;
        }
        for (link, target) in &plan.links {
            self.link(link, target)?;
        }
        for (link, target) in [
            ("dev/fd", "/proc/self/fd"),
            ("dev/stdin", "/proc/self/fd/0"),
            ("dev/stdout", "/proc/self/fd/1"),
            ("dev/stderr", "/proc/self/fd/2"),
            ("dev/ptmx", "pts/ptmx"),
            ("etc/mtab", "/proc/self/mounts"),
            ("var/tmp", "/tmp"),
            ("var/run", "/run"),
        ] {
            self.link(link, target)?;
        }
        self.file("etc/passwd", include_str!("etc/passwd"))?;
        self.file("etc/group", include_str!("etc/group"))?;
        self.file("etc/hosts", include_str!("etc/hosts"))?;
        self.file("etc/nsswitch.conf", include_str!("etc/nsswitch.conf"))?;
        self.file("etc/hostname", "sandbox\n")?;
        self.file("etc/resolv.conf", "")
    }

    fn mount_system(&self, private_id: bool) -> Result<(), Failure> {
        let quiet = mounts::WRITABLE | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        self.mount("proc", "proc", &[], quiet)?;
        if !private_id {
            self.leave_half_of_the_watchers()?;
        }
        for name in READ_ONLY_PROC {
            self.over_proc(name, mounts::copy(&self.0, &Path::new("proc").join(name)))?;
        }
        for name in HIDDEN_PROC {
            let target = Path::new("proc").join(name);
            match rustix::fs::statat(&self.0, &target, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => {
                    self.over_proc(name, mounts::copy(&self.0, Path::new("sys")))?;
                }
                Ok(_) => self.over_proc(name, mounts::copy(&self.0, Path::new("dev/null")))?,
                Err(_) => {}
            }
        }
        // All sandboxes of the machine share its terminals, of which there are 3072 as a rule.
        let options = [("ptmxmode", "0666"), ("mode", "0620"), ("max", "64")];
        self.mount("dev/pts", "devpts", &options, mounts::DEVICE)
    }

    /// Keeps the sandbox from using up what watches files for the user whose id it shares, the server's own.
    fn leave_half_of_the_watchers(&self) -> Result<(), Failure> {
        let step = "limit the watching of files";
        for kind in ["instances", "watches"] {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let of_user = format!("proc/sys/fs/inotify/max_user_{kind}");
            let of_user = match rustix::fs::openat(&self.0, &of_user, flags, Mode::empty()) {
                Err(rustix::io::Errno::NOENT) => continue, // this kernel watches no files
                opened => io::read_to_string(std::fs::File::from(opened.at(step)?)).at(step)?,
            };
            let half = of_user.trim().parse::<u64>().at(step)? / 2;
            let limit = format!("proc/sys/user/max_inotify_{kind}");
            let limit =
                rustix::fs::openat(&self.0, &limit, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).at(step)?;
            std::fs::File::from(limit).write_all(half.to_string().as_bytes()).at(step)?;
        }
        Ok(())
    }

    /// Lays a read-only mount over a part of `/proc`, where this kernel has it.
    fn over_proc(&self, name: &str, tree: rustix::io::Result<OwnedFd>) -> Result<(), Failure> {
        let step = || format!("protect /proc/{name}");
        let tree = match tree {
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            tree => tree.at(step())?,
        };
        mounts::restrict(&tree, MountAttrFlags::MOUNT_ATTR_RDONLY | mounts::DEVICE).at(step())?;
        mounts::attach(tree, &self.0, &format!("proc/{name}")).at(step())
    }

    fn mount_writable(&self, spec: &LaunchSpec, workspace: Option<OwnedFd>) -> Result<(), Failure> {
        const MIB: u64 = 1024 * 1024;
        self.memory("tmp", spec.shape.tmp_size, "1777")?;
        self.memory("home/agent", spec.shape.tmp_size, "0755")?;
        self.memory("run", 16 * MIB, "0755")?;
        self.memory("dev/shm", 64 * MIB, "1777")?;
        match (workspace, spec.shape.workspace) {
            (None, WorkspacePlan::Memory(size)) => self.memory("workspace", size, "0755"),
            (Some(tree), _) => mounts::attach(tree, &self.0, "workspace").at("attach the workspace"),
            (None, _) => Err("it was not opened").at("attach the workspace"),
        }
    }

    /// Mounts a file system in memory that holds `size` bytes, and a file for each 4 KiB of them.
    fn memory(&self, target: &str, size: u64, mode: &str) -> Result<(), Failure> {
        let (inodes, size) = ((size / 4096).max(1024).to_string(), size.to_string());
        let options = [("size", size.as_str()), ("nr_inodes", inodes.as_str()), ("mode", mode)];
        self.mount(target, "tmpfs", &options, mounts::WRITABLE)
    }

    fn mount(
        &self,
        target: &str,
        kind: &str,
        options: &[(&str, &str)],
        attributes: MountAttrFlags,
    ) -> Result<(), Failure> {
        let step = || format!("mount /{target}");
        let tree = mounts::fresh(kind, options, attributes).at(step())?;
        mounts::attach(tree, &self.0, target).at(step())
    }

    /// Attaches a folder or file of the host at the absolute path `target`, making the folders above it.
    fn show(&self, tree: OwnedFd, target: &Path) -> Result<(), Failure> {
        let step = || format!("mount {}", target.display());
        let is_folder =
            rustix::fs::fstat(&tree).map(|s| rustix::fs::FileType::from_raw_mode(s.st_mode).is_dir()).at(step())?;
        let place = self.place(target, is_folder).at(step())?;
        mounts::attach_over(tree, place).at(step())
    }

    /// Opens the mount point `target`, making what is missing. Links are followed as they will be inside.
    fn place(&self, target: &Path, is_folder: bool) -> io::Result<OwnedFd> {
        let names: Vec<_> = target
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(Ok(name)),
                Component::RootDir => None,
                _ => Some(Err(io::Error::other("the path in the sandbox is not absolute and plain"))),
            })
            .collect::<io::Result<_>>()?;
        let mut at = PathBuf::new();
        let mut place = self.open(Path::new("."))?;
        for (i, name) in names.iter().enumerate() {
            at.push(name);
            let open = self.open(&at);
            place = match open {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if i + 1 == names.len() && !is_folder {
                        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::EXCL;
                        rustix::fs::openat(&place, *name, flags, Mode::from_raw_mode(0o644))?;
                    } else {
                        rustix::fs::mkdirat(&place, *name, Mode::from_raw_mode(0o755))?;
                    }
                    self.open(&at)?
                }
                open => open?,
            };
        }
        Ok(place)
    }

    fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(&self.0, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?)
    }

    fn folder(&self, path: &str) -> Result<(), Failure> {
        rustix::fs::mkdirat(&self.0, path, Mode::from_raw_mode(0o755)).at(format_args!("make /{path}"))
    }

    fn link(&self, path: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<(), Failure> {
        let path = path.as_ref();
        rustix::fs::symlinkat(target.as_ref(), &self.0, path).at(format_args!("make /{}", path.display()))
    }

    fn file(&self, path: &str, contents: &str) -> Result<(), Failure> {
        let step = || format!("write /{path}");
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, path, flags, Mode::from_raw_mode(0o644)).at(step())?;
        std::fs::File::from(file).write_all(contents.as_bytes()).at(step())
    }

    /// Makes this the root of the process, lets go of the host's, and closes it for writing.
    fn enter(self) -> Result<(), Failure> {
        let step = "change the root file system";
        rustix::process::fchdir(&self.0).at(step)?;
        rustix::process::pivot_root(".", ".").at(step)?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).at("leave the host's file system")?;
        rustix::process::chdir("/").at(step)?;
        // Only the root itself: what is mounted below has its own attributes already.
        let root = rustix::mount::open_tree(CWD, "/", rustix::mount::OpenTreeFlags::OPEN_TREE_CLOEXEC).at(step)?;
        mounts::restrict_one(root.as_fd(), mounts::READ_ONLY).at("make the root file system read-only")
    }
}
