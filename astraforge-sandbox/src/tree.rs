//! Walks and removes trees of files, in order of name, without following a link.

use std::{
    ffi::{CStr, CString, OsStr},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, chmodat, openat, statat, unlinkat},
    io::Errno,
};

/// Folders deeper than this are refused: each holds a descriptor while it is walked.
pub(crate) const MAX_DEPTH: usize = 256;

/// Where a walk goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Into what was found, if it is a folder.
    Into,
    /// Past it.
    Over,
    /// Nowhere.
    Stop,
}

/// Why a walk failed, and where.
#[derive(Debug)]
pub(crate) struct WalkError {
    pub(crate) path: PathBuf,
    pub(crate) errno: Errno,
}

/// Something in the tree.
pub(crate) struct Found<'a> {
    /// Its absolute path.
    pub(crate) path: &'a Path,
    /// The folder it lies in.
    pub(crate) folder: BorrowedFd<'a>,
    /// Its name there.
    pub(crate) name: &'a CString,
    /// What it is.
    pub(crate) stat: Stat,
}

impl Found<'_> {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens a regular file, also one that its owner made unreadable.
    pub(crate) fn open(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        open_owned(self.folder, self.name, flags, self.stat.st_mode)
    }
}

/// Opens what this process owns; without permission, it is given for as long as opening takes.
fn open_owned(folder: BorrowedFd<'_>, name: &CString, flags: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
    match openat(folder, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let before = Mode::from_raw_mode(mode & 0o7777);
            chmodat(folder, name, before | Mode::RWXU, AtFlags::empty())?;
            let opened = openat(folder, name, flags, Mode::empty());
            let _ = chmodat(folder, name, before, AtFlags::empty());
            opened
        }
        opened => opened,
    }
}

/// A folder that its owner had closed to itself, open as long as it is walked: nobody keeps files from being kept so.
struct Unlocked<'a> {
    folder: &'a OwnedFd,
    before: Option<Mode>,
}

impl<'a> Unlocked<'a> {
    fn new(folder: &'a OwnedFd, mode: u32) -> Self {
        let before = Mode::from_raw_mode(mode & 0o7777);
        let is_closed = !before.contains(Mode::RUSR | Mode::XUSR);
        // Of another's folder it fails, and so does what follows.
        let opened = is_closed && rustix::fs::fchmod(folder, before | Mode::RWXU).is_ok();
        Self { folder, before: opened.then_some(before) }
    }
}

impl Drop for Unlocked<'_> {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            let _ = rustix::fs::fchmod(self.folder, before);
        }
    }
}

/// Visits what has that name in `folder` and all beneath it, folders before what they hold.
///
/// # Errors
/// That of `visit`, or of the kernel; a tree deeper than [`MAX_DEPTH`] is `ELOOP`.
pub(crate) fn walk<E: From<WalkError>>(
    folder: BorrowedFd<'_>,
    name: &CString,
    path: &Path,
    visit: &mut dyn FnMut(&Found<'_>) -> Result<Next, E>,
) -> Result<(), E> {
    let stat =
        statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| WalkError { path: path.to_owned(), errno })?;
    step(&Found { path, folder, name, stat }, MAX_DEPTH, visit).map(drop)
}

fn step<E: From<WalkError>>(
    found: &Found<'_>,
    depth: usize,
    visit: &mut dyn FnMut(&Found<'_>) -> Result<Next, E>,
) -> Result<Next, E> {
    let next = visit(found)?;
    if next != Next::Into || found.kind() != FileType::Directory {
        return Ok(next);
    }
    let failed = |path: &Path, errno| WalkError { path: path.to_owned(), errno };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match open_owned(found.folder, found.name, flags, found.stat.st_mode) {
        Ok(folder) => folder,
        // It vanished, or became something else.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Next::Into),
        Err(errno) => return Err(failed(found.path, errno).into()),
    };
    if depth == 0 {
        return Err(failed(found.path, Errno::LOOP).into());
    }
    let _open = Unlocked::new(&folder, found.stat.st_mode);
    for name in names(&folder).map_err(|errno| failed(found.path, errno))? {
        let path = found.path.join(OsStr::from_bytes(name.as_bytes()));
        match statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let found = Found { path: &path, folder: folder.as_fd(), name: &name, stat };
                if step(&found, depth - 1, visit)? == Next::Stop {
                    return Ok(Next::Stop);
                }
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(&path, errno).into()),
        }
    }
    Ok(Next::Into)
}

/// The names in a folder, in order.
pub(crate) fn names(folder: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Opens a folder, not a link to one.
pub(crate) fn open_folder(folder: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    openat(folder, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Removes what has that name, with all beneath. Nothing there is fine.
pub(crate) fn remove(folder: &OwnedFd, name: &CStr, depth: usize) -> Result<(), Errno> {
    let kind = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    if kind != FileType::Directory {
        return unlinkat(folder, name, AtFlags::empty());
    }
    let inner = match open_folder(folder, name) {
        Err(Errno::ACCESS) => {
            chmodat(folder, name, Mode::RWXU, AtFlags::empty())?;
            open_folder(folder, name)?
        }
        inner => inner?,
    };
    let left: Vec<CString> = names(&inner)?;
    if !left.is_empty() {
        // Its owner may have taken the right to remove from it.
        let _ = rustix::fs::fchmod(&inner, Mode::RWXU);
    }
    if depth == 0 {
        return Err(Errno::NAMETOOLONG);
    }
    for name in left {
        remove(&inner, &name, depth - 1)?;
    }
    unlinkat(folder, name, AtFlags::REMOVEDIR)
}
