//! Moves between filesystems: a copy that is put in place whole, before what was copied is removed.

use std::{
    ffi::CStr,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

use astraforge_core::files::{Existing, FileErrorKind};
use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, fchmod, futimens, mkdirat, openat,
        readlinkat, renameat, renameat_with, statat, symlinkat, utimensat,
    },
    io::Errno,
};

use super::place::{fail, failure, io_failure};
use crate::{
    guest::frame::Failure,
    tree::{MAX_DEPTH, names, open_folder, remove},
};

/// Moves what has `name` in `from` to `new_name` in `to`, by copying.
pub(super) fn move_by_copying(
    (from, name): (&OwnedFd, &CStr),
    (to, new_name): (&OwnedFd, &CStr),
    existing: Existing,
) -> Result<(), Failure> {
    let draft = std::ffi::CString::new(format!(".astraforge-{}-move.part", std::process::id()))
        .map_err(|error| fail(FileErrorKind::Other, &error.to_string()))?;
    let placed = copy((from, name), (to, &draft), MAX_DEPTH).and_then(|()| {
        match existing {
            Existing::Replace => renameat(to, &draft, to, new_name),
            Existing::Keep => renameat_with(to, &draft, to, new_name, RenameFlags::NOREPLACE),
        }
        .map_err(failure)
    });
    if placed.is_err() {
        let _ = remove(to, &draft, MAX_DEPTH);
        return placed;
    }
    remove(from, name, MAX_DEPTH).map_err(failure)
}

fn copy((from, name): (&OwnedFd, &CStr), (to, new_name): (&OwnedFd, &CStr), depth: usize) -> Result<(), Failure> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failure)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let mut source = File::from(openat(from, name, flags, Mode::empty()).map_err(failure)?);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut target = File::from(openat(to, new_name, flags, Mode::RUSR | Mode::WUSR).map_err(failure)?);
            io::copy(&mut source, &mut target).map_err(io_failure)?;
            fchmod(&target, mode).map_err(failure)?;
            futimens(target.as_fd(), &times(&stat)).map_err(failure)
        }
        FileType::Symlink => {
            let target = readlinkat(from, name, Vec::new()).map_err(failure)?;
            symlinkat(&target, to, new_name).map_err(failure)?;
            utimensat(to, new_name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW).map_err(failure)
        }
        FileType::Directory if depth > 0 => {
            let source = open_folder(from, name).map_err(failure)?;
            mkdirat(to, new_name, Mode::RWXU).map_err(failure)?;
            let target = open_folder(to, new_name).map_err(failure)?;
            for name in names(&source).map_err(failure)? {
                copy((&source, &name), (&target, &name), depth - 1)?;
            }
            fchmod(&target, mode).map_err(failure)?;
            futimens(&target, &times(&stat)).map_err(failure)
        }
        FileType::Directory => Err(failure(Errno::LOOP)),
        _ => Err(fail(FileErrorKind::NotAFile, "it holds a socket, a pipe or a device, which cannot be copied")),
    }
}

fn times(stat: &Stat) -> Timestamps {
    let nanos = |nanos: u64| i64::try_from(nanos).unwrap_or(0);
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: nanos(stat.st_atime_nsec) },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: nanos(stat.st_mtime_nsec) },
    }
}
