//! What an archive must keep, and what it must not do.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use astraforge_core::archive::{CompareRequest, PackRequest, TreeChangeKind, UnpackRequest};
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;

/// A folder that plays `/workspace`, beside a file that nothing may touch.
struct World {
    outer: TempDir,
    root: PathBuf,
}

impl World {
    fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().canonicalize().unwrap().join("workspace");
        fs::create_dir(&root).unwrap();
        fs::write(outer.path().join("outside"), "untouched").unwrap();
        Self { outer, root }
    }

    fn request(&self) -> PackRequest {
        PackRequest::of([self.root.display().to_string()])
    }

    fn pack(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        pack(&self.request(), &mut bytes).unwrap();
        bytes
    }

    fn unpack(&self, compression: Compression, bytes: &[u8]) -> Result<(), String> {
        let request = UnpackRequest {
            compression,
            replace: vec![self.root.display().to_string()],
            max_bytes: 10_000_000,
            max_entries: 1000,
        };
        unpack(&request, bytes).map(drop).map_err(|error| error.to_string())
    }

    /// All paths below the root with what they are, in order.
    fn tree(&self) -> Vec<String> {
        let mut lines = Vec::new();
        list(&self.root, &self.root, &mut lines);
        lines.sort();
        lines
    }

    /// The prefix that members of this world's archives have.
    fn member(&self, name: &str) -> String {
        self.root.join(name).strip_prefix("/").unwrap().display().to_string()
    }

    /// Refuses the members, and leaves everything as it was.
    #[track_caller]
    fn check_refused(&self, write: impl FnOnce(&mut Builder<Vec<u8>>), reason: &str) {
        fs::write(self.root.join("kept"), "as it was").unwrap();
        let before = self.tree();
        let mut builder = Builder::new(Vec::new());
        write(&mut builder);
        let bytes = zstd::encode_all(&builder.into_inner().unwrap()[..], 1).unwrap();
        let error = self.unpack(Compression::Zstd, &bytes).unwrap_err();
        assert!(error.contains(reason), "{error}");
        assert_eq!(self.tree(), before);
        assert_eq!(fs::read_to_string(self.outer.path().join("outside")).unwrap(), "untouched");
        assert_eq!(fs::read_dir(self.outer.path()).unwrap().count(), 2);
    }
}

fn list(root: &Path, folder: &Path, lines: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let what = if meta.is_dir() {
            list(root, &path, lines);
            "/".to_owned()
        } else if meta.is_symlink() {
            format!(" -> {}", fs::read_link(&path).unwrap().display())
        } else {
            format!(" {} {:x}", meta.len(), meta.mtime_nsec())
        };
        lines.push(format!("{} {:o}{what}", path.strip_prefix(root).unwrap().display(), meta.mode() & 0o7777));
    }
}

/// Appends a member whose name nobody checks.
fn raw(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, contents: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(contents.len() as u64);
    header.set_mode(0o6755);
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, contents).unwrap();
}

fn fill(root: &Path) {
    fs::create_dir_all(root.join("src/deep/er")).unwrap();
    fs::write(root.join("src/main.rs"), "fn main() {}\n").unwrap();
    fs::write(root.join("src/deep/er/bytes"), (0..200_000u32).map(|n| n as u8).collect::<Vec<_>>()).unwrap();
    fs::write(root.join(format!("{}.txt", "long".repeat(60))), "long name").unwrap();
    fs::write(root.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::hard_link(root.join("run.sh"), root.join("same.sh")).unwrap();
    symlink("src/main.rs", root.join("link")).unwrap();
    symlink("/nowhere/at/all", root.join("dangling")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::create_dir(root.join("common")).unwrap();
    fs::set_permissions(root.join("common"), fs::Permissions::from_mode(0o3770)).unwrap();
    fs::write(root.join("unreadable"), "mine").unwrap();
    fs::set_permissions(root.join("unreadable"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::create_dir(root.join("locked")).unwrap();
    fs::write(root.join("locked/in"), "x").unwrap();
    fs::set_permissions(root.join("locked"), fs::Permissions::from_mode(0o500)).unwrap();
}

#[test]
fn a_tree_comes_back_as_it_was_and_what_came_since_is_gone() {
    let world = World::new();
    fill(&world.root);
    let before = world.tree();
    let archive = world.pack();
    assert_eq!(world.tree(), before, "packing changes nothing");
    fs::set_permissions(world.root.join("locked"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(world.root.join("since"), "new").unwrap();
    fs::remove_file(world.root.join("src/main.rs")).unwrap();
    world.unpack(Compression::Zstd, &archive).unwrap();
    assert_eq!(world.tree(), before);
    let ino = |name| fs::metadata(world.root.join(name)).unwrap().ino();
    assert_eq!(ino("run.sh"), ino("same.sh"), "two names of one file stay that");
}

#[test]
fn sockets_and_fifos_have_no_place_and_nobody_waits_for_them() {
    let world = World::new();
    let _socket = std::os::unix::net::UnixListener::bind(world.root.join("socket")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, world.root.join("fifo"), rustix::fs::Mode::RWXU).unwrap();
    fs::write(world.root.join("file"), "x").unwrap();
    let summary = pack(&world.request(), &mut Vec::new()).unwrap();
    assert_eq!((summary.n_skipped, summary.n_entries, summary.n_bytes), (2, 2, 1));
}

#[test]
fn what_is_excluded_stays_out() {
    let world = World::new();
    for name in ["a/node_modules/x", "b/node_modules/y", "a/keep.rs", "a/drop.log", "target/z"] {
        fs::create_dir_all(world.root.join(name).parent().unwrap()).unwrap();
        fs::write(world.root.join(name), "x").unwrap();
    }
    let exclude =
        ["node_modules", "*.log", &world.root.join("target").display().to_string()].map(str::to_owned).to_vec();
    let mut archive = Vec::new();
    pack(&PackRequest { exclude, ..world.request() }, &mut archive).unwrap();
    world.unpack(Compression::Zstd, &archive).unwrap();
    let names: Vec<_> = world.tree().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(names, ["a", "a/keep.rs", "b"]);
}

#[test]
fn an_archive_of_the_contract_is_read() {
    let world = World::new();
    let mut builder = Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    fs::write(world.root.join("old"), "x").unwrap();
    builder.append_dir_all(world.member(""), &world.root).unwrap();
    let archive = builder.into_inner().unwrap().finish().unwrap();
    fs::write(world.root.join("new"), "x").unwrap();
    world.unpack(Compression::Gzip, &archive).unwrap();
    assert_eq!(world.tree().len(), 1);
}

#[test]
fn hostile_members_are_refused_and_change_nothing() {
    let world = World::new();
    let inside = world.member("x");
    let case = |kind, name: &str, link: &str, reason: &str| {
        world.check_refused(|tar| raw(tar, kind, name, link, b""), reason);
    };
    case(EntryType::Regular, "../escape", "", "leads outside");
    case(EntryType::Regular, &world.member("a/../../escape"), "", "leads outside");
    case(EntryType::Regular, "/etc/escape", "", "leads outside");
    case(EntryType::Regular, "etc/escape", "", "outside of what is replaced");
    case(EntryType::Char, &inside, "", "is of kind Char");
    case(EntryType::Block, &inside, "", "is of kind Block");
    case(EntryType::Fifo, &inside, "", "is of kind Fifo");
    case(EntryType::GNUSparse, &inside, "", "is of kind");
    case(EntryType::Link, &inside, "etc/passwd", "outside of what is replaced");
    case(EntryType::Link, &inside, "../outside", "leads outside");
    case(EntryType::Link, &inside, "", "links to nothing");
    case(EntryType::Symlink, &inside, "", "links to nothing");
    let through = |target: &str| {
        world.check_refused(
            |tar| {
                raw(tar, EntryType::Symlink, &world.member("dir"), target, b"");
                raw(tar, EntryType::Regular, &world.member("dir/escape"), "", b"x");
            },
            "leads through what is not a folder",
        );
    };
    through("..");
    through("/tmp");
    world.check_refused(
        |tar| {
            raw(tar, EntryType::Symlink, &world.member("l"), "../outside", b"");
            raw(tar, EntryType::Link, &world.member("h"), &world.member("l"), b"");
        },
        "links to what is not a file",
    );
}

#[test]
fn bombs_are_refused() {
    let world = World::new();
    world.check_refused(
        |tar| raw(tar, EntryType::Regular, &world.member("zeros"), "", &vec![0; 10_000_001]),
        "10000000 bytes",
    );
    world.check_refused(
        |tar| (0..1001).for_each(|n| raw(tar, EntryType::Regular, &world.member(&n.to_string()), "", b"")),
        "1000 members",
    );
    world.check_refused(|tar| raw(tar, EntryType::GNULongName, "x", "", &vec![b'a'; 70_000]), "in a member's name");
    world.check_refused(|tar| raw(tar, EntryType::XHeader, "x", "", &vec![b'a'; 70_000]), "in a member's name");
}

#[test]
fn a_damaged_archive_replaces_nothing() {
    let world = World::new();
    fill(&world.root);
    let archive = world.pack();
    let before = world.tree();
    for end in [0, 1, 10, archive.len() / 2, archive.len() - 1] {
        assert!(world.unpack(Compression::Zstd, &archive[..end]).is_err(), "cut at {end}");
    }
    let mut flipped = archive.clone();
    flipped[archive.len() / 2] ^= 0x55;
    assert!(world.unpack(Compression::Zstd, &flipped).is_err());
    assert!(world.unpack(Compression::Zstd, &[archive, b"garbage".to_vec()].concat()).is_err());
    assert_eq!(world.tree(), before);
}

#[test]
fn what_is_not_compressed_is_whole_or_refused_wherever_it_is_cut() {
    let world = World::new();
    fill(&world.root);
    let before = world.tree();
    let mut archive = Vec::new();
    pack(&PackRequest { compression: Compression::None, ..world.request() }, &mut archive).unwrap();
    let blocks = (0..archive.len()).step_by(512);
    for length in blocks.chain([archive.len() - 1, 1, 700]) {
        let error = world.unpack(Compression::None, &archive[..length]).unwrap_err();
        assert!(error.contains("damaged"), "cut after {length} of {}: {error}", archive.len());
    }
    world.unpack(Compression::None, &archive).unwrap();
    assert_eq!(world.tree(), before);
}

#[test]
fn setuid_bits_are_dropped_and_the_last_member_of_a_name_counts() {
    let world = World::new();
    let mut builder = Builder::new(Vec::new());
    raw(&mut builder, EntryType::Regular, &world.member("tool"), "", b"first");
    raw(&mut builder, EntryType::Regular, &world.member("tool"), "", b"second");
    let archive = zstd::encode_all(&builder.into_inner().unwrap()[..], 1).unwrap();
    world.unpack(Compression::Zstd, &archive).unwrap();
    assert_eq!(fs::read(world.root.join("tool")).unwrap(), b"second");
    assert_eq!(fs::metadata(world.root.join("tool")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn a_swap_that_was_interrupted_is_gone_on_with() {
    let world = World::new();
    let at = |name: &str| world.root.join(name);
    // Killed while it was staged: the old content is whole.
    fs::create_dir(at(".astraforge-staging")).unwrap();
    fs::write(at(".astraforge-staging/new"), "half").unwrap();
    fs::write(at("old"), "x").unwrap();
    swap::finish(&world.root).unwrap();
    assert_eq!(world.tree().len(), 1);
    // Killed between the two moves: half of the old is out, and half of the new is in.
    fs::create_dir(at(".astraforge-complete")).unwrap();
    fs::write(at(".astraforge-complete/new"), "x").unwrap();
    fs::create_dir(at(".astraforge-old")).unwrap();
    fs::write(at(".astraforge-old/gone"), "x").unwrap();
    swap::finish(&world.root).unwrap();
    assert!(at("new").exists() && world.tree().len() == 1, "{:?}", world.tree());
    fs::create_dir(at(".astraforge-trash")).unwrap();
    fs::create_dir(at(".astraforge-complete")).unwrap();
    fs::write(at(".astraforge-complete/second"), "x").unwrap();
    swap::finish(&world.root).unwrap();
    assert!(at("new").exists() && at("second").exists() && world.tree().len() == 2);
}

#[test]
fn a_comparison_names_what_changed() {
    let world = World::new();
    fill(&world.root);
    let archive = world.pack();
    let compare = |limit| {
        let request = CompareRequest { pack: world.request(), limit };
        compare(&request, &archive[..]).unwrap()
    };
    assert_eq!(compare(100).changes, []);
    fs::write(world.root.join("src/main.rs"), "fn main() { }").unwrap();
    fs::remove_file(world.root.join("link")).unwrap();
    fs::write(world.root.join("added"), "12345").unwrap();
    fs::set_permissions(world.root.join("run.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    let found: Vec<_> = compare(100)
        .changes
        .into_iter()
        .map(|it| (it.path.rsplit('/').next().unwrap().to_owned(), it.change, it.old_size, it.new_size))
        .collect();
    let expected = [
        ("added", TreeChangeKind::Added, None, Some(5)),
        ("link", TreeChangeKind::Removed, Some(0), None),
        ("run.sh", TreeChangeKind::Modified, Some(10), Some(10)),
        ("same.sh", TreeChangeKind::Modified, Some(10), Some(10)),
        ("main.rs", TreeChangeKind::Modified, Some(13), Some(13)),
    ];
    assert_eq!(found, expected.map(|(name, change, old, new)| (name.to_owned(), change, old, new)));
    assert!(compare(2).truncated);
}

#[test]
fn what_is_no_folder_of_a_sandbox_is_refused() {
    for path in ["", "/", "workspace", "/a/../b", "/a\0b"] {
        assert!(root(path).is_err(), "{path:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arbitrary_members_never_leave_the_folder(
        members in prop::collection::vec(
            (0..8usize, "[a-z./]{0,12}", "[a-z./]{0,12}", prop::collection::vec(any::<u8>(), 0..40)), 0..6,
        ),
        whole in any::<bool>(),
    ) {
        const KINDS: [EntryType; 8] = [
            EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Link, EntryType::Fifo,
            EntryType::GNULongName, EntryType::XHeader, EntryType::Continuous,
        ];
        let world = World::new();
        let mut builder = Builder::new(Vec::new());
        for (kind, name, link, contents) in &members {
            let name = if whole { world.member(name) } else { name.clone() };
            raw(&mut builder, KINDS[*kind], &name[..name.len().min(99)], link, contents);
        }
        let archive = zstd::encode_all(&builder.into_inner().unwrap()[..], 1).unwrap();
        drop(world.unpack(Compression::Zstd, &archive));
        drop(world.unpack(Compression::Zstd, &archive));
        prop_assert_eq!(fs::read_dir(world.outer.path()).unwrap().count(), 2);
        prop_assert_eq!(fs::read_to_string(world.outer.path().join("outside")).unwrap(), "untouched");
    }
}
