//! Puts a whole new content in place of a folder's old one, in steps that can be gone on with after a crash.
//!
//! A restore is staged beneath the folder itself, so that putting it in place is renames alone. The names say how far it
//! came: what is not complete is thrown away, what is complete is gone on with.

use std::{ffi::CStr, path::Path};

use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, CWD, FileType, Mode, OFlags, chmodat, mkdirat, openat, renameat, statat, unlinkat},
    io::Errno,
};

use super::{ArchiveError, at};
use crate::tree::{MAX_DEPTH, names, open_folder, remove};

/// Not complete yet.
const STAGING: &CStr = c".astraforge-staging";
/// Complete: its content is to be the folder's.
const COMPLETE: &CStr = c".astraforge-complete";
/// The old content, on its way out.
const OLD: &CStr = c".astraforge-old";
/// The old content, all of it.
const TRASH: &CStr = c".astraforge-trash";

/// Tells whether a name is one of this module's, which belongs into no archive.
pub(super) fn is_ours(name: &CStr) -> bool {
    [STAGING, COMPLETE, OLD, TRASH].contains(&name)
}

/// New content on its way in; dropped before it is complete, it is removed.
pub(super) struct Staging {
    folder: OwnedFd,
    /// Where the new content is put.
    pub(super) fresh: OwnedFd,
    complete: bool,
}

impl Staging {
    /// Begins, after what an earlier crash left was gone on with.
    pub(super) fn begin(path: &Path) -> Result<Self, ArchiveError> {
        finish(path)?;
        let folder = open_root(path)?;
        mkdirat(&folder, STAGING, Mode::RWXU).map_err(at(path))?;
        let fresh = open_folder(&folder, STAGING).map_err(at(path))?;
        Ok(Self { folder, fresh, complete: false })
    }

    /// From here on the new content will be in place, if not now then when [`finish`] is called next.
    pub(super) fn commit(mut self, path: &Path) -> Result<(), ArchiveError> {
        renameat(&self.folder, STAGING, &self.folder, COMPLETE).map_err(at(path))?;
        self.complete = true;
        finish(path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.complete {
            let _ = remove(&self.folder, STAGING, MAX_DEPTH);
        }
    }
}

/// Goes on with what a crash interrupted. A folder where nothing was interrupted is left alone.
pub(super) fn finish(path: &Path) -> Result<(), ArchiveError> {
    let folder = match open_root(path) {
        Ok(folder) => folder,
        // A file that is packed by itself, or nothing at all.
        Err(ArchiveError::File { source, .. })
            if matches!(source.kind(), std::io::ErrorKind::NotADirectory | std::io::ErrorKind::NotFound) =>
        {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    steps(&folder).map_err(at(path))
}

fn steps(folder: &OwnedFd) -> Result<(), Errno> {
    remove(folder, STAGING, MAX_DEPTH)?;
    if exists(folder, COMPLETE) {
        if !exists(folder, TRASH) {
            match mkdirat(folder, OLD, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            let old = open_folder(folder, OLD)?;
            move_all(folder, &old)?;
            renameat(folder, OLD, folder, TRASH)?;
        }
        let complete = open_folder(folder, COMPLETE)?;
        move_all(&complete, folder)?;
        unlinkat(folder, COMPLETE, AtFlags::REMOVEDIR)?;
    }
    remove(folder, TRASH, MAX_DEPTH)
}

fn move_all(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    for name in names(from)? {
        if !is_ours(&name) {
            move_one(from, &name, to)?;
        }
    }
    Ok(())
}

/// Moves one thing. A folder that its owner may not write cannot be given another parent; for this it may.
fn move_one(from: &OwnedFd, name: &CStr, to: &OwnedFd) -> Result<(), Errno> {
    match renameat(from, name, to, name) {
        Err(Errno::ACCESS | Errno::PERM) => {
            let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return Err(Errno::ACCESS);
            }
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            chmodat(from, name, mode | Mode::RWXU, AtFlags::empty())?;
            renameat(from, name, to, name)?;
            chmodat(to, name, mode, AtFlags::empty())
        }
        moved => moved,
    }
}

fn exists(folder: &OwnedFd, name: &CStr) -> bool {
    statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn open_root(path: &Path) -> Result<OwnedFd, ArchiveError> {
    openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(at(path))
}
