//! The verbs that see and change what is where.

use std::{
    ffi::CString,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
};

use astraforge_core::files::{Entry, EntryKind, Existing, FileErrorKind, FileReply};
use chrono::DateTime;
use rustix::{
    fs::{AtFlags, FileType, OFlags, RenameFlags, Stat, fstat, readlinkat, renameat, renameat_with, statat, unlinkat},
    io::Errno,
};

use super::{
    place::{Place, fail, failure, shown},
    transfer,
};
use crate::{
    guest::frame::Failure,
    tree::{self, Found, MAX_DEPTH, Next},
};

/// The most entries of one answer.
const MAX_ENTRIES: usize = 20_000;

pub(super) fn stat(place: &Place) -> Result<FileReply, Failure> {
    if place.is_root() {
        let stat = fstat(place.open(OFlags::PATH)?).map_err(failure)?;
        return Ok(FileReply::Entry(entry(&place.path(), &stat, None)));
    }
    let (folder, name) = place.parent()?;
    let stat = statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failure)?;
    let found = Found { path: &place.path(), folder: folder.as_fd(), name: &name, stat };
    Ok(FileReply::Entry(described(&found)))
}

pub(super) fn list(place: &Place, depth: u32, limit: usize) -> Result<FileReply, Failure> {
    let folder = place.open(OFlags::RDONLY | OFlags::DIRECTORY)?;
    let (limit, root) = (limit.min(MAX_ENTRIES), place.path());
    let base = root.components().count();
    let (mut entries, mut truncated) = (Vec::new(), false);
    tree::walk(folder.as_fd(), &CString::from(c"."), &root, &mut |found: &Found<'_>| -> Result<_, Failure> {
        let level = found.path.components().count() - base;
        if level == 0 {
            return Ok(Next::Into);
        }
        if entries.len() == limit {
            truncated = true;
            return Ok(Next::Stop);
        }
        entries.push(described(found));
        Ok(if level < depth as usize { Next::Into } else { Next::Over })
    })?;
    Ok(FileReply::Entries { entries, truncated })
}

fn described(found: &Found<'_>) -> Entry {
    let target = (found.kind() == FileType::Symlink)
        .then(|| readlinkat(found.folder, found.name, Vec::new()).ok())
        .flatten()
        .map(|target| target.to_string_lossy().into_owned());
    entry(found.path, &found.stat, target)
}

fn entry(path: &Path, stat: &Stat, target: Option<String>) -> Entry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        _ => EntryKind::Other,
    };
    let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    Entry {
        path: shown(path),
        kind,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & 0o7777,
        modified_at: DateTime::from_timestamp(stat.st_mtime, nanos).unwrap_or_default(),
        target,
    }
}

pub(super) fn make_folder(place: &Place) -> Result<FileReply, Failure> {
    match place.make_folder() {
        Ok(()) => Ok(FileReply::Done),
        Err(Failure::File { kind: FileErrorKind::NotADirectory, .. }) => {
            Err(fail(FileErrorKind::NotADirectory, "something on the way is not a folder"))
        }
        Err(failure) => Err(failure),
    }
}

pub(super) fn rename(from: &Place, to: &Place, existing: Existing) -> Result<FileReply, Failure> {
    let (source, name) = from.parent()?;
    statat(&source, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failure)?;
    let (target, new_name) = to.make_parent()?;
    let renamed = match existing {
        Existing::Replace => renameat(&source, &name, &target, &new_name),
        Existing::Keep => renameat_with(&source, &name, &target, &new_name, RenameFlags::NOREPLACE),
    };
    match renamed {
        Ok(()) => Ok(FileReply::Done),
        Err(Errno::XDEV) => {
            transfer::move_by_copying((&source, &name), (&target, &new_name), existing).map(|()| FileReply::Done)
        }
        Err(Errno::INVAL) => Err(fail(FileErrorKind::InvalidArgument, "a folder cannot be moved into itself")),
        Err(errno) => Err(failure(errno)),
    }
}

pub(super) fn remove(place: &Place, recursive: bool) -> Result<FileReply, Failure> {
    let (folder, name) = place.parent()?;
    let stat = statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failure)?;
    let removed = match (FileType::from_raw_mode(stat.st_mode), recursive) {
        (FileType::Directory, true) => tree::remove(&folder, &name, MAX_DEPTH),
        (FileType::Directory, false) => unlinkat(&folder, &name, AtFlags::REMOVEDIR),
        _ => unlinkat(&folder, &name, AtFlags::empty()),
    };
    match removed {
        Ok(()) => Ok(FileReply::Done),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {
            Err(fail(FileErrorKind::IsDirectory, "the folder is not empty: ask for all that it holds to be removed"))
        }
        Err(errno) => Err(failure(errno)),
    }
}

/// The last part of a path, as bytes.
pub(super) fn file_name(path: &Path) -> &[u8] {
    path.file_name().map_or(b"", |name| name.as_bytes())
}
