//! Layers put over each other, and those that try to get out.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, symlink},
};

use rustix::fs::CWD;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;

/// A member: its name, its kind, its contents or what it links to, its mode.
type Given<'a> = (&'a str, EntryType, &'a str, u32);

fn file<'a>(name: &'a str, contents: &'a str) -> Given<'a> {
    (name, EntryType::Regular, contents, 0o644)
}

fn link<'a>(name: &'a str, target: &'a str) -> Given<'a> {
    (name, EntryType::Symlink, target, 0o777)
}

fn folder(name: &str) -> Given<'_> {
    (name, EntryType::Directory, "", 0o700)
}

fn hidden(name: &str) -> Given<'_> {
    file(name, "")
}

/// Writes members as they are, however wrong.
fn layer(members: &[Given<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, text, mode) in members {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_mtime(1_700_000_000);
        let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
        if is_link {
            header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_size(if is_link { 0 } else { text.len() as u64 });
        header.set_cksum();
        builder.append(&header, if is_link { &[][..] } else { text.as_bytes() }).unwrap();
    }
    builder.into_inner().unwrap()
}

struct Image {
    /// With `root`, and beside it what nothing may reach.
    home: TempDir,
    root: RootFs,
}

impl Image {
    fn new() -> Self {
        Self::bounded(1 << 20, 1000)
    }

    fn bounded(max_bytes: u64, max_entries: u64) -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("root")).unwrap();
        fs::create_dir(home.path().join("outside")).unwrap();
        fs::write(home.path().join("outside/kept"), "untouched").unwrap();
        let root = openat(CWD, home.path().join("root"), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
        Self { home, root: RootFs::new(root, Bounds { max_bytes, max_entries }) }
    }

    fn add(&mut self, members: &[Given<'_>]) -> Result<(), ArchiveError> {
        self.root.add(&layer(members)[..])
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.home.path().join("root").join(path)).ok()
    }

    /// Whatever a layer did, beside the image nothing changed.
    #[track_caller]
    fn assert_closed(&self) {
        let beside: Vec<_> = fs::read_dir(self.home.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(beside.len(), 2, "{beside:?}");
        let outside: Vec<_> = fs::read_dir(self.home.path().join("outside")).unwrap().collect();
        assert_eq!(outside.len(), 1, "{outside:?}");
        let kept = self.home.path().join("outside/kept");
        assert_eq!(fs::read_to_string(&kept).unwrap(), "untouched");
        assert_eq!(fs::metadata(kept).unwrap().nlink(), 1);
    }
}

#[test]
fn a_later_layer_replaces_and_hides_what_earlier_ones_hold() {
    let mut image = Image::new();
    image.add(&[folder("a"), file("a/old", "1"), file("a/gone", "1"), file("b/x", "1"), file("b/y", "1")]).unwrap();
    image.add(&[file("a/old", "2"), hidden("a/.wh.gone"), file("b/z", "2"), hidden("b/.wh..wh..opq")]).unwrap();
    assert_eq!(image.read("a/old").as_deref(), Some("2"));
    assert_eq!((image.read("a/gone"), image.read("b/x"), image.read("b/y")), (None, None, None));
    assert_eq!(image.read("b/z").as_deref(), Some("2"), "a layer hides nothing of its own");
    assert_eq!(image.read("a/.wh.gone"), None);
}

#[test]
fn an_opaque_folder_hides_what_lies_deeper_too() {
    let mut image = Image::new();
    image.add(&[file("a/b/old", "1"), file("a/c/old", "1")]).unwrap();
    image.add(&[file("a/b/new", "2"), hidden("a/.wh..wh..opq")]).unwrap();
    assert_eq!((image.read("a/b/new").as_deref(), image.read("a/b/old")), (Some("2"), None));
    assert!(!image.home.path().join("root/a/c").exists());
}

#[test]
fn kinds_replace_each_other() {
    let mut image = Image::new();
    image.add(&[folder("x"), file("x/in", "1"), file("y", "1"), link("z", "y")]).unwrap();
    image.add(&[file("x", "2"), folder("y"), file("y/in", "2"), folder("z"), file("z/in", "2")]).unwrap();
    assert_eq!(image.read("x").as_deref(), Some("2"));
    assert_eq!(image.read("y/in").as_deref(), Some("2"));
    assert_eq!(image.read("z/in").as_deref(), Some("2"));
}

#[test]
fn a_link_between_folders_of_the_image_is_followed_as_inside() {
    let mut image = Image::new();
    image.add(&[folder("usr/lib"), link("lib", "usr/lib"), link("abs", "/usr/lib")]).unwrap();
    image.add(&[file("lib/one", "1"), file("abs/two", "2")]).unwrap();
    assert_eq!((image.read("usr/lib/one").as_deref(), image.read("usr/lib/two").as_deref()), (Some("1"), Some("2")));
    assert!(fs::symlink_metadata(image.home.path().join("root/lib")).unwrap().is_symlink());
}

#[test]
fn rights_are_those_that_an_agent_may_have() {
    let mut image = Image::new();
    let closed = |name, mode| (name, EntryType::Regular, "x", mode);
    image.add(&[folder("closed"), closed("closed/key", 0o600), closed("su", 0o6711)]).unwrap();
    for (path, mode) in [("closed", 0o755), ("closed/key", 0o644), ("su", 0o755)] {
        assert_eq!(fs::metadata(image.home.path().join("root").join(path)).unwrap().mode() & 0o7777, mode, "{path}");
    }
}

#[test]
fn devices_are_left_out() {
    let mut image = Image::new();
    let device = |name, kind| (name, kind, "", 0o666);
    image
        .add(&[
            device("dev/sda", EntryType::Block),
            device("dev/mem", EntryType::Char),
            device("fifo", EntryType::Fifo),
            file("after", "1"),
        ])
        .unwrap();
    assert_eq!(image.read("after").as_deref(), Some("1"));
    let left = fs::read_dir(image.home.path().join("root")).unwrap().map(|it| it.unwrap());
    assert!(left.into_iter().all(|it| !it.file_type().unwrap().is_fifo() && it.file_name() != "dev"));
}

#[test]
fn a_name_that_leads_up_is_refused() {
    for name in ["../outside/kept", "a/../../outside/kept", "a/.."] {
        let mut image = Image::new();
        image.add(&[folder("a"), file(name, "owned")]).unwrap_err();
        image.assert_closed();
    }
}

#[test]
fn an_absolute_name_is_one_in_the_image() {
    let mut image = Image::new();
    image.add(&[file("/outside/kept", "owned"), file("/etc/passwd", "x")]).unwrap();
    assert_eq!(image.read("outside/kept").as_deref(), Some("owned"));
    image.assert_closed();
}

#[test]
fn what_is_written_through_a_link_stays_in_the_image() {
    let mut image = Image::new();
    let outside = image.home.path().join("outside").to_str().unwrap().to_owned();
    for (name, target) in [("up", "../outside"), ("far", "../../../../../.."), ("abs", outside.as_str())] {
        // Each name leads somewhere inside, to nothing, or is refused; never out.
        let _ = image.add(&[link(name, target), file(&format!("{name}/kept"), "owned")]);
        let _ = image.add(&[hidden(&format!("{name}/.wh.kept")), hidden(&format!("{name}/.wh..wh..opq"))]);
        image.assert_closed();
    }
    // The last name is replaced, not followed.
    image.add(&[link("last", &outside), file("last", "mine")]).unwrap();
    assert_eq!(image.read("last").as_deref(), Some("mine"));
    image.assert_closed();
}

#[test]
fn a_hard_link_reaches_nothing_outside() {
    let hard = |name, target| (name, EntryType::Link, target, 0o644);
    let mut image = Image::new();
    let kept = image.home.path().join("outside/kept").to_str().unwrap().to_owned();
    for target in ["../outside/kept", kept.as_str(), "/etc/passwd", "up/kept", "toward"] {
        let members = [link("up", "../outside"), link("toward", "../outside/kept"), hard("leaked", target)];
        image.add(&members).unwrap_err();
        image.assert_closed();
    }
    image.add(&[file("one", "1"), hard("two", "/one")]).unwrap();
    assert_eq!(image.read("two").as_deref(), Some("1"));
}

#[test]
fn a_link_of_the_kernel_is_not_followed() {
    let mut image = Image::new();
    // As `proc` would be if the root had one: the resolution stops at what leads out of the name space.
    symlink("/proc/self/root", image.home.path().join("root/magic")).unwrap();
    let _ = image.add(&[file("magic/tmp/astraforge-owned", "owned")]);
    assert!(!Path::new("/tmp/astraforge-owned").exists());
    image.assert_closed();
}

#[test]
fn whiteouts_remove_nothing_but_names() {
    let mut image = Image::new();
    image.add(&[file("a/kept", "1")]).unwrap();
    image.add(&[hidden("a/.wh."), hidden("a/.wh.."), hidden("a/.wh..."), hidden("none/.wh.x")]).unwrap();
    assert_eq!(image.read("a/kept").as_deref(), Some("1"));
    image.assert_closed();
}

#[test]
fn all_layers_together_stay_within_bounds() {
    let mut image = Image::bounded(10, 1000);
    image.add(&[file("a", "123456")]).unwrap();
    assert!(matches!(image.add(&[file("b", "123456")]), Err(ArchiveError::TooLarge { what: "bytes", .. })));
    let mut image = Image::bounded(1 << 20, 4);
    let many: Vec<String> = (0..20).map(|i| format!("f{i}")).collect();
    let many: Vec<_> = many.iter().map(|name| file(name, "")).collect();
    assert!(matches!(image.add(&many), Err(ArchiveError::TooLarge { what: "members", .. })));
}
