//! Packs a tree: what is there when its turn comes, each member as long as it says.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use astraforge_core::archive::{ArchiveSummary, PackRequest};
use rustix::{
    fs::{FileType, readlinkat},
    io::Errno,
};
use tar::{Builder, EntryType, Header};

use super::{
    ArchiveError, at,
    members::kept_mode,
    swap,
    walk::{Exclude, walk},
};
use crate::tree::Found;

/// A good ratio at the speed of a disk.
const LEVEL: i32 = 1;

/// Writes an archive, compressed with zstd.
pub(crate) fn pack(request: &PackRequest, output: impl Write) -> Result<ArchiveSummary, ArchiveError> {
    let exclude = Exclude::new(&request.exclude)?;
    for path in &request.include {
        swap::finish(&super::root(path)?)?;
    }
    let mut encoder = zstd::stream::write::Encoder::new(output, LEVEL).map_err(ArchiveError::Sending)?;
    encoder.include_checksum(true).map_err(ArchiveError::Sending)?;
    let mut packer =
        Packer { builder: Builder::new(encoder), linked: HashMap::new(), summary: ArchiveSummary::default() };
    walk(&request.include, &exclude, &mut |found| packer.add(found))?;
    let encoder = packer.builder.into_inner().map_err(ArchiveError::Sending)?;
    encoder.finish().and_then(|mut output| output.flush()).map_err(ArchiveError::Sending)?;
    Ok(packer.summary)
}

struct Packer<W: Write> {
    builder: Builder<W>,
    /// Files with several names, by device and number: the name they went in under.
    linked: HashMap<(u64, u64), PathBuf>,
    summary: ArchiveSummary,
}

impl<W: Write> Packer<W> {
    fn add(&mut self, found: &Found<'_>) -> Result<(), ArchiveError> {
        let name = found.path.strip_prefix("/").unwrap_or(found.path);
        match found.kind() {
            FileType::Directory => self.member(found, EntryType::Directory, name, 0, io::empty()),
            FileType::Symlink => {
                let target = readlinkat(found.folder, found.name, Vec::new()).map_err(at(found.path))?;
                let target = Path::new(std::ffi::OsStr::from_bytes(target.as_bytes())).to_owned();
                self.link(found, EntryType::Symlink, name, &target)
            }
            FileType::RegularFile => self.file(found, name),
            _ => {
                self.summary.n_skipped += 1;
                Ok(())
            }
        }
    }

    fn file(&mut self, found: &Found<'_>, name: &Path) -> Result<(), ArchiveError> {
        if found.stat.st_nlink > 1 {
            let key = (found.stat.st_dev, found.stat.st_ino);
            if let Some(first) = self.linked.get(&key).cloned() {
                return self.link(found, EntryType::Link, name, &first);
            }
            self.linked.insert(key, name.to_owned());
        }
        let file = match found.open() {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => {
                self.summary.n_skipped += 1;
                return Ok(());
            }
            Err(errno) => return Err(at(found.path)(errno)),
        };
        let size = file.metadata().map_err(|source| ArchiveError::File { path: found.path.to_owned(), source })?.len();
        self.summary.n_bytes += size;
        // The header says how long the member is: a file that shrinks is filled up, one that grows is cut.
        self.member(found, EntryType::Regular, name, size, file.chain(io::repeat(0)).take(size))
    }

    fn member(
        &mut self,
        found: &Found<'_>,
        kind: EntryType,
        name: &Path,
        size: u64,
        contents: impl Read,
    ) -> Result<(), ArchiveError> {
        let mut header = self.header(found, kind)?;
        header.set_size(size);
        self.builder.append_data(&mut header, name, contents).map_err(ArchiveError::Sending)
    }

    fn link(&mut self, found: &Found<'_>, kind: EntryType, name: &Path, to: &Path) -> Result<(), ArchiveError> {
        let mut header = self.header(found, kind)?;
        header.set_size(0);
        // As it is: `append_link` would tidy it up.
        let linked = match header.set_link_name_literal(to.as_os_str().as_bytes()) {
            Ok(()) => self.builder.append_data(&mut header, name, io::empty()),
            Err(_) => self.builder.append_link(&mut header, name, to),
        };
        linked.map_err(ArchiveError::Sending)
    }

    /// Begins a member: its time to the nanosecond, and all of a header but name and size.
    fn header(&mut self, found: &Found<'_>, kind: EntryType) -> Result<Header, ArchiveError> {
        self.summary.n_entries += 1;
        let seconds = found.stat.st_mtime.max(0);
        let time = format!("{seconds}.{:09}", found.stat.st_mtime_nsec);
        self.builder.append_pax_extensions([("mtime", time.as_bytes())]).map_err(ArchiveError::Sending)?;
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(kept_mode(kind == EntryType::Directory, found.stat.st_mode));
        header.set_mtime(seconds.unsigned_abs());
        header.set_uid(0);
        header.set_gid(0);
        Ok(header)
    }
}
