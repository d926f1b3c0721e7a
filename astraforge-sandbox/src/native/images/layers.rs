//! Puts the layers of an image over each other. A layer is hostile: it may have been made by anybody.
//!
//! Paths are resolved by the kernel with the image as their root, as they will be inside a sandbox: a link leads to
//! where it leads there, and to nothing of the host. The last name of a path is never followed.

use std::{
    collections::HashSet,
    ffi::{CStr, CString, OsStr},
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, fchmod, futimens, linkat, mkdirat, openat,
        openat2, statat, symlinkat,
    },
    io::Errno,
};

use crate::{
    archive::{
        ArchiveError,
        members::{self, Bounds, Kind, Member, Origin},
    },
    tree::{self, MAX_DEPTH},
};

/// Begins the name of a member that hides one of a lower layer.
const WHITEOUT: &[u8] = b".wh.";
/// Names the member that hides all of a folder's lower content.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What is read and run by everybody, and written by its owner alone. No bit of it gives rights to whoever runs it.
const FOLDER: Mode = Mode::from_raw_mode(0o755);
const PROGRAM: Mode = Mode::from_raw_mode(0o755);
const FILE: Mode = Mode::from_raw_mode(0o644);

/// The file system of an image in the making.
pub(super) struct RootFs {
    root: OwnedFd,
    /// What all layers together may yet hold.
    left: Bounds,
    /// The folder that the last member lay in: the next one's as a rule.
    last: Option<(PathBuf, OwnedFd)>,
}

impl RootFs {
    /// Begins with an empty folder.
    pub(super) fn new(root: OwnedFd, bounds: Bounds) -> Self {
        Self { root, left: bounds, last: None }
    }

    /// Puts a layer, which is not compressed, over those before it.
    pub(super) fn add(&mut self, layer: impl Read) -> Result<(), ArchiveError> {
        // What this layer itself holds is not hidden by it, in whatever order its members come.
        let mut own = HashSet::new();
        self.last = None;
        let (n_entries, n_bytes) = members::read_plain(Origin::Layer, layer, self.left, &mut |member, contents| {
            if member.path.as_os_str().is_empty() {
                return Ok(());
            }
            if member.path.components().count() >= MAX_DEPTH {
                return Err(ArchiveError::Refused(format!("`{}` lies too deep", member.path.display())));
            }
            let path = member.path.clone();
            self.put(member, contents, &mut own).map_err(|error| match error {
                Failure::At(errno) => ArchiveError::File { path, source: errno.into() },
                Failure::Archive(error) => error,
            })
        })?;
        self.left.max_entries = self.left.max_entries.saturating_sub(n_entries);
        self.left.max_bytes = self.left.max_bytes.saturating_sub(n_bytes);
        Ok(())
    }

    fn put(&mut self, member: Member, contents: &mut dyn Read, own: &mut HashSet<PathBuf>) -> Result<(), Failure> {
        let parent = member.path.parent().unwrap_or(Path::new("")).to_owned();
        let name = c_name(member.path.file_name().unwrap_or_default())?;
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.hide(&parent, &name, own);
        }
        own.extend(member.path.ancestors().map(Path::to_owned).take_while(|it| !own.contains(it)).collect::<Vec<_>>());
        let folder = self.folder(&parent)?;
        let there = kind_of(&folder, &name)?;
        match (&member.kind, there) {
            (Kind::Folder, Some(FileType::Directory)) => return Ok(()),
            (_, None) => {}
            (_, Some(there)) => {
                // A folder or a link that goes may have been on the way to what was opened before.
                if there != FileType::RegularFile {
                    self.last = None;
                }
                tree::remove(&folder, &name, MAX_DEPTH)?;
            }
        }
        match member.kind {
            Kind::Folder => mkdirat(&folder, &name, FOLDER)?,
            Kind::Symlink(target) => {
                symlinkat(&target, &folder, &name)?;
                self.last = None;
            }
            Kind::Hardlink(to) => {
                let from = self.folder(to.parent().unwrap_or(Path::new("")))?;
                let from_name = c_name(to.file_name().unwrap_or_default())?;
                if kind_of(&from, &from_name)? != Some(FileType::RegularFile) {
                    let reason = format!("`{}` links to what is not a file", member.path.display());
                    return Err(ArchiveError::Refused(reason).into());
                }
                linkat(&from, &from_name, &folder, &name, AtFlags::empty())?;
            }
            Kind::File => write(&folder, &name, &member, contents)?,
        }
        Ok(())
    }

    /// Hides what lower layers hold.
    fn hide(&mut self, parent: &Path, name: &CStr, own: &HashSet<PathBuf>) -> Result<(), Failure> {
        self.last = None;
        let Some(folder) = self.existing(parent)? else { return Ok(()) };
        if name.to_bytes() == OPAQUE {
            return empty(&folder, parent, own, MAX_DEPTH);
        }
        let hidden = c_name(OsStr::from_bytes(&name.to_bytes()[WHITEOUT.len()..]))?;
        if [&b""[..], b".", b".."].contains(&hidden.as_bytes()) || own.contains(&parent.join(os(&hidden))) {
            return Ok(());
        }
        Ok(tree::remove(&folder, &hidden, MAX_DEPTH)?)
    }

    /// Opens a folder of the image, making it and those above it where no layer named them.
    fn folder(&mut self, path: &Path) -> Result<OwnedFd, Failure> {
        if let Some((_, folder)) = self.last.as_ref().filter(|(last, _)| last == path) {
            return Ok(rustix::io::fcntl_dupfd_cloexec(folder, 3)?);
        }
        let folder = match self.existing(path)? {
            Some(folder) => folder,
            None => self.make(path)?,
        };
        self.last = Some((path.to_owned(), rustix::io::fcntl_dupfd_cloexec(&folder, 3)?));
        Ok(folder)
    }

    fn make(&self, path: &Path) -> Result<OwnedFd, Failure> {
        let mut at = PathBuf::new();
        let mut folder = self.open(Path::new("."))?;
        for name in path {
            at.push(name);
            folder = match self.existing(&at)? {
                Some(there) => there,
                None => {
                    mkdirat(&folder, name, FOLDER)?;
                    self.open(&at)?
                }
            };
        }
        Ok(folder)
    }

    fn existing(&self, path: &Path) -> Result<Option<OwnedFd>, Failure> {
        match self.open(if path.as_os_str().is_empty() { Path::new(".") } else { path }) {
            Err(Errno::NOENT) => Ok(None),
            opened => Ok(Some(opened?)),
        }
    }

    fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }
}

/// Removes all that a folder holds but what this layer put there itself.
fn empty(folder: &OwnedFd, path: &Path, own: &HashSet<PathBuf>, depth: usize) -> Result<(), Failure> {
    for name in tree::names(folder)? {
        let inner = path.join(os(&name));
        if !own.contains(&inner) {
            tree::remove(folder, &name, MAX_DEPTH)?;
        } else if depth > 0 && kind_of(folder, &name)? == Some(FileType::Directory) {
            empty(&tree::open_folder(folder, &name)?, &inner, own, depth - 1)?;
        }
    }
    Ok(())
}

fn write(folder: &OwnedFd, name: &CStr, member: &Member, contents: &mut dyn Read) -> Result<(), Failure> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?);
    let mut buffer = vec![0; 128 * 1024];
    let mut left = member.size;
    while left > 0 {
        let n_bytes = contents.read(&mut buffer).map_err(ArchiveError::Damaged)?;
        if n_bytes == 0 {
            return Err(ArchiveError::Damaged(io::ErrorKind::UnexpectedEof.into()).into());
        }
        left -= n_bytes as u64;
        let failed = |source| ArchiveError::File { path: member.path.clone(), source };
        file.write_all(&buffer[..n_bytes]).map_err(failed)?;
    }
    fchmod(&file, if member.mode & 0o111 == 0 { FILE } else { PROGRAM })?;
    let time = Timespec { tv_sec: member.modified.0, tv_nsec: member.modified.1 };
    Ok(futimens(&file, &Timestamps { last_access: time, last_modification: time })?)
}

fn kind_of(folder: impl AsFd, name: &CStr) -> Result<Option<FileType>, Errno> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        stat => Ok(Some(FileType::from_raw_mode(stat?.st_mode))),
    }
}

fn c_name(name: &OsStr) -> Result<CString, Failure> {
    let wrong = |_| ArchiveError::Refused("a name contains a NUL byte".to_owned());
    Ok(CString::new(name.as_bytes()).map_err(wrong)?)
}

fn os(name: &CString) -> &OsStr {
    OsStr::from_bytes(name.as_bytes())
}

/// What stopped a member: the kernel, which its path is yet to be told of, or the archive.
enum Failure {
    At(Errno),
    Archive(ArchiveError),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::At(errno)
    }
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(error)
    }
}

#[cfg(test)]
mod tests;
