//! Compares an archive with the tree as it is.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::File,
    io::Read,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use astraforge_core::archive::{CompareRequest, Comparison, TreeChange, TreeChangeKind};
use rustix::fs::{FileType, readlinkat};

use super::{
    ArchiveError, at,
    members::{self, Bounds, Kind, Member, kept_mode},
    walk::{Exclude, walk},
};
use crate::tree::Found;

/// The most members and files that are compared: each is remembered.
const MAX_ENTRIES: u64 = 2_000_000;

/// One side of a comparison: what something is, its size, and a hash of all else that counts.
#[derive(PartialEq, Eq)]
struct Face {
    size: u64,
    hash: [u8; 32],
}

/// Compares; the archive may be anything, the tree is that of the sandbox.
pub(crate) fn compare(request: &CompareRequest, input: impl Read) -> Result<Comparison, ArchiveError> {
    let exclude = Exclude::new(&request.pack.exclude)?;
    let bounds = Bounds { max_bytes: u64::MAX, max_entries: MAX_ENTRIES };
    let mut then: BTreeMap<PathBuf, Face> = BTreeMap::new();
    members::read(request.pack.compression, input, bounds, &mut |member, contents| {
        let path = Path::new("/").join(&member.path);
        let face = match &member.kind {
            // A file of several names is the same file under each.
            Kind::Hardlink(to) => {
                then.get(&Path::new("/").join(to)).map(|face| Face { size: face.size, hash: face.hash })
            }
            _ => Some(face_of_member(&member, contents)?),
        };
        let nothing = || ArchiveError::Refused(format!("`{}` links to nothing", path.display()));
        let face = face.ok_or_else(nothing)?;
        then.insert(path, face);
        Ok(())
    })?;
    let mut changes = Vec::new();
    let mut n_entries = 0;
    walk(&request.pack.include, &exclude, &mut |found| {
        n_entries += 1;
        if n_entries > MAX_ENTRIES {
            return Err(ArchiveError::TooLarge { what: "files to compare", max: MAX_ENTRIES });
        }
        let Some(now) = face_of_file(found)? else { return Ok(()) };
        match then.remove(found.path) {
            Some(before) if before == now => {}
            Some(before) => {
                changes.push(change(found.path, TreeChangeKind::Modified, Some(before.size), Some(now.size)))
            }
            None => changes.push(change(found.path, TreeChangeKind::Added, None, Some(now.size))),
        }
        Ok(())
    })?;
    changes.extend(then.iter().map(|(path, face)| change(path, TreeChangeKind::Removed, Some(face.size), None)));
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    let truncated = changes.len() > request.limit;
    changes.truncate(request.limit);
    Ok(Comparison { changes, truncated })
}

fn change(path: &Path, change: TreeChangeKind, old_size: Option<u64>, new_size: Option<u64>) -> TreeChange {
    TreeChange { path: path.to_string_lossy().into_owned(), change, old_size, new_size }
}

fn face_of_member(member: &Member, contents: &mut dyn Read) -> Result<Face, ArchiveError> {
    match &member.kind {
        Kind::Symlink(target) => Ok(symlink(target)),
        Kind::Folder => Ok(folder(member.mode)),
        _ => file(member.mode, contents).map_err(ArchiveError::Damaged),
    }
}

fn face_of_file(found: &Found<'_>) -> Result<Option<Face>, ArchiveError> {
    let mode = kept_mode(found.kind() == FileType::Directory, found.stat.st_mode);
    match found.kind() {
        FileType::Directory => Ok(Some(folder(mode))),
        FileType::Symlink => {
            let target = readlinkat(found.folder, found.name, Vec::new()).map_err(at(found.path))?;
            Ok(Some(symlink(Path::new(OsStr::from_bytes(target.as_bytes())))))
        }
        FileType::RegularFile => {
            let mut contents = File::from(found.open().map_err(at(found.path))?);
            let failed = |source| ArchiveError::File { path: found.path.to_owned(), source };
            let size = contents.metadata().map_err(failed)?.size();
            file(mode, &mut (&mut contents).take(size)).map(Some).map_err(failed)
        }
        _ => Ok(None),
    }
}

fn folder(mode: u32) -> Face {
    face(b'd', mode, 0, &mut std::io::empty()).unwrap_or(Face { size: 0, hash: [0; 32] })
}

fn symlink(target: &Path) -> Face {
    let mut bytes = target.as_os_str().as_bytes();
    face(b'l', 0, 0, &mut bytes).unwrap_or(Face { size: 0, hash: [1; 32] })
}

fn file(mode: u32, contents: &mut dyn Read) -> std::io::Result<Face> {
    face(b'f', mode, 0, contents)
}

fn face(kind: u8, mode: u32, mut size: u64, contents: &mut dyn Read) -> std::io::Result<Face> {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    hash.update([kind]);
    hash.update(mode.to_be_bytes());
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n_bytes = contents.read(&mut buffer)?;
        if n_bytes == 0 {
            break;
        }
        size += n_bytes as u64;
        hash.update(&buffer[..n_bytes]);
    }
    let size = if kind == b'f' { size } else { 0 };
    Ok(Face { size, hash: hash.finalize().into() })
}
