//! What fuzzing asks of archives: one that is hostile changes nothing outside of what it replaces, and one that is
//! broken changes nothing at all.
#![expect(clippy::unwrap_used, reason = "these functions are tests")]

use std::{
    fs,
    io::{self, Read, Write as _},
    os::unix::ffi::OsStrExt,
    path::{Component, Path},
};

use astraforge_core::archive::{Compression, UnpackRequest};

use super::{
    ArchiveError,
    members::{self, Bounds},
    unpack::unpack as put_in_place,
};

const BOUNDS: Bounds = Bounds { max_bytes: 1 << 20, max_entries: 100 };

/// An archive that is read. The first byte says how it is compressed, or that this is left to us.
pub fn archive(data: &[u8]) {
    let Some((&how, bytes)) = data.split_first() else { return };
    match how % 3 {
        0 => read(Compression::Zstd, bytes),
        1 => read(Compression::Gzip, bytes),
        _ => read(Compression::Gzip, &gzip(bytes)),
    }
}

fn read(compression: Compression, bytes: &[u8]) {
    let mut n_seen = 0;
    let outcome = members::read(compression, bytes, BOUNDS, &mut |member, contents| {
        assert!(member.path.components().all(|part| matches!(part, Component::Normal(_))), "{}", member.path.display());
        assert!(member.mode <= if matches!(member.kind, members::Kind::Folder) { 0o3777 } else { 0o777 });
        let n_bytes = io::copy(&mut contents.take(member.size), &mut io::sink()).map_err(ArchiveError::Damaged)?;
        n_seen += n_bytes;
        if n_bytes < member.size { Err(ArchiveError::Damaged(io::ErrorKind::UnexpectedEof.into())) } else { Ok(()) }
    });
    assert!(n_seen <= BOUNDS.max_bytes);
    if let Ok((_, n_bytes)) = outcome {
        assert_eq!(n_seen, n_bytes, "what it says of its size is true");
    }
}

/// A compressed stream; stored, so that a change of a byte stays one.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An archive that is put in place. The bytes are members, four fields each: kind and flags, the length of the name,
/// the length of the target, the size; then name and target.
pub fn unpack(data: &[u8]) {
    let home = tempfile::tempdir().unwrap();
    let (place, outside) = (home.path().join("workspace"), home.path().join("outside"));
    fs::create_dir(&place).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(place.join("before"), "1").unwrap();
    fs::write(outside.join("file"), "1").unwrap();

    let tar = build(data, home.path());
    let request = UnpackRequest {
        compression: Compression::Gzip,
        replace: vec![place.to_str().unwrap().to_owned()],
        max_bytes: BOUNDS.max_bytes,
        max_entries: BOUNDS.max_entries,
    };
    let outcome = put_in_place(&request, gzip(&tar).as_slice());

    assert_eq!(names(home.path()), ["outside", "workspace"]);
    assert_eq!(names(&outside), ["file"]);
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"1");
    let found = names(&place);
    match outcome {
        // Unless it brought something of that name itself.
        Ok(_) if data.windows(12).any(|it| it == b".astraforge-") => {}
        Ok(_) => assert!(!found.iter().any(|name| name.starts_with(".astraforge-")), "{found:?}"),
        Err(_) => {
            assert_eq!(found, ["before"]);
            assert_eq!(fs::read(place.join("before")).unwrap(), b"1");
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Builds an archive of what the bytes say, at and around the place.
fn build(mut data: &[u8], home: &Path) -> Vec<u8> {
    const KINDS: [u8; 8] = *b"0125L0gx";
    let mut tar = Vec::new();
    let mut n_members = 0;
    while let Some((&[kind, name, target, size], rest)) = data.split_first_chunk::<4>() {
        let (name, rest) = rest.split_at(usize::from(name % 60).min(rest.len()));
        let (target, rest) = rest.split_at(usize::from(target % 60).min(rest.len()));
        data = rest;
        let within = |path: &[u8]| [home.join("workspace/").as_os_str().as_bytes(), path].concat();
        let mut header = tar::Header::new_gnu();
        let old = header.as_old_mut();
        let path = if kind & 8 == 0 { within(name) } else { name.to_vec() };
        let link = match kind & 48 {
            0 => target.to_vec(),
            16 => within(target),
            32 => [b"../".as_slice(), target].concat(),
            _ => home.join("outside").as_os_str().as_bytes().to_vec(),
        };
        copy(&mut old.name, &path);
        copy(&mut old.linkname, &link);
        header.set_entry_type(tar::EntryType::new(KINDS[usize::from(kind & 7)]));
        header.set_mode(u32::from(size) << 2);
        // Only one that is a file has contents, unless the flag says otherwise.
        let n_bytes = if matches!(kind & 7, 0 | 4 | 5 | 6 | 7) || kind & 64 != 0 { usize::from(size) } else { 0 };
        header.set_size(n_bytes as u64);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend(name.iter().copied().chain(std::iter::repeat(b'x')).take(n_bytes));
        tar.resize(tar.len().next_multiple_of(512), 0);
        n_members += 1;
        // A flag breaks the archive off here.
        if kind & 128 != 0 || n_members > 300 {
            return tar;
        }
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn copy(to: &mut [u8], from: &[u8]) {
    let n_bytes = from.len().min(to.len());
    to[..n_bytes].copy_from_slice(&from[..n_bytes]);
}

/// Inputs that are right, and some that are hostile, to begin with.
pub(crate) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let member = |kind: u8, name: &str, target: &str, size: u8| {
        let head = [kind, name.len() as u8, target.len() as u8, size];
        [&head[..], name.as_bytes(), target.as_bytes()].concat()
    };
    let ordinary = [
        member(3, "src", "", 120),
        member(0, "src/a", "", 100),
        member(2, "link", "src/a", 0),
        member(1 | 16, "hard", "src/a", 0),
    ]
    .concat();
    let through_a_link = [member(2 | 48, "out", "", 0), member(0, "out/file", "", 9)].concat();
    let over_a_link = [member(2 | 32, "out", "outside/file", 0), member(0, "out", "", 9)].concat();
    let from = Path::new("/f");
    let tar = |data: &[u8]| [&[2], build(data, from).as_slice()].concat();
    let zstd = |data: &[u8]| [&[0], zstd::encode_all(build(data, from).as_slice(), 1).unwrap().as_slice()].concat();
    vec![
        ("archive", "tar", tar(&ordinary)),
        ("archive", "zstd", zstd(&ordinary)),
        ("archive", "gzip", [&[1], gzip(&build(&ordinary, from)).as_slice()].concat()),
        ("archive", "long-name", tar(&[member(4, "a-long-name", "", 40), member(0, "short", "", 3)].concat())),
        ("archive", "attributes", tar(&[member(7, "14 path=a/b/c\n", "", 14), member(0, "short", "", 3)].concat())),
        ("unpack", "ordinary", ordinary),
        ("unpack", "through-a-link", through_a_link),
        ("unpack", "over-a-link", over_a_link),
        ("unpack", "leads-up", member(0, "../outside/file", "", 9)),
        ("unpack", "hard-link-out", member(1 | 48, "hard", "", 0)),
        ("unpack", "cut-off", member(128, "half", "", 99)),
        ("unpack", "staging", [member(3, ".astraforge-staging", "", 120), member(0, "a", "", 1)].concat()),
    ]
}
