//! Walks what goes into an archive.

use std::{
    ffi::{CString, OsStr},
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use rustix::fs::CWD;

use super::{ArchiveError, root, swap};
use crate::tree::{self, Found, Next};

/// What stays out of an archive, as `tar --exclude` takes it: a pattern meets a whole path, or its end after any `/`.
pub(super) struct Exclude(GlobSet);

impl Exclude {
    pub(super) fn new(patterns: &[String]) -> Result<Self, ArchiveError> {
        let wrong = |pattern: &str, error: globset::Error| {
            ArchiveError::Argument(format!("`{pattern}` is not a pattern: {error}"))
        };
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let plain = pattern.trim_end_matches('/');
            let glob = GlobBuilder::new(plain).literal_separator(false).build();
            set.add(glob.map_err(|error| wrong(pattern, error))?);
        }
        set.build().map(Self).map_err(|error| wrong(&patterns.join(" "), error))
    }

    fn meets(&self, path: &Path) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let bytes = path.as_os_str().as_bytes();
        let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(i, _)| &bytes[i + 1..]);
        std::iter::once(bytes).chain(ends).any(|end| self.0.is_match(Path::new(OsStr::from_bytes(end))))
    }
}

/// Visits each of `include` and all beneath, folders before what they hold.
pub(super) fn walk(
    include: &[String],
    exclude: &Exclude,
    visit: &mut dyn FnMut(&Found<'_>) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    for path in include {
        let path = root(path)?;
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| ArchiveError::Argument("NUL".to_owned()))?;
        tree::walk(CWD.as_fd(), &name, &path, &mut |found| {
            if found.path != path && (exclude.meets(found.path) || swap::is_ours(found.name)) {
                return Ok(Next::Over);
            }
            visit(found).map(|()| Next::Into)
        })?;
    }
    Ok(())
}
