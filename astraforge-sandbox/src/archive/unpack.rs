//! Puts an archive in place of what is there: all of it, or nothing.

use std::{
    ffi::{CString, OsStr},
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use astraforge_core::archive::{ArchiveSummary, UnpackRequest};
use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, chmodat, fchmod, futimens, linkat, mkdirat, openat,
        statat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};

use super::{
    ArchiveError, at,
    members::{self, Bounds, Kind, Member},
    root,
    swap::Staging,
};
use crate::tree::{MAX_DEPTH, open_folder};

/// Files are written in pieces of at most this size.
const PIECE: usize = 128 * 1024;

/// Replaces the content of folders by an archive's.
pub(crate) fn unpack(request: &UnpackRequest, input: impl Read) -> Result<ArchiveSummary, ArchiveError> {
    let mut places = Vec::new();
    for path in &request.replace {
        let path = root(path)?;
        places.push(Place { staging: Staging::begin(&path)?, path, folders: Vec::new() });
    }
    let bounds = Bounds { max_bytes: request.max_bytes, max_entries: request.max_entries };
    let mut summary = ArchiveSummary::default();
    members::read(request.compression, input, bounds, &mut |member, contents| {
        summary.n_entries += 1;
        summary.n_bytes += member.size;
        if summary.n_entries > bounds.max_entries {
            return Err(ArchiveError::TooLarge { what: "members", max: bounds.max_entries });
        }
        put(&mut places, member, contents)
    })?;
    for place in &places {
        place.close_folders()?;
    }
    for place in places {
        place.staging.commit(&place.path)?;
    }
    Ok(summary)
}

/// A folder that is replaced.
struct Place {
    path: PathBuf,
    staging: Staging,
    /// Folders and what they are to be once all is in them.
    folders: Vec<(PathBuf, u32, (i64, i64))>,
}

/// Finds the place a member belongs to, and its path there.
fn place_of<'a>(places: &'a mut [Place], path: &Path) -> Result<(&'a mut Place, PathBuf), ArchiveError> {
    let absolute = Path::new("/").join(path);
    let outside = || ArchiveError::Refused(format!("`{}` lies outside of what is replaced", path.display()));
    let place = places.iter_mut().find(|place| absolute.starts_with(&place.path)).ok_or_else(outside)?;
    let below = absolute.strip_prefix(&place.path).map_err(|_| outside())?.to_owned();
    if below.components().count() >= MAX_DEPTH {
        return Err(ArchiveError::Refused(format!("`{}` lies too deep", path.display())));
    }
    Ok((place, below))
}

fn put(places: &mut [Place], member: Member, contents: &mut dyn Read) -> Result<(), ArchiveError> {
    let source = match &member.kind {
        // Found before its own place is borrowed.
        Kind::Hardlink(to) => {
            let (place, below) = place_of(places, to)?;
            Some(place.parent(&below)?)
        }
        _ => None,
    };
    let (place, below) = place_of(places, &member.path)?;
    if below.as_os_str().is_empty() {
        // The folder itself is a mount point, and stays as it is.
        return Ok(());
    }
    if matches!(member.kind, Kind::Folder) {
        place.make_folder(&below)?;
        place.folders.push((below, member.mode, member.modified));
        return Ok(());
    }
    let full = Path::new("/").join(&member.path);
    let (folder, name) = place.parent(&below)?;
    match unlinkat(&folder, &name, AtFlags::empty()) {
        // The last of several members of one name counts.
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(at(&full)(errno)),
    }
    match member.kind {
        Kind::Symlink(target) => {
            symlinkat(&target, &folder, &name).map_err(at(&full))?;
            let _ = utimensat(&folder, &name, &times(member.modified), AtFlags::SYMLINK_NOFOLLOW);
            Ok(())
        }
        Kind::Hardlink(_) => {
            let (from, from_name) =
                source.ok_or_else(|| ArchiveError::Refused("a link without a target".to_owned()))?;
            let stat = statat(&from, &from_name, AtFlags::SYMLINK_NOFOLLOW).map_err(at(&full))?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(ArchiveError::Refused(format!("`{}` links to what is not a file", full.display())));
            }
            linkat(&from, &from_name, &folder, &name, AtFlags::empty()).map_err(at(&full))
        }
        _ => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = openat(&folder, &name, flags, Mode::RUSR | Mode::WUSR).map_err(at(&full))?;
            write(File::from(file), &full, contents, &member)
        }
    }
}

fn write(mut file: File, path: &Path, contents: &mut dyn Read, member: &Member) -> Result<(), ArchiveError> {
    let mut buffer = vec![0; usize::try_from(member.size).map_or(PIECE, |size| size.min(PIECE))];
    let mut left = member.size;
    while left > 0 {
        let n_bytes = contents.read(&mut buffer).map_err(ArchiveError::Damaged)?;
        if n_bytes == 0 {
            return Err(ArchiveError::Damaged(io::ErrorKind::UnexpectedEof.into()));
        }
        left -= n_bytes as u64;
        io::Write::write_all(&mut file, &buffer[..n_bytes])
            .map_err(|source| ArchiveError::File { path: path.to_owned(), source })?;
    }
    fchmod(&file, Mode::from_raw_mode(member.mode)).map_err(at(path))?;
    futimens(&file, &times(member.modified)).map_err(at(path))
}

impl Place {
    /// Opens the folder that `below` lies in, making it where the archive named none; returns it with the last name.
    fn parent(&self, below: &Path) -> Result<(OwnedFd, CString), ArchiveError> {
        let name = below.file_name().ok_or_else(|| ArchiveError::Refused("a member without a name".to_owned()))?;
        let folder = self.make_folder(below.parent().unwrap_or(Path::new("")))?;
        Ok((folder, c_name(name)?))
    }

    /// Opens a folder of the new content, making it and those above it. A link on the way is refused, wherever it leads.
    fn make_folder(&self, below: &Path) -> Result<OwnedFd, ArchiveError> {
        let full = self.path.join(below);
        let mut folder = rustix::io::fcntl_dupfd_cloexec(&self.staging.fresh, 3).map_err(at(&full))?;
        for part in below.components() {
            let name = c_name(part.as_os_str())?;
            match mkdirat(&folder, &name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(at(&full)(errno)),
            }
            folder = open_folder(&folder, &name).map_err(|errno| match errno {
                Errno::LOOP | Errno::NOTDIR => {
                    ArchiveError::Refused(format!("`{}` leads through what is not a folder", full.display()))
                }
                errno => at(&full)(errno),
            })?;
        }
        Ok(folder)
    }

    /// Gives folders their modes and times, the deepest first: until then all could be written.
    fn close_folders(&self) -> Result<(), ArchiveError> {
        let mut folders: Vec<_> = self.folders.iter().collect();
        folders.sort_by_key(|(path, ..)| std::cmp::Reverse(path.components().count()));
        for (below, mode, modified) in folders {
            let full = self.path.join(below);
            let (folder, name) = self.parent(below)?;
            utimensat(&folder, &name, &times(*modified), AtFlags::SYMLINK_NOFOLLOW).map_err(at(&full))?;
            chmodat(&folder, &name, Mode::from_raw_mode(*mode), AtFlags::empty()).map_err(at(&full))?;
        }
        Ok(())
    }
}

fn c_name(name: &OsStr) -> Result<CString, ArchiveError> {
    CString::new(name.as_bytes()).map_err(|_| ArchiveError::Refused("a name contains a NUL byte".to_owned()))
}

fn times((tv_sec, tv_nsec): (i64, i64)) -> Timestamps {
    let time = Timespec { tv_sec, tv_nsec };
    Timestamps { last_access: time, last_modification: time }
}
