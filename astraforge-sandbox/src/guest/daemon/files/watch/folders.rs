//! The folders of a watch: which there are, what the kernel says of them, and what that means.

use std::{
    collections::{HashMap, HashSet},
    ffi::{CString, OsStr, OsString},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use astraforge_core::files::{FileChange, FileErrorKind, WatchRequest};
use rustix::{
    fs::{
        FileType, Mode, OFlags, ResolveFlags, fstat,
        inotify::{self, CreateFlags, Event, ReadFlags, WatchFlags},
        openat, openat2,
    },
    io::Errno,
};

use super::{
    super::place::{Place, fail, failure},
    Stop,
};
use crate::{
    guest::frame::Failure,
    tree::{self, Found, Next},
};

/// Folders that one watch looks at.
const MAX_FOLDERS: usize = 8192;
/// Things in new folders that are remembered as told already.
const MAX_TOLD: usize = 65_536;
/// How the names of unfinished files and restores begin. They are nobody's business.
const OURS: &[u8] = b".astraforge-";

/// One piece of news of the kernel's.
pub(super) struct News {
    folder: i32,
    what: ReadFlags,
    name: Option<OsString>,
}

impl From<&Event<'_>> for News {
    fn from(event: &Event<'_>) -> Self {
        let name = event.file_name().map(|name| OsString::from_vec(name.to_bytes().to_vec()));
        Self { folder: event.wd(), what: event.events(), name }
    }
}

/// How a change is told.
pub(super) type Tell<'a> = &'a mut dyn FnMut(&Path, FileChange) -> io::Result<()>;

/// All folders of a watch.
pub(super) struct Folders {
    inotify: OwnedFd,
    /// What is watched. No descriptor of it is held: with one, the kernel would not tell that it was removed.
    place: Place,
    /// The absolute path of the root.
    path: PathBuf,
    /// The one thing in the root that is watched.
    only: Option<OsString>,
    recursive: bool,
    /// Paths below the root by the kernel's number.
    known: HashMap<i32, PathBuf>,
    /// What was told when its folder was found, and of which the kernel may tell again.
    told: HashSet<PathBuf>,
}

impl AsFd for Folders {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl Folders {
    /// Begins to watch, before anything is told.
    pub(super) fn begin(request: &WatchRequest) -> Result<Self, Failure> {
        let place = Place::find(&request.roots, &request.path)?;
        let found = place.open(OFlags::PATH)?;
        let is_folder = FileType::from_raw_mode(fstat(&found).map_err(failure)?.st_mode) == FileType::Directory;
        let (root, path, only) = if is_folder {
            (found, place.path(), None)
        } else {
            let (folder, name) = place.parent()?;
            let path = place.path().parent().unwrap_or(Path::new("/")).to_owned();
            (folder, path, Some(OsString::from_vec(name.into_bytes())))
        };
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let mut folders = Self {
            inotify: inotify::init(flags).map_err(no_room)?,
            place,
            path,
            recursive: request.recursive && only.is_none(),
            only,
            known: HashMap::new(),
            told: HashSet::new(),
        };
        folders.add(root.as_fd(), Path::new("")).map_err(no_room)?;
        if folders.recursive {
            folders.add_below(Path::new(""))?;
        }
        Ok(folders)
    }

    /// Another handle on the kernel's news.
    pub(super) fn inotify(&self) -> Result<OwnedFd, Errno> {
        rustix::io::fcntl_dupfd_cloexec(&self.inotify, 3)
    }

    /// The path that is watched.
    pub(super) fn shown(&self) -> PathBuf {
        self.only.as_ref().map_or_else(|| self.path.clone(), |name| self.path.join(name))
    }

    /// Learns a piece of news and tells what it means. Returns whether there can be more.
    pub(super) fn learn(&mut self, news: &News, tell: Tell<'_>) -> Result<bool, Stop> {
        if news.what.contains(ReadFlags::QUEUE_OVERFLOW) {
            tell(&self.shown(), FileChange::Overflowed)?;
            // Folders may have come that nobody told of.
            if self.recursive {
                self.add_below(Path::new("")).map_err(Stop::Failed)?;
            }
            return Ok(true);
        }
        if news.what.contains(ReadFlags::IGNORED) {
            return Ok(self.known.remove(&news.folder).is_none_or(|folder| !folder.as_os_str().is_empty()));
        }
        let Some(folder) = self.known.get(&news.folder) else { return Ok(true) };
        match &news.name {
            Some(name) if self.concerns(name) => {
                let below = folder.join(name);
                self.learn_of(&below, news.what, tell).map(|()| true)
            }
            Some(_) => Ok(true),
            // What happens to a folder itself is told by the one above it, if that is watched.
            None if folder.as_os_str().is_empty() => self.learn_of_root(news.what, tell),
            None => Ok(true),
        }
    }

    /// Notes that all news were learnt that there were.
    pub(super) fn caught_up(&mut self) {
        self.told.clear();
    }

    fn concerns(&self, name: &OsStr) -> bool {
        !name.as_bytes().starts_with(OURS) && self.only.as_ref().is_none_or(|only| only == name)
    }

    fn learn_of_root(&self, what: ReadFlags, tell: Tell<'_>) -> Result<bool, Stop> {
        if what.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT) {
            tell(&self.shown(), FileChange::Removed)?;
            return Ok(false);
        }
        if self.only.is_none() {
            tell(&self.path, FileChange::Modified)?;
        }
        Ok(true)
    }

    fn learn_of(&mut self, below: &Path, what: ReadFlags, tell: Tell<'_>) -> Result<(), Stop> {
        let path = self.path.join(below);
        let is_folder = what.contains(ReadFlags::ISDIR);
        if what.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
            self.told.remove(below);
            if is_folder {
                self.forget(below);
            }
            tell(&path, FileChange::Removed)?;
        } else if what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            // Something that was found with its folder is new only once; what is moved over it is another.
            if self.told.remove(below) && what.contains(ReadFlags::CREATE) {
                return Ok(());
            }
            tell(&path, FileChange::Created)?;
            if is_folder && self.recursive {
                self.adopt(below, tell)?;
            }
        } else {
            tell(&path, FileChange::Modified)?;
        }
        Ok(())
    }

    /// Takes a new folder in, and tells what is in it by now.
    fn adopt(&mut self, below: &Path, tell: Tell<'_>) -> Result<(), Stop> {
        let mut heard = Ok(());
        let told = self.walk(below, &mut |folders, path| {
            if path == below || heard.is_err() {
                return true;
            }
            heard = tell(&folders.path.join(path), FileChange::Created);
            folders.told.len() < MAX_TOLD && folders.told.insert(path.to_owned())
        });
        heard?;
        if told.is_err() {
            tell(&self.path.join(below), FileChange::Overflowed)?;
        }
        Ok(())
    }

    fn add_below(&mut self, below: &Path) -> Result<(), Failure> {
        self.walk(below, &mut |_, _| true)
    }

    /// Visits what is below a folder; each folder is watched from before it is looked into.
    fn walk(&mut self, below: &Path, visit: &mut dyn FnMut(&mut Self, &Path) -> bool) -> Result<(), Failure> {
        // It may be gone again, or something else by now, of which there will be news.
        let Some(folder) = self.open(below)? else { return Ok(()) };
        tree::walk(folder.as_fd(), &CString::from(c"."), below, &mut |found: &Found<'_>| {
            let name = found.path.file_name().unwrap_or_default();
            if found.path != below && name.as_bytes().starts_with(OURS) {
                return Ok(Next::Over);
            }
            if !visit(self, found.path) {
                return Err(fail(FileErrorKind::TooLarge, "too much came at once"));
            }
            if found.kind() != FileType::Directory {
                return Ok(Next::Over);
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let added = openat(found.folder, found.name, flags, Mode::empty())
                .and_then(|folder| self.add(folder.as_fd(), found.path));
            match added {
                Ok(()) => Ok(Next::Into),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => Ok(Next::Over),
                Err(errno) => Err(no_room(errno)),
            }
        })
    }

    /// Opens a folder below the root, through no link; `None` where there is none that can be read.
    fn open(&self, below: &Path) -> Result<Option<OwnedFd>, Failure> {
        use FileErrorKind::{NotADirectory, NotFound, OutsideRoots, PermissionDenied};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = match self.place.open(flags) {
            Ok(root) => root,
            Err(Failure::File { kind: NotFound | NotADirectory | OutsideRoots | PermissionDenied, .. }) => {
                return Ok(None);
            }
            Err(failure) => return Err(failure),
        };
        let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(&root, below, flags, Mode::empty(), how) {
            Ok(folder) => Ok(Some(folder)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::XDEV) => Ok(None),
            Err(errno) => Err(failure(errno)),
        }
    }

    fn add(&mut self, folder: BorrowedFd<'_>, below: &Path) -> Result<(), Errno> {
        if self.known.len() >= MAX_FOLDERS {
            return Err(Errno::NOSPC);
        }
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::MOVE
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let number = inotify::add_watch(&self.inotify, format!("/proc/self/fd/{}", folder.as_raw_fd()), flags)?;
        self.known.insert(number, below.to_owned());
        Ok(())
    }

    /// Forgets a folder that was moved away, and those below it.
    fn forget(&mut self, below: &Path) {
        let gone: Vec<i32> =
            self.known.iter().filter(|(_, path)| path.starts_with(below)).map(|(number, _)| *number).collect();
        for number in gone {
            self.known.remove(&number);
            // The kernel has done so already when the folder was removed.
            let _ = inotify::remove_watch(&self.inotify, number);
        }
    }
}

fn no_room(errno: Errno) -> Failure {
    match errno {
        Errno::NOSPC | Errno::MFILE | Errno::NFILE => fail(
            FileErrorKind::TooLarge,
            &format!("more folders than can be watched, which are at most {MAX_FOLDERS}: watch a folder further down"),
        ),
        errno => failure(errno),
    }
}
