//! Finds what a path means, inside the roots that a caller may use and nowhere else.
//!
//! The kernel resolves the path beneath the root (`openat2`), so that no link and no race leads out of it.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use astraforge_core::files::{FileErrorKind, Roots};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, mkdirat, open, openat, openat2},
    io::Errno,
};

use crate::{guest::frame::Failure, tree::WalkError};

/// A path, taken apart at the root it lies in.
#[derive(Debug, Clone)]
pub(super) struct Place {
    root: PathBuf,
    below: PathBuf,
}

impl Place {
    /// Takes a path apart. What is outside of all roots is refused without a look at it.
    pub(super) fn find(roots: &Roots, path: &str) -> Result<Self, Failure> {
        let refused = |reason: &str| Err(fail(FileErrorKind::InvalidArgument, reason));
        match path {
            "" => return refused("the path is empty"),
            path if path.contains('\0') => return refused("the path contains a NUL byte"),
            path if !path.starts_with('/') => return refused("the path is not absolute"),
            _ => {}
        }
        // Collapses `//` and `/./`; what `..` means is the kernel's to say.
        let path: PathBuf = Path::new(path).components().collect();
        let found = roots
            .0
            .iter()
            .map(Path::new)
            .filter(|root| path.starts_with(root))
            .max_by_key(|root| root.as_os_str().len());
        let Some(root) = found else { return Err(outside(roots)) };
        let below = path.strip_prefix(root).unwrap_or(Path::new("")).to_owned();
        Ok(Self { root: root.to_owned(), below })
    }

    /// Tells whether two paths lie in the same root.
    pub(super) fn share_root(roots: &Roots, one: &str, other: &str) -> bool {
        let root = |path| Self::find(roots, path).map(|place| place.root);
        matches!((root(one), root(other)), (Ok(one), Ok(other)) if one == other)
    }

    /// The path, absolute.
    pub(super) fn path(&self) -> PathBuf {
        self.root.join(&self.below)
    }

    /// Tells whether it is a root itself.
    pub(super) fn is_root(&self) -> bool {
        self.below.as_os_str().is_empty()
    }

    /// Opens what is there. A last link is followed, if it leads to something in the root.
    pub(super) fn open(&self, flags: OFlags) -> Result<OwnedFd, Failure> {
        self.resolve(&self.below, flags)
    }

    /// Opens the folder that it lies in, and returns it with the last name, which no link is followed for.
    pub(super) fn parent(&self) -> Result<(OwnedFd, CString), Failure> {
        let name = self.name()?;
        let folder = self.below.parent().unwrap_or(Path::new(""));
        Ok((self.resolve(folder, OFlags::RDONLY | OFlags::DIRECTORY)?, name))
    }

    /// Like [`parent`](Self::parent), making folders that are missing.
    pub(super) fn make_parent(&self) -> Result<(OwnedFd, CString), Failure> {
        match self.parent() {
            Err(Failure::File { kind: FileErrorKind::NotFound, .. }) => {}
            found => return found,
        }
        let above = Self { root: self.root.clone(), below: self.below.parent().unwrap_or(Path::new("")).to_owned() };
        above.make_folder()?;
        self.parent()
    }

    /// Makes a folder and those above it; one that is there is fine.
    pub(super) fn make_folder(&self) -> Result<(), Failure> {
        let mut made = PathBuf::new();
        let mut folder = self.resolve(&made, OFlags::RDONLY | OFlags::DIRECTORY)?;
        for part in self.below.components() {
            let Component::Normal(name) = part else {
                return Err(fail(FileErrorKind::InvalidArgument, "a path to be made has no `..`"));
            };
            match mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failure(errno)),
            }
            made.push(name);
            folder = self.resolve(&made, OFlags::RDONLY | OFlags::DIRECTORY)?;
        }
        Ok(())
    }

    fn name(&self) -> Result<CString, Failure> {
        match self.below.components().next_back() {
            Some(Component::Normal(name)) => {
                CString::new(name.as_bytes()).map_err(|_| fail(FileErrorKind::InvalidArgument, "a name contains NUL"))
            }
            Some(_) => Err(fail(FileErrorKind::InvalidArgument, "the path ends in `..`")),
            None => Err(fail(FileErrorKind::InvalidArgument, "the path is one of the roots itself")),
        }
    }

    fn resolve(&self, below: &Path, flags: OFlags) -> Result<OwnedFd, Failure> {
        let path_only = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(&self.root, path_only, Mode::empty()).map_err(failure)?;
        match beneath(&root, below, flags) {
            // An absolute link, or one out of the root: where does it really lead? What lies outside is not told.
            Err(Errno::XDEV) => {
                let below = really_below(&root, below).ok_or_else(|| {
                    fail(FileErrorKind::OutsideRoots, "the path leads out of the folders that may be used")
                })?;
                beneath(&root, &below, flags).map_err(failure)
            }
            opened => opened.map_err(failure),
        }
    }
}

/// Where a path leads, if that lies below `root`.
fn really_below(root: &OwnedFd, below: &Path) -> Option<PathBuf> {
    let place = |fd: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok();
    let real = openat(root, below, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    Some(place(&real)?.strip_prefix(place(root)?).ok()?.to_owned())
}

fn beneath(root: &OwnedFd, below: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    for _ in 0..100 {
        match openat2(root, below, flags, Mode::empty(), how) {
            // Something was renamed meanwhile, so the kernel cannot tell.
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

/// Where a descriptor really lies.
pub(super) fn real_path(fd: &OwnedFd) -> Result<String, Failure> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(io_failure)?;
    path.into_os_string().into_string().map_err(|_| fail(FileErrorKind::Other, "its path is not UTF-8"))
}

fn outside(roots: &Roots) -> Failure {
    fail(FileErrorKind::OutsideRoots, &format!("only paths below {} may be used", roots.0.join(", ")))
}

/// A failure with a reason of ours.
pub(super) fn fail(kind: FileErrorKind, reason: &str) -> Failure {
    Failure::File { kind, reason: reason.to_owned() }
}

/// A failure of the kernel's.
pub(super) fn failure(errno: Errno) -> Failure {
    let kind = match errno {
        Errno::NOENT => FileErrorKind::NotFound,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => FileErrorKind::PermissionDenied,
        Errno::ISDIR => FileErrorKind::IsDirectory,
        Errno::NOTDIR => FileErrorKind::NotADirectory,
        Errno::NXIO => FileErrorKind::NotAFile,
        Errno::EXIST | Errno::NOTEMPTY => FileErrorKind::AlreadyExists,
        Errno::XDEV => FileErrorKind::OutsideRoots,
        Errno::NOSPC | Errno::DQUOT => FileErrorKind::NoSpace,
        Errno::NAMETOOLONG | Errno::INVAL => FileErrorKind::InvalidArgument,
        _ => FileErrorKind::Other,
    };
    Failure::File { kind, reason: io::Error::from(errno).to_string() }
}

pub(super) fn io_failure(error: io::Error) -> Failure {
    match Errno::from_io_error(&error) {
        Some(errno) => failure(errno),
        None => fail(FileErrorKind::Other, &error.to_string()),
    }
}

impl From<WalkError> for Failure {
    fn from(WalkError { path, errno }: WalkError) -> Self {
        match failure(errno) {
            Self::File { kind, reason } => Self::File { kind, reason: format!("{}: {reason}", path.display()) },
            other => other,
        }
    }
}

/// Shows a path as text; bytes that are not UTF-8 are replaced.
pub(super) fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
