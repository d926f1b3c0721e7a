//! The host's side: what a driver's host tells of a sandbox, and whether the host itself is well.

use std::{
    fmt, fs, io,
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use astraforge_core::{BoxError, id::SandboxId};
use async_trait::async_trait;

mod containers;

pub use self::containers::ContainerView;
use super::{Footprint, footprint::tree};

/// What the host of a driver's sandboxes tells of them; one for each kind of driver.
#[async_trait]
pub trait HostView: fmt::Debug + Send + Sync + 'static {
    /// What sandbox `id` occupies now; nothing when it does not exist.
    ///
    /// # Errors
    /// When the host cannot be asked.
    async fn footprint(&self, id: SandboxId) -> Result<Footprint, BoxError>;

    /// Names what the host still has of sandbox `id`, which occupied `before`: containers, folders, control groups.
    /// Processes are looked at by the caller.
    ///
    /// # Errors
    /// When the host cannot be asked.
    async fn remains(&self, id: SandboxId, before: &Footprint) -> Result<Vec<String>, BoxError>;

    /// How many folders the driver itself has on the host for its sandboxes, whether they live or not.
    fn n_folders(&self) -> usize {
        0
    }

    /// Tells whether the driver's own filter refuses a system call whatever its arguments are; `None` when the filter is
    /// another's.
    fn refuses_call(&self, _number: i64) -> Option<bool> {
        None
    }
}

/// Longer than any of this takes on a machine that is well.
const RESPONSIVE: Duration = Duration::from_secs(20);

fn failed(what: &str) -> impl FnOnce(io::Error) -> String {
    move |error| format!("the host cannot {what}: {error}")
}

/// Does what any program of the host does, and says what did not work.
pub(super) fn is_well() -> Result<(), String> {
    let start = Instant::now();
    let mut child = Command::new("/bin/true");
    let ended = child.stdin(Stdio::null()).stdout(Stdio::null()).status().map_err(failed("start a process"))?;
    if !ended.success() {
        return Err(format!("a process of the host fails: {ended}"));
    }
    let files: Result<Vec<_>, _> = (0..50).map(|_| fs::File::open("/dev/null")).collect();
    files.map_err(failed("open files"))?;
    UnixStream::pair().map_err(failed("make sockets"))?;
    rustix::pipe::pipe().map_err(io::Error::from).map_err(failed("make a pipe"))?;
    rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC)
        .map_err(io::Error::from)
        .map_err(failed("watch files"))?;
    rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC)
        .map_err(io::Error::from)
        .map_err(failed("wait for events"))?;
    rustix::fs::memfd_create("well", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(io::Error::from)
        .map_err(failed("make a file in memory"))?;
    rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY)
        .map_err(io::Error::from)
        .map_err(failed("make a terminal"))?;
    for (what, used, max) in [
        ("asynchronous input and output", "/proc/sys/fs/aio-nr", "/proc/sys/fs/aio-max-nr"),
        ("terminals", "/proc/sys/kernel/pty/nr", "/proc/sys/kernel/pty/max"),
        ("open files", "/proc/sys/fs/file-nr", "/proc/sys/fs/file-max"),
    ] {
        let number = |path| fs::read_to_string(path).ok()?.split_whitespace().next()?.parse::<u64>().ok();
        if let (Some(used), Some(max)) = (number(used), number(max))
            && used > max / 2
        {
            return Err(format!("the host has used {used} of {max} of {what}"));
        }
    }
    let took = start.elapsed();
    if took > RESPONSIVE { Err(format!("the host took {} s for next to nothing", took.as_secs())) } else { Ok(()) }
}

/// Passes one descriptor through a socket, as a server does that hands over connections.
pub(super) fn can_pass_descriptors() -> Result<(), String> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let (one, _two) = UnixStream::pair().map_err(|error| error.to_string())?;
    let passed = [std::os::fd::AsFd::as_fd(&one)];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&passed));
    sendmsg(&one, &[io::IoSlice::new(b"x")], &mut control, SendFlags::empty())
        .map(drop)
        .map_err(|error| format!("the host cannot pass a descriptor: {error}"))
}

/// What this process and its driver hold of their host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// Descriptors that are open.
    pub(super) descriptors: usize,
    /// Mounts that it sees.
    pub(super) mounts: usize,
    /// Processes that it started, and theirs; those too that have ended and wait to be reaped.
    pub(super) processes: usize,
    /// Folders of the driver's sandboxes.
    pub(super) folders: usize,
    /// Memory, in bytes.
    pub(super) memory: u64,
}

impl Held {
    pub(super) fn now(host: &dyn HostView) -> Self {
        Self {
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().count(),
            processes: tree(std::process::id().cast_signed()).len(),
            folders: host.n_folders(),
            memory: resident(),
        }
    }

    /// Says what there is more of than `before`; memory goes up and down, and is the caller's to judge.
    pub(super) fn no_more_than(&self, before: &Self) -> Result<(), String> {
        // Descriptors that tokio and databases open when they please.
        const DESCRIPTORS: usize = 8;
        let counts = [
            ("descriptors", before.descriptors, self.descriptors, DESCRIPTORS),
            ("mounts", before.mounts, self.mounts, 0),
            ("processes", before.processes, self.processes, 0),
            ("folders", before.folders, self.folders, 0),
        ];
        match counts.iter().find(|(_, before, after, margin)| *after > before + margin) {
            Some((what, before, after, _)) => Err(format!("{before} {what} became {after}")),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { descriptors, mounts, processes, folders, .. } = self;
        write!(f, "{descriptors} descriptors, {mounts} mounts, {processes} processes, {folders} folders")
    }
}

/// Memory of this process, in bytes.
pub(super) fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|it| it.parse::<u64>().ok()).unwrap_or(0) * 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: Held = Held { descriptors: 12, mounts: 20, processes: 3, folders: 1, memory: 0 };

    #[test]
    fn one_mount_process_or_folder_more_is_told() {
        assert_eq!(HELD.no_more_than(&HELD), Ok(()));
        assert_eq!(Held { descriptors: 20, ..HELD }.no_more_than(&HELD), Ok(()));
        for (more, told) in [
            (Held { descriptors: 21, ..HELD }, "12 descriptors became 21"),
            (Held { mounts: 21, ..HELD }, "20 mounts became 21"),
            (Held { processes: 4, ..HELD }, "3 processes became 4"),
            (Held { folders: 2, ..HELD }, "1 folders became 2"),
        ] {
            assert_eq!(more.no_more_than(&HELD), Err(told.to_owned()));
        }
    }
}
