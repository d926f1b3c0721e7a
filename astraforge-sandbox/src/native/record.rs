//! A sandbox's folder on the host: what is written there, whether its processes live, and how all of it is removed.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use astraforge_core::ports::machines::WorkspaceOrigin;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags},
    io::Errno,
    process::{Pid, PidfdFlags, Signal},
};
use serde::{Deserialize, Serialize};

use super::{cgroups, disk};

/// How long a killed process may take to leave the kernel's tables.
const DEATH: Duration = Duration::from_secs(30);

/// How often is looked whether a launcher has let go of its folder.
const GLANCE: Duration = Duration::from_millis(1);

/// The record's name in the folder.
const RECORD: &str = "record.json";

/// The name of the workspace in the folder.
const WORKSPACE: &str = "workspace";

/// The name of the file that holds the workspace where it is a file system of its own.
const DISK: &str = "workspace.ext4";

/// The name of the file that says that the workspace outlives the sandbox, and which id of the host owns what is in it.
const KEEP: &str = "keep";

/// The name of the file that says which server keeps a sandbox ready for whoever may want one.
const SERVER: &str = "server.json";

/// One sandbox's folder on the host.
///
/// Its lock is shared by all that use it, from the moment that it is made: the server until the launcher has answered,
/// and the launcher as long as it lives. Who wants to remove it has to have it alone.
#[derive(Debug, Clone)]
pub(crate) struct Folder(PathBuf);

/// A hold on a sandbox's folder.
#[derive(Debug)]
pub(crate) struct Lock(OwnedFd);

impl Lock {
    /// Returns the folder by the name that it has now.
    pub(crate) fn folder(&self) -> io::Result<Folder> {
        Ok(Folder(fs::read_link(format!("/proc/self/fd/{}", self.0.as_raw_fd()))?))
    }
}

/// Which processes and control groups belong to a sandbox. Written before each of them exists, so that a crash at any
/// moment leaves nothing that can't be found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The boot of the machine that the process ids belong to.
    pub(crate) boot: String,
    /// The launcher, which stays to clean up.
    pub(crate) keeper: Process,
    /// The first process inside.
    pub(crate) init: Option<Process>,
    /// The control groups.
    pub(crate) cgroups: Vec<PathBuf>,
}

/// A process that can't be mistaken for a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// In clock ticks since boot.
    pub(crate) start_time: u64,
}

impl Folder {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the folder, for its owner alone.
    pub(crate) fn create(&self) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(&self.0)
    }

    /// Reads the record; `None` before it is written, and for one of an earlier boot or version.
    pub(crate) fn record(&self) -> Option<Record> {
        let record: Record = serde_json::from_slice(&fs::read(self.0.join(RECORD)).ok()?).ok()?;
        (record.boot == boot()).then_some(record)
    }

    /// Replaces the record whole.
    pub(crate) fn write_record(&self, record: &Record) -> io::Result<()> {
        let new = self.0.join("record.new");
        fs::write(&new, serde_json::to_vec(record)?)?;
        fs::rename(new, self.0.join(RECORD))
    }

    /// Takes part in the folder's use: while the lock is held, nobody removes the folder.
    ///
    /// # Errors
    /// When the folder is gone or about to go.
    pub(crate) fn share(&self) -> io::Result<Lock> {
        Ok(self.lock(FlockOperation::NonBlockingLockShared)?.ok_or(io::ErrorKind::ResourceBusy)?)
    }

    /// Makes the folder, or takes over the workspace that a dead sandbox left in it, and shares it as the only one of all
    /// who try; `None` when it is another's.
    pub(crate) fn claim(&self) -> io::Result<Option<(Lock, WorkspaceOrigin)>> {
        if !self.settle_if_dead()? {
            return Ok(None);
        }
        // One at a time: a lock that is loosened from one's own to a shared one is nobody's for a moment.
        let _turn = self.turn()?;
        match self.create() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => created?,
        }
        // Others who want it alone only remove what is dead, and leave a folder that they find changed.
        let lock = match self.lock(FlockOperation::NonBlockingLockExclusive) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            lock => lock?,
        };
        let Some(lock) = lock else { return Ok(None) };
        if self.0.join(RECORD).exists() {
            return Ok(None); // another's, who came first and is dead again
        }
        match rustix::fs::flock(&lock.0, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            shared => shared?,
        }
        // Between the two locks it had none.
        let origin = if self.keeps_workspace() { WorkspaceOrigin::Kept } else { WorkspaceOrigin::Fresh };
        Ok(self.is_named(&lock)?.then_some((lock, origin)))
    }

    /// Waits for this one's turn among all who claim a folder beside this one.
    fn turn(&self) -> io::Result<Lock> {
        let parent = self.0.parent().ok_or(io::ErrorKind::NotFound)?;
        let turn = rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        loop {
            match rustix::fs::flock(&turn, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                taken => return Ok(taken.map(|()| Lock(turn))?),
            }
        }
    }

    /// Removes what a dead sandbox left, except for a workspace that is to be kept. `false` when it lives, or is being
    /// made: then its launcher or its server holds the lock.
    pub(crate) fn settle_if_dead(&self) -> io::Result<bool> {
        // Whoever makes a folder has the turn until it is locked; else it would be found unlocked, and taken for dead.
        match self.turn().and_then(|_turn| self.lock(FlockOperation::NonBlockingLockExclusive)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
            Ok(None) => Ok(false),
            Ok(Some(lock)) => self.clear(&lock).map(|()| true),
        }
    }

    /// Tells whether a sandbox lives here: its launcher does.
    pub(crate) fn is_live(&self) -> bool {
        self.record().is_some_and(|it| it.keeper.open().is_some())
    }

    /// Returns the folder of a workspace on disk.
    pub(crate) fn workspace(&self) -> PathBuf {
        self.0.join(WORKSPACE)
    }

    /// Returns the file that holds a workspace with a hard limit.
    pub(crate) fn disk(&self) -> PathBuf {
        self.0.join(DISK)
    }

    /// Has the workspace outlive the sandbox, until it is destroyed. What is in it belongs to `owner`.
    pub(crate) fn keep_workspace(&self, owner: Option<u32>) -> io::Result<()> {
        fs::write(self.0.join(KEEP), owner.map(|id| id.to_string()).unwrap_or_default())
    }

    /// Returns the host's id that owns what is in a kept workspace, where it was noted.
    pub(crate) fn owner(&self) -> Option<u32> {
        fs::read_to_string(self.0.join(KEEP)).ok()?.parse().ok()
    }

    /// Notes that this process keeps the sandbox ready for whoever may want one.
    pub(crate) fn keep_ready(&self) -> io::Result<()> {
        fs::write(self.0.join(SERVER), serde_json::to_vec(&Process::current()?)?)
    }

    /// Gives the sandbox of this folder, which was kept ready, a folder's name; `false` when something has it. With `keep`
    /// its workspace outlives it from here on, and belongs to that owner.
    pub(crate) fn hand_out(&self, to: &Self, keep: Option<Option<u32>>) -> io::Result<bool> {
        if let Some(owner) = keep {
            self.keep_workspace(owner)?;
        }
        match rustix::fs::renameat_with(CWD, &self.0, CWD, &to.0, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => return Ok(false),
            renamed => renamed?,
        }
        ignore_missing(rustix::fs::unlink(to.0.join(SERVER)))?;
        Ok(true)
    }

    /// Removes a sandbox that was kept ready, unless its server lives.
    pub(crate) fn remove_unless_ready(&self) -> io::Result<()> {
        let server = fs::read(self.0.join(SERVER)).ok().and_then(|it| serde_json::from_slice::<Process>(&it).ok());
        match server {
            Some(server) if server.open().is_some() => Ok(()),
            Some(_) => self.destroy(),
            // Not even that was written: it is being made, or its server died then.
            None => match self.turn().and_then(|_turn| self.lock(FlockOperation::NonBlockingLockExclusive)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Ok(None) => Ok(()),
                Ok(Some(lock)) => self.clear(&lock),
                Err(error) => Err(error),
            },
        }
    }

    fn forget_workspace(&self) -> io::Result<()> {
        ignore_missing(rustix::fs::unlink(self.0.join(KEEP)))
    }

    /// Tells whether there is a workspace that outlives its sandbox.
    pub(crate) fn keeps_workspace(&self) -> bool {
        self.0.join(KEEP).exists() && (self.workspace().is_dir() || self.disk().is_file())
    }

    /// Locks the folder; `None` when others use it in a way that does not go together.
    pub(super) fn lock(&self, operation: FlockOperation) -> io::Result<Option<Lock>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = Lock(rustix::fs::open(&self.0, flags, Mode::empty())?);
        match rustix::fs::flock(&lock.0, operation) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        // It may have been removed, and even made anew, between opening and locking.
        if self.is_named(&lock)? { Ok(Some(lock)) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Tells whether what was locked still is the folder of this name.
    fn is_named(&self, lock: &Lock) -> io::Result<bool> {
        let locked = rustix::fs::fstat(&lock.0)?;
        match rustix::fs::lstat(&self.0) {
            Err(Errno::NOENT) => Ok(false),
            named => Ok(named.map(|it| (it.st_dev, it.st_ino) == (locked.st_dev, locked.st_ino))?),
        }
    }

    /// Ends the sandbox's processes and removes all that it owns. What is not there is fine.
    pub(crate) fn destroy(&self) -> io::Result<()> {
        // First of all: whoever cleans up after a crash in the midst of this removes the workspace too.
        self.forget_workspace()?;
        let start = Instant::now();
        loop {
            if let Some(record) = self.record() {
                self.end(&record)?;
            }
            match self.lock(FlockOperation::NonBlockingLockExclusive) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
                Ok(Some(lock)) => {
                    // It may have come to be, and begun to keep its workspace, since.
                    self.forget_workspace()?;
                    return self.clear(&lock);
                }
                // A launcher that has not written its record yet, or is cleaning up.
                Ok(None) if start.elapsed() < DEATH => std::thread::sleep(GLANCE),
                Ok(None) => return Err(io::Error::new(io::ErrorKind::TimedOut, "its launcher does not let go of it")),
            }
        }
    }

    /// Removes what nobody uses any more, except for a workspace that is to be kept.
    fn clear(&self, _lock: &Lock) -> io::Result<()> {
        if let Some(record) = self.record() {
            // A launcher that was killed may have left its child on its way to notice.
            record.init.map_or(Ok(()), Process::kill)?;
            remove_cgroups(&record.cgroups)?;
        }
        self.leave()
    }

    /// Ends the processes: first the inside, after which the keeper cleans up and leaves by itself.
    fn end(&self, record: &Record) -> io::Result<()> {
        if let Some(init) = record.init {
            init.kill()?;
            if record.keeper.wait(DEATH)? {
                return Ok(());
            }
        }
        record.keeper.kill()
    }

    /// Removes the folder and all in it, except for a workspace that is to be kept. For those who know that no process
    /// of the sandbox is left.
    pub(crate) fn leave(&self) -> io::Result<()> {
        disk::wait_for_release(&self.disk(), DEATH)?;
        if !self.keeps_workspace() {
            return remove_tree(&self.0);
        }
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if [WORKSPACE, DISK, KEEP].iter().all(|kept| entry.file_name() != *kept) {
                ignore_missing(rustix::fs::unlink(entry.path()))?;
            }
        }
        Ok(())
    }
}

/// Removes control groups, all of them, and tells of the first that would not go.
pub(crate) fn remove_cgroups(folders: &[PathBuf]) -> io::Result<()> {
    folders.iter().map(|it| cgroups::remove(it)).fold(Ok(()), Result::and)
}

impl Process {
    /// The process that asks.
    pub(crate) fn current() -> io::Result<Self> {
        Self::of(rustix::process::getpid())
    }

    /// The process that has this id now.
    pub(crate) fn of(pid: Pid) -> io::Result<Self> {
        let pid = pid.as_raw_nonzero().get();
        let (_, start_time) = stat(pid)?;
        Ok(Self { pid, start_time })
    }

    /// Opens the process, if it still runs.
    fn open(self) -> Option<OwnedFd> {
        let fd = rustix::process::pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Read after opening: from here on the descriptor and this answer are about the same process.
        let (state, start_time) = stat(self.pid).ok()?;
        (start_time == self.start_time && !matches!(state, 'Z' | 'X')).then_some(fd)
    }

    /// Kills the process and waits until it is gone; for the first process of a sandbox, until all others are as well.
    pub(crate) fn kill(self) -> io::Result<()> {
        let Some(fd) = self.open() else { return Ok(()) };
        match rustix::process::pidfd_send_signal(&fd, Signal::KILL) {
            Err(error) if error != Errno::SRCH => return Err(error.into()),
            _ => {}
        }
        if wait(&fd, DEATH)? { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    /// Waits until the process is gone; `false` when the time is up first.
    fn wait(self, timeout: Duration) -> io::Result<bool> {
        self.open().map_or(Ok(true), |fd| wait(&fd, timeout))
    }
}

fn wait(pidfd: &OwnedFd, timeout: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    loop {
        match rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

/// Reads state and start time of a process.
fn stat(pid: i32) -> io::Result<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&stat).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat reads {stat:?}")))
}

/// The program's name comes second, in parentheses, and may hold spaces and parentheses itself.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.nth(18)?.parse().ok()?))
}

/// Names this boot of the machine.
pub(crate) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Removes a folder that an agent filled: any depth, any modes, never following a link.
///
/// Folders are moved up to the top before they are emptied, so that neither the stack nor the descriptors run out.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open_folder(rustix::fs::CWD, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        top => top?,
    };
    let mut n_moved = 0_u64;
    loop {
        let folders = remove_files(&top)?;
        if folders.is_empty() {
            break;
        }
        for name in folders {
            let folder = open_folder(&top, &name)?;
            for inner in remove_files(&folder)? {
                // A folder that is moved has its `..` rewritten, which needs the right to write to it.
                let _ = open_folder(&folder, &inner)?;
                rustix::fs::renameat(&folder, &inner, &top, format!(".removed-{n_moved}-{}", std::process::id()))?;
                n_moved += 1;
            }
            ignore_missing(rustix::fs::unlinkat(&top, &name, AtFlags::REMOVEDIR))?;
        }
    }
    ignore_missing(rustix::fs::rmdir(path))
}

/// Removes what is no folder, and returns the names of the folders.
fn remove_files(folder: &OwnedFd) -> io::Result<Vec<PathBuf>> {
    use std::os::unix::ffi::OsStrExt;
    let mut folders = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let name = Path::new(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()));
        if name == Path::new(".") || name == Path::new("..") {
            continue;
        }
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => folders.push(name.to_owned()),
            removed => ignore_missing(removed)?,
        }
    }
    Ok(folders)
}

/// Opens a folder for reading, giving its owner the rights back that an agent may have taken away.
fn open_folder(dir: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(&dir, path, flags | OFlags::PATH, Mode::empty())?;
    let proc = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&place));
    if fs::metadata(&proc)?.mode() & 0o700 != 0o700 {
        rustix::fs::chmod(&proc, Mode::RWXU)?;
    }
    Ok(rustix::fs::openat(&dir, path, flags | OFlags::RDONLY, Mode::empty())?)
}

fn ignore_missing(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_parentheses_is_read_over() {
        let stat = "7 (a) R b) S 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1 1";
        assert_eq!(parse_stat(stat), Some(('S', 4711)));
        assert_eq!(parse_stat("garbage"), None);
    }

    #[test]
    fn a_process_is_itself_and_not_one_with_its_id_that_started_later() {
        let process = Process::current().unwrap();
        assert!(process.open().is_some());
        assert!(Process { start_time: process.start_time + 1, ..process }.open().is_none());
    }

    #[test]
    fn a_folder_that_is_being_made_is_not_taken_for_one_that_is_left() {
        let home = tempfile::tempdir().unwrap();
        let is_done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // As every other process does when it starts.
            scope.spawn(|| {
                while !is_done.load(std::sync::atomic::Ordering::SeqCst) {
                    for entry in fs::read_dir(home.path()).unwrap().flatten() {
                        Folder::new(entry.path()).settle_if_dead().unwrap();
                    }
                }
            });
            for n in 0..400 {
                let folder = Folder::new(home.path().join(n.to_string()));
                let claimed = folder.claim();
                let is_claimed = claimed.is_ok_and(|it| it.is_some());
                if !is_claimed {
                    is_done.store(true, std::sync::atomic::Ordering::SeqCst);
                }
                assert!(is_claimed, "folder {n}");
            }
            is_done.store(true, std::sync::atomic::Ordering::SeqCst);
        });
    }

    #[test]
    fn a_folder_of_any_depth_and_mode_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let outside = home.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        let path = home.path().join("sandbox");
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::symlink(&outside, path.join("link")).unwrap();
        let mut at = open_folder(rustix::fs::CWD, &path).unwrap();
        for _ in 0..1500 {
            rustix::fs::mkdirat(&at, "deep", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&at, "side", Mode::empty()).unwrap();
            at = open_folder(&at, Path::new("deep")).unwrap();
        }
        fs::set_permissions(path.join("deep"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
        remove_tree(&path).unwrap();
        assert!(!path.exists() && outside.join("kept").exists());
        remove_tree(&path).expect("what is gone is gone");
    }
}
