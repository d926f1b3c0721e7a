//! Reads an archive member by member, and believes none of them.

use std::{
    cell::Cell,
    ffi::OsStr,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use astraforge_core::archive::Compression;
use tar::{Archive, Entry, EntryType, PaxExtensions};

use super::{ArchiveError, decompress};

/// The longest name or set of attributes, in bytes.
const MAX_EXTENSION: u64 = 64 * 1024;
/// What may follow the last member: padding to a tape's record.
const MAX_PADDING: u64 = 1024 * 1024;
/// What archives are made of.
pub(super) const BLOCK: u64 = 512;

/// What of a mode is kept: for a folder also that its group is handed down and that only owners remove; for anything else
/// nothing that gives a program another's rights.
pub(crate) fn kept_mode(is_folder: bool, mode: u32) -> u32 {
    mode & if is_folder { 0o3777 } else { 0o777 }
}

/// One member, understood.
pub(crate) struct Member {
    /// Its path without the first `/`.
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    /// Seconds and nanoseconds.
    pub(crate) modified: (i64, i64),
    pub(crate) size: u64,
}

/// What a member is.
pub(crate) enum Kind {
    Folder,
    File,
    /// With its target, as it is.
    Symlink(PathBuf),
    /// With the path of another member.
    Hardlink(PathBuf),
}

/// What an archive may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) max_bytes: u64,
    pub(crate) max_entries: u64,
}

/// Whose archive is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// One of ours: what none of ours holds is refused.
    Ours,
    /// A layer of an image: devices and the like are left out, and a first `/` of a name is dropped.
    Layer,
}

/// Reads all members of a compressed archive of ours; `take` gets each with its contents.
pub(crate) fn read(
    compression: Compression,
    input: impl Read,
    bounds: Bounds,
    take: &mut dyn FnMut(Member, &mut dyn Read) -> Result<(), ArchiveError>,
) -> Result<(u64, u64), ArchiveError> {
    read_plain(Origin::Ours, decompress(compression, input)?, bounds, take)
}

/// Reads all members of an archive that is not compressed.
pub(crate) fn read_plain(
    origin: Origin,
    input: impl Read,
    bounds: Bounds,
    take: &mut dyn FnMut(Member, &mut dyn Read) -> Result<(), ArchiveError>,
) -> Result<(u64, u64), ArchiveError> {
    let n_read = Cell::new(0);
    let mut archive = Archive::new(Counted { input, n_read: &n_read });
    let (mut n_entries, mut n_bytes, mut end) = (0, 0, 0);
    let mut extensions = Extensions::default();
    for entry in archive.entries().map_err(ArchiveError::Damaged)?.raw(true) {
        let mut entry = entry.map_err(ArchiveError::Damaged)?;
        n_entries += 1;
        end = entry.raw_file_position().saturating_add(entry.size().div_ceil(BLOCK).saturating_mul(BLOCK));
        // Extensions count too: there may be as many as there are members.
        if n_entries > bounds.max_entries.saturating_mul(3) {
            return Err(ArchiveError::TooLarge { what: "members", max: bounds.max_entries });
        }
        if extensions.take(&mut entry)? {
            continue;
        }
        let Some(member) = std::mem::take(&mut extensions).complete(origin, &entry)? else { continue };
        n_bytes += member.size;
        if n_bytes > bounds.max_bytes {
            return Err(ArchiveError::TooLarge { what: "bytes", max: bounds.max_bytes });
        }
        take(member, &mut entry)?;
    }
    // To its very end: only there it is told whether the whole of it arrived.
    let mut rest = archive.into_inner();
    let padding = io::copy(&mut (&mut rest).take(MAX_PADDING + 1), &mut io::sink()).map_err(ArchiveError::Damaged)?;
    if padding > MAX_PADDING {
        return Err(ArchiveError::Refused("something follows its end".to_owned()));
    }
    // What is not compressed says by two empty blocks alone that nothing is missing.
    if origin == Origin::Ours && n_read.get() < end.saturating_add(2 * BLOCK) {
        return Err(ArchiveError::Damaged(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok((n_entries, n_bytes))
}

/// Counts what is read of an archive.
struct Counted<'a, R> {
    input: R,
    n_read: &'a Cell<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n_bytes = self.input.read(buffer)?;
        self.n_read.set(self.n_read.get() + n_bytes as u64);
        Ok(n_bytes)
    }
}

/// What stands before a member and belongs to it.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    modified: Option<(i64, i64)>,
}

impl Extensions {
    /// Takes an entry that says something about the next one. Tells whether it was one.
    fn take(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<bool, ArchiveError> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.path = Some(text(entry)?),
            EntryType::GNULongLink => self.link = Some(text(entry)?),
            EntryType::XHeader => self.attributes(&contents(entry)?)?,
            EntryType::XGlobalHeader => drop(contents(entry)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn attributes(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        for attribute in PaxExtensions::new(bytes) {
            let attribute = attribute.map_err(ArchiveError::Damaged)?;
            match attribute.key_bytes() {
                b"path" => self.path = Some(attribute.value_bytes().to_vec()),
                b"linkpath" => self.link = Some(attribute.value_bytes().to_vec()),
                b"mtime" => self.modified = attribute.value().ok().and_then(time),
                b"size" => return Err(ArchiveError::Refused("a member's size stands in an attribute".to_owned())),
                key if key.starts_with(b"GNU.sparse") => {
                    return Err(ArchiveError::Refused("it holds sparse members".to_owned()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Understands a member; `None` for one without a place, such as the root itself.
    fn complete(self, origin: Origin, entry: &Entry<'_, impl Read>) -> Result<Option<Member>, ArchiveError> {
        let header = entry.header();
        let below = |name: &[u8]| match (origin, name) {
            (Origin::Layer, [b'/', rest @ ..]) => inside(rest),
            _ => inside(name),
        };
        let name = self.path.unwrap_or_else(|| entry.path_bytes().into_owned());
        let path = below(&name)?;
        let link = || self.link.clone().or_else(|| entry.link_name_bytes().map(|bytes| bytes.into_owned()));
        let no_target = || ArchiveError::Refused(format!("`{}` links to nothing", path.display()));
        let kind = match header.entry_type() {
            EntryType::Directory => Kind::Folder,
            EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => Kind::Folder,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Symlink => {
                let target = link().filter(|it| !it.is_empty() && !it.contains(&0)).ok_or_else(no_target)?;
                Kind::Symlink(OsStr::from_bytes(&target).into())
            }
            EntryType::Link => Kind::Hardlink(below(&link().ok_or_else(no_target)?)?),
            EntryType::Char | EntryType::Block | EntryType::Fifo if origin == Origin::Layer => return Ok(None),
            other => return Err(ArchiveError::Refused(format!("`{}` is of kind {other:?}", path.display()))),
        };
        let size = if matches!(kind, Kind::File) { entry.size() } else { 0 };
        let mode = header.mode().map_err(ArchiveError::Damaged)?;
        let mode = kept_mode(matches!(kind, Kind::Folder), mode);
        let seconds = i64::try_from(header.mtime().map_err(ArchiveError::Damaged)?).unwrap_or(0);
        let modified = self.modified.unwrap_or((seconds, 0));
        Ok((path.as_os_str() != "").then_some(Member { path, kind, mode, modified, size }))
    }
}

fn contents(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, ArchiveError> {
    if entry.size() > MAX_EXTENSION {
        return Err(ArchiveError::TooLarge { what: "bytes in a member's name", max: MAX_EXTENSION });
    }
    let mut bytes = Vec::new();
    entry.take(MAX_EXTENSION).read_to_end(&mut bytes).map_err(ArchiveError::Damaged)?;
    Ok(bytes)
}

fn text(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = contents(entry)?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

/// Seconds and nanoseconds of `123.456`.
fn time(text: &str) -> Option<(i64, i64)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some((seconds.parse().ok().filter(|it| (0..1 << 40).contains(it))?, digits.parse().ok()?))
}

/// Returns a member's path as one below the root; `.` is dropped, and what leads up or is absolute is refused. (A first
/// `/` is what old archives of ours began with.)
fn inside(name: &[u8]) -> Result<PathBuf, ArchiveError> {
    let path = Path::new(OsStr::from_bytes(name));
    let refused = |why| ArchiveError::Refused(format!("the name `{}` {why}", path.display()));
    if name.contains(&0) || name.len() > 4096 {
        return Err(refused("is not one of a file"));
    }
    let mut inside = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) if part.len() <= 255 => inside.push(part),
            Component::Normal(_) => return Err(refused("is too long")),
            Component::CurDir => {}
            _ => return Err(refused("leads outside")),
        }
    }
    Ok(inside)
}
