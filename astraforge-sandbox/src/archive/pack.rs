//! Packs a tree: what is there when its turn comes, each member as long as it says.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Read, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use astraforge_core::archive::{ArchiveSummary, Compression, PackRequest};
use rustix::{
    fs::{FileType, readlinkat},
    io::Errno,
};
use tar::{Builder, EntryType, Header};

use super::{
    ArchiveError, at,
    members::{BLOCK, kept_mode},
    swap,
    walk::{Exclude, walk},
};
use crate::tree::Found;

/// A good ratio at the speed of a disk.
const LEVEL: i32 = 1;

/// Files are read, and archives that are not compressed written, in pieces of this size.
const PIECE: usize = 128 * 1024;

/// Writes an archive.
pub(crate) fn pack(request: &PackRequest, output: impl Write) -> Result<ArchiveSummary, ArchiveError> {
    let exclude = Exclude::new(&request.exclude)?;
    for path in &request.include {
        swap::finish(&super::root(path)?)?;
    }
    let mut packer = Packer {
        builder: Builder::new(Sink::new(request.compression, output)?),
        buffer: vec![0; PIECE],
        linked: HashMap::new(),
        summary: ArchiveSummary::default(),
    };
    walk(&request.include, &exclude, &mut |found| packer.add(found))?;
    let sink = packer.builder.into_inner().map_err(ArchiveError::Sending)?;
    sink.finish().map_err(ArchiveError::Sending)?;
    Ok(packer.summary)
}

/// Where the archive goes, compressed or not.
enum Sink<W: Write> {
    Zstd(zstd::stream::write::Encoder<'static, W>),
    None(BufWriter<W>),
}

impl<W: Write> Sink<W> {
    fn new(compression: Compression, output: W) -> Result<Self, ArchiveError> {
        match compression {
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(output, LEVEL).map_err(ArchiveError::Sending)?;
                encoder.include_checksum(true).map_err(ArchiveError::Sending)?;
                Ok(Self::Zstd(encoder))
            }
            Compression::None => Ok(Self::None(BufWriter::with_capacity(PIECE, output))),
            Compression::Gzip => {
                Err(ArchiveError::Argument("archives are read with gzip, and never written".to_owned()))
            }
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Zstd(encoder) => encoder.finish()?.flush(),
            Self::None(mut output) => output.flush(),
        }
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Zstd(encoder) => encoder.write(bytes),
            Self::None(output) => output.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Zstd(encoder) => encoder.flush(),
            Self::None(output) => output.flush(),
        }
    }
}

struct Packer<W: Write> {
    builder: Builder<Sink<W>>,
    buffer: Vec<u8>,
    /// Files with several names, by device and number: the name they went in under.
    linked: HashMap<(u64, u64), PathBuf>,
    summary: ArchiveSummary,
}

impl<W: Write> Packer<W> {
    fn add(&mut self, found: &Found<'_>) -> Result<(), ArchiveError> {
        let name = found.path.strip_prefix("/").unwrap_or(found.path);
        match found.kind() {
            FileType::Directory => self.member(found, EntryType::Directory, name, 0),
            FileType::Symlink => {
                let target = match readlinkat(found.folder, found.name, Vec::new()) {
                    Ok(target) => target,
                    // It vanished, or became something else.
                    Err(Errno::NOENT | Errno::INVAL) => return self.skip(),
                    Err(errno) => return Err(at(found.path)(errno)),
                };
                let target = Path::new(std::ffi::OsStr::from_bytes(target.as_bytes())).to_owned();
                self.link(found, EntryType::Symlink, name, &target)
            }
            FileType::RegularFile => self.file(found, name),
            _ => self.skip(),
        }
    }

    /// Leaves out what has no place in an archive, or was gone when its turn came.
    fn skip(&mut self) -> Result<(), ArchiveError> {
        self.summary.n_skipped += 1;
        Ok(())
    }

    fn file(&mut self, found: &Found<'_>, name: &Path) -> Result<(), ArchiveError> {
        if found.stat.st_nlink > 1 {
            let first = self.linked.get(&(found.stat.st_dev, found.stat.st_ino)).cloned();
            if let Some(first) = first {
                return self.link(found, EntryType::Link, name, &first);
            }
        }
        let file = match found.open() {
            Ok(file) => File::from(file),
            // It vanished, or became a link.
            Err(Errno::NOENT | Errno::LOOP) => return self.skip(),
            Err(errno) => return Err(at(found.path)(errno)),
        };
        let meta = file.metadata().map_err(|source| ArchiveError::File { path: found.path.to_owned(), source })?;
        if meta.nlink() > 1 {
            // Only now, and of what was opened: it is what the file's other names will lead to.
            self.linked.insert((meta.dev(), meta.ino()), name.to_owned());
        }
        let size = meta.len();
        self.summary.n_bytes += size;
        self.member(found, EntryType::Regular, name, size)?;
        self.contents(file.chain(io::repeat(0)).take(size), size).map_err(ArchiveError::Sending)
    }

    /// Writes what belongs to the member that was begun. Its header says how long it is: a file that shrinks is filled
    /// up, one that grows is cut.
    fn contents(&mut self, mut contents: impl Read, size: u64) -> io::Result<()> {
        let output = self.builder.get_mut();
        loop {
            match contents.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(n_bytes) => output.write_all(&self.buffer[..n_bytes])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let padding = size.next_multiple_of(BLOCK) - size;
        io::copy(&mut io::repeat(0).take(padding), output).map(drop)
    }

    /// Begins a member of so many bytes, which are the caller's to write.
    fn member(&mut self, found: &Found<'_>, kind: EntryType, name: &Path, size: u64) -> Result<(), ArchiveError> {
        let mut header = self.header(found, kind)?;
        header.set_size(size);
        // The builder would copy them in small pieces.
        self.builder.append_data(&mut header, name, io::empty()).map_err(ArchiveError::Sending)
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

#[cfg(test)]
mod tests {
    use std::{
        ffi::CString,
        fs,
        os::{fd::AsFd, unix::fs::symlink},
    };

    use super::*;
    use crate::tree;

    /// What is packed of a folder that `fill` fills, when `change` is done to each thing just before its turn comes: a
    /// line for each member but the folder, and how much was left out.
    fn packed(fill: impl FnOnce(&Path), change: impl Fn(&Path)) -> (Vec<String>, u64) {
        let outer = tempfile::tempdir().unwrap();
        let folder = File::open(outer.path()).unwrap();
        let top = outer.path().join("top");
        fs::create_dir(&top).unwrap();
        fill(&top);
        let mut packer = Packer {
            builder: Builder::new(Sink::new(Compression::None, Vec::new()).unwrap()),
            buffer: vec![0; PIECE],
            linked: HashMap::new(),
            summary: ArchiveSummary::default(),
        };
        let mut change_first = |found: &Found<'_>| {
            if found.kind() != FileType::Directory {
                change(found.path);
            }
            packer.add(found).map(|()| tree::Next::Into)
        };
        tree::walk(folder.as_fd(), &CString::new("top").unwrap(), &top, &mut change_first).unwrap();
        let n_skipped = packer.summary.n_skipped;
        let Sink::None(archive) = packer.builder.into_inner().unwrap() else { panic!("it is not compressed") };
        let mut archive = tar::Archive::new(io::Cursor::new(archive.into_inner().unwrap()));
        let name = |path: &Path| path.file_name().unwrap().display().to_string();
        let lines = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let link = entry.link_name().unwrap().map(|to| format!(" -> {}", name(&to)));
            format!("{}{}{text}", name(&entry.path().unwrap()), link.unwrap_or_else(|| ": ".to_owned()))
        });
        (lines.skip(1).collect(), n_skipped)
    }

    #[test]
    fn what_vanishes_while_it_is_packed_is_left_out() {
        let fill = |top: &Path| {
            fs::write(top.join("file"), "x").unwrap();
            symlink("file", top.join("link")).unwrap();
        };
        assert_eq!(packed(fill, |path| fs::remove_file(path).unwrap()), (Vec::new(), 2));
    }

    #[test]
    fn a_file_that_becomes_a_link_while_it_is_packed_is_left_out() {
        let fill = |top: &Path| {
            fs::write(top.join("becomes"), "x").unwrap();
            fs::write(top.join("stays"), "y").unwrap();
        };
        let change = |path: &Path| {
            if path.ends_with("becomes") {
                fs::remove_file(path).unwrap();
                symlink("/etc/passwd", path).unwrap();
            }
        };
        assert_eq!(packed(fill, change), (vec!["stays: y".to_owned()], 1));
    }

    #[test]
    fn the_other_names_of_a_file_are_packed_when_its_first_vanishes() {
        let fill = |top: &Path| {
            fs::write(top.join("a"), "one file").unwrap();
            fs::hard_link(top.join("a"), top.join("b")).unwrap();
            fs::hard_link(top.join("a"), top.join("c")).unwrap();
        };
        let change = |path: &Path| {
            if path.ends_with("a") {
                fs::remove_file(path).unwrap();
            }
        };
        assert_eq!(packed(fill, change), (vec!["b: one file".to_owned(), "c -> b".to_owned()], 1));
    }
}
