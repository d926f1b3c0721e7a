//! Where an image comes from: a folder or an archive on the host, whose parts are opened by name.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use tar::{Archive, EntryType};

use super::manifest::{Blob, Config, Digest, MAX_JSON, Manifest, config, from_docker, from_index};

/// Members of an archive that are looked at; an image's has a few for each layer.
const MAX_MEMBERS: usize = 1 << 16;
/// How often one member of an archive may be a link to another.
const MAX_LINKS: usize = 4;

/// An image on the host.
pub(super) enum Source {
    /// An OCI image layout.
    Folder(OwnedFd),
    /// A tar archive, with the place of each file in it.
    Archive(File, HashMap<PathBuf, Place>),
}

/// What a name stands for in an archive.
pub(super) enum Place {
    /// Where the contents begin, and how long they are.
    Contents(u64, u64),
    Link(PathBuf),
}

impl Source {
    /// Opens an image. A compressed archive is decompressed into a file below `scratch` that has no name.
    pub(super) fn open(path: &Path, scratch: &Path, max_bytes: u64) -> io::Result<Self> {
        let opened = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        match FileType::from_raw_mode(fstat(&opened)?.st_mode) {
            FileType::Directory => Ok(Self::Folder(opened)),
            FileType::RegularFile => Self::archive(File::from(opened), scratch, max_bytes),
            _ => Err(refused("it is neither a folder nor a file")),
        }
    }

    fn archive(mut file: File, scratch: &Path, max_bytes: u64) -> io::Result<Self> {
        if is_compressed(&mut file)? {
            let plain = rustix::fs::open(scratch, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RWXU)?;
            let mut plain = File::from(plain);
            let copied = io::copy(&mut decompressed(file)?.take(max_bytes + 1), &mut plain)?;
            if copied > max_bytes {
                return Err(refused(format!("it holds more than {max_bytes} bytes")));
            }
            file = plain;
        }
        let places = index(&mut file)?;
        Ok(Self::Archive(file, places))
    }

    /// Reads what the image says of itself.
    pub(super) fn describe(&self) -> io::Result<(Manifest, Config)> {
        let manifest = if self.has("index.json") {
            let index = self.read(&Blob { name: "index.json".to_owned(), digest: None })?;
            from_index(&index, &mut |blob| self.read(blob).map_err(|error| error.to_string()))
        } else if self.has("manifest.json") {
            from_docker(&self.read(&Blob { name: "manifest.json".to_owned(), digest: None })?)
        } else {
            Err("it is no image: it holds neither index.json nor manifest.json".to_owned())
        };
        let manifest = manifest.map_err(refused)?;
        let config = config(&self.read(&manifest.config)?).map_err(refused)?;
        if config.layers.len() != manifest.layers.len() {
            let (said, found) = (config.layers.len(), manifest.layers.len());
            return Err(refused(format!("its configuration speaks of {said} layers, and it has {found}")));
        }
        Ok((manifest, config))
    }

    fn has(&self, name: &str) -> bool {
        self.contents(name).is_ok()
    }

    /// Reads a small part whole, and verifies its digest.
    fn read(&self, blob: &Blob) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.contents(&blob.name)?.take(MAX_JSON + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_JSON {
            return Err(refused(format!("`{}` is longer than {MAX_JSON} bytes", blob.name)));
        }
        if blob.digest.as_ref().is_some_and(|wanted| *wanted != Digest::of(&bytes)) {
            return Err(refused(format!("`{}` has another digest than it is said to have", blob.name)));
        }
        Ok(bytes)
    }

    /// Opens a part by its name.
    pub(super) fn contents(&self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        let missing = |error: io::Error| io::Error::new(error.kind(), format!("it has no readable `{name}`: {error}"));
        match self {
            Self::Folder(folder) => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                // Links are followed as long as they stay inside: some tools link what they already have.
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                let opened = openat2(folder, name, flags, Mode::empty(), resolve).map_err(|it| missing(it.into()))?;
                if FileType::from_raw_mode(fstat(&opened)?.st_mode) != FileType::RegularFile {
                    return Err(refused(format!("`{name}` is no file")));
                }
                Ok(Box::new(File::from(opened)))
            }
            Self::Archive(file, places) => {
                let mut path = plain(Path::new(name)).ok_or_else(|| missing(io::ErrorKind::NotFound.into()))?;
                for _ in 0..MAX_LINKS {
                    match places.get(&path) {
                        Some(Place::Contents(start, length)) => {
                            let mut file: &File = file;
                            file.seek(SeekFrom::Start(*start))?;
                            return Ok(Box::new(file.take(*length)));
                        }
                        Some(Place::Link(target)) => path.clone_from(target),
                        None => break,
                    }
                }
                Err(missing(io::ErrorKind::NotFound.into()))
            }
        }
    }
}

/// Notes where each file of an archive lies.
fn index(file: &mut File) -> io::Result<HashMap<PathBuf, Place>> {
    let mut places = HashMap::new();
    file.rewind()?;
    let mut archive = Archive::new(file);
    for (n_members, entry) in archive.entries_with_seek()?.enumerate() {
        let entry = entry?;
        if n_members >= MAX_MEMBERS {
            return Err(refused(format!("it has more than {MAX_MEMBERS} members")));
        }
        let Some(path) = plain(&entry.path()?) else { continue };
        let place = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => Place::Contents(entry.raw_file_position(), entry.size()),
            EntryType::Symlink => {
                let Some(target) = entry.link_name()? else { continue };
                let Some(target) = plain(&path.parent().unwrap_or(Path::new("")).join(target)) else { continue };
                Place::Link(target)
            }
            EntryType::Link => {
                let Some(target) = entry.link_name()?.and_then(|it| plain(&it)) else { continue };
                Place::Link(target)
            }
            _ => continue,
        };
        places.insert(path, place);
    }
    Ok(places)
}

/// Resolves `.` and `..` by name alone; `None` for what is absolute or leads out.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => plain.push(part),
            Component::CurDir => {}
            Component::ParentDir if plain.pop() => {}
            _ => return None,
        }
    }
    Some(plain)
}

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

fn is_compressed(file: &mut File) -> io::Result<bool> {
    let mut head = Vec::new();
    file.by_ref().take(4).read_to_end(&mut head)?;
    file.rewind()?;
    Ok(head.starts_with(GZIP) || head.starts_with(ZSTD))
}

/// Decompresses a stream if it is compressed, whatever it is called.
pub(super) fn decompressed<'a>(mut input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = Vec::new();
    input.by_ref().take(4).read_to_end(&mut head)?;
    let (is_gzip, is_zstd) = (head.starts_with(GZIP), head.starts_with(ZSTD));
    let input = io::Cursor::new(head).chain(input);
    if is_gzip {
        Ok(Box::new(flate2::read::MultiGzDecoder::new(input)))
    } else if is_zstd {
        let mut decoder = zstd::stream::read::Decoder::new(input)?;
        // A hostile frame may ask for a window of gigabytes.
        decoder.window_log_max(27)?;
        Ok(Box::new(decoder))
    } else {
        Ok(Box::new(input))
    }
}

pub(super) fn refused(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use tar::{Builder, Header};
    use tempfile::TempDir;

    use super::*;

    const MAX: u64 = 1 << 20;

    /// An archive with a file, a link to it, and links that lead nowhere good.
    fn archive() -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(4);
        builder.append_data(&mut header, "a/layer.tar", &b"good"[..]).unwrap();
        for (name, target) in [
            ("b/layer.tar", "../a/layer.tar"),
            ("up", "../../../../etc/passwd"),
            ("far", "/etc/passwd"),
            ("one", "two"),
            ("two", "one"),
        ] {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, name, target).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn open(home: &TempDir, bytes: &[u8], max: u64) -> io::Result<Source> {
        let path = home.path().join("image");
        fs::write(&path, bytes).unwrap();
        Source::open(&path, home.path(), max)
    }

    fn read(source: &Source, name: &str) -> io::Result<String> {
        let mut text = String::new();
        source.contents(name)?.read_to_string(&mut text).map(|_| text)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_part_of_an_archive_is_found_by_its_name_and_nothing_of_the_host_is() {
        let home = tempfile::tempdir().unwrap();
        for bytes in [archive(), gzip(&archive()), zstd::encode_all(&archive()[..], 1).unwrap()] {
            let source = open(&home, &bytes, MAX).unwrap();
            for name in ["a/layer.tar", "./a/layer.tar", "b/layer.tar", "a/../b/layer.tar"] {
                assert_eq!(read(&source, name).unwrap(), "good", "{name}");
            }
            for name in ["up", "far", "one", "/etc/passwd", "../image", "a", ""] {
                read(&source, name).expect_err(name);
            }
        }
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "what was decompressed had no name");
    }

    #[test]
    fn a_part_of_a_folder_is_found_unless_a_link_leads_out() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("layout");
        fs::create_dir(&folder).unwrap();
        fs::write(home.path().join("outside"), "secret").unwrap();
        fs::write(folder.join("blob"), "good").unwrap();
        for (name, target) in [("same", "blob"), ("up", "../outside"), ("far", "/etc/passwd"), ("loop", "loop")] {
            std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
        }
        rustix::fs::mknodat(CWD, folder.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let source = Source::open(&folder, home.path(), MAX).unwrap();
        assert_eq!((read(&source, "blob").unwrap(), read(&source, "same").unwrap()), ("good".into(), "good".into()));
        for name in ["up", "far", "loop", "fifo", "../outside", "/etc/passwd", "."] {
            read(&source, name).expect_err(name);
        }
    }

    #[test]
    fn an_archive_that_swells_is_refused_before_it_fills_the_disk() {
        let home = tempfile::tempdir().unwrap();
        let bomb = gzip(&vec![0; 8 << 20]);
        assert!(bomb.len() < 64 << 10);
        let error = open(&home, &bomb, MAX).err().unwrap();
        assert!(error.to_string().contains("it holds more than 1048576 bytes"), "{error}");
    }

    #[test]
    fn what_is_no_image_says_so() {
        let home = tempfile::tempdir().unwrap();
        let source = open(&home, &archive(), MAX).unwrap();
        assert!(source.describe().unwrap_err().to_string().contains("neither index.json nor manifest.json"));
        Source::open(Path::new("/dev/null"), home.path(), MAX).err().unwrap();
        // Neither a header's checksum nor an end: an archive of noise.
        open(&home, &[7; 2048], MAX).err().unwrap();
    }
}
