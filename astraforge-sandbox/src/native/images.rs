//! Images on this machine: found by name, unpacked once, and shared read-only by all sandboxes.
//!
//! An image is unpacked into a folder whose name is its digest, beneath a name of its own until it is whole. Whoever
//! uses it holds the folder's lock shared; whoever removes it has to have it alone.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
        process::CommandExt,
    },
    path::{Component, Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use astraforge_core::{id::SandboxId, image::Image, session::ByteSize};
use rustix::fs::FlockOperation;

pub(crate) use self::manifest::Settings;
use self::{
    manifest::Digest,
    unpacker::{Order, Report},
};
use super::{
    guest_binary,
    record::{Folder, Lock, remove_tree},
    state_folder,
};

mod layers;
mod manifest;
mod source;
pub mod unpacker;

/// The file system of an unpacked image, in its folder.
const ROOT: &str = "root";
/// What its programs expect, beside that.
const SETTINGS: &str = "settings.json";
/// What is not whole yet, and what is on its way out; the first dot keeps them apart from digests.
const NEW: &str = ".new-";
const OLD: &str = ".old-";
/// Files and folders of one image.
const MAX_ENTRIES: u64 = 2_000_000;
/// The longest answer of the unpacking process.
const MAX_REPORT: u64 = 64 * 1024;
/// Endings that an image's name may lack.
const ENDINGS: [&str; 4] = ["", ".tar", ".tar.gz", ".tar.zst"];

/// The images of a driver.
#[derive(Debug, Clone)]
pub(super) struct Images {
    /// Where those with a name are, and all that may be asked for; `None` takes any path, and no names.
    pub(super) named: Option<PathBuf>,
    /// Where they are unpacked.
    pub(super) cache: PathBuf,
    /// The guest program, which unpacks.
    pub(super) guest: PathBuf,
    /// The most that one image may hold once it is unpacked.
    pub(super) max_size: ByteSize,
}

/// An image that can be shown.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// Its file system.
    pub(super) root: PathBuf,
    pub(super) settings: Settings,
    /// The folder whose lock its users hold; none for a root folder that is used where it is.
    pub(super) folder: Option<PathBuf>,
    /// Held until a launcher has its own.
    pub(super) lock: Option<Lock>,
}

/// Why an image cannot be had.
#[derive(Debug)]
pub(super) enum ImageError {
    /// There is none of that name; the text says what to give.
    Unknown(String),
    /// There is one, and it is refused or cannot be read.
    Broken(io::Error),
}

impl From<io::Error> for ImageError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl Images {
    /// Finds an image, and unpacks it unless that was done before. Blocks, for as long as unpacking takes.
    pub(super) fn get(&self, image: &Image) -> Result<Unpacked, ImageError> {
        let path = self.path_of(image)?;
        let found = fs::metadata(&path).map_err(|error| ImageError::Unknown(format!("{}: {error}", path.display())))?;
        // What says which image it is: an archive as a whole, or a layout's index.
        let identity = if found.is_dir() {
            match fs::metadata(path.join("index.json")) {
                Ok(index) => index,
                Err(_) => {
                    return Ok(Unpacked { root: path, settings: Settings::default(), folder: None, lock: None });
                }
            }
        } else {
            found
        };
        let reference = self.cache.join(format!("{}.ref", reference(&path, &identity)));
        state_folder::make(&self.cache)?;
        loop {
            if let Some(unpacked) = self.look_up(&reference)? {
                return Ok(unpacked);
            }
            let turn = lock(&reference.with_extension("lock"))?;
            // Somebody else may have been quicker.
            if let Some(unpacked) = self.look_up(&reference)? {
                return Ok(unpacked);
            }
            self.unpack(&path, &reference)?;
            drop(turn);
        }
    }

    /// Removes unpacked images that nobody uses and that were asked for last longer than `age` ago, and what crashes
    /// left. Returns how many images it removed.
    pub(super) fn collect(&self, age: Duration) -> io::Result<usize> {
        let mut n_removed = 0;
        let entries = match fs::read_dir(&self.cache) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            if name.starts_with(NEW) || name.starts_with(OLD) {
                if let Ok(Some(_alone)) = Folder::new(&path).lock(FlockOperation::NonBlockingLockExclusive) {
                    remove_tree(&path)?;
                }
            } else if entry.file_type()?.is_dir() && self.remove_unused(&path, age)? {
                n_removed += 1;
            } else if path.extension().is_some_and(|it| it == "ref")
                && self.target_of(&path).is_none_or(|it| !it.exists())
            {
                let _ = fs::remove_file(path);
            }
        }
        Ok(n_removed)
    }

    fn remove_unused(&self, folder: &Path, age: Duration) -> io::Result<bool> {
        let Ok(Some(_alone)) = Folder::new(folder).lock(FlockOperation::NonBlockingLockExclusive) else {
            return Ok(false);
        };
        let used = fs::metadata(folder.join(SETTINGS)).and_then(|it| it.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        if SystemTime::now().duration_since(used).unwrap_or_default() < age {
            return Ok(false);
        }
        // By one step it is gone for all who look for it.
        let old = self.scratch(OLD);
        fs::rename(folder, &old)?;
        remove_tree(&old)?;
        Ok(true)
    }

    fn path_of(&self, image: &Image) -> Result<PathBuf, ImageError> {
        if let Some(path) = image.as_path() {
            return self.permitted(path);
        }
        let Some(folder) = &self.named else {
            return Err(ImageError::Unknown(format!(
                "{image} is a name, and this driver pulls nothing: give the absolute path of a root folder, an OCI \
                 image layout or an image archive, or configure a folder of images (SANDBOX_IMAGES)"
            )));
        };
        let name = Path::new(image.as_str());
        let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
        let found = ENDINGS.map(|ending| folder.join(format!("{image}{ending}"))).into_iter().find(|it| it.exists());
        found.filter(|_| plain).ok_or_else(|| {
            ImageError::Unknown(format!(
                "there is no {image} in {}; put a root folder, an OCI image layout or an image archive there",
                folder.display()
            ))
        })
    }

    /// Whoever chooses an image chooses what of the host is shown: with a folder of images, nothing but what is in it.
    fn permitted(&self, path: &Path) -> Result<PathBuf, ImageError> {
        let Some(folder) = &self.named else { return Ok(path.to_owned()) };
        let is_plain = path.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
        if is_plain && path != folder && path.starts_with(folder) {
            return Ok(path.to_owned());
        }
        Err(ImageError::Unknown(format!(
            "{} does not lie in {}, the folder of images of this server; put it there",
            path.display(),
            folder.display()
        )))
    }

    /// Finds what was unpacked before.
    fn look_up(&self, reference: &Path) -> io::Result<Option<Unpacked>> {
        let Some(folder) = self.target_of(reference) else { return Ok(None) };
        let lock = match share(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            lock => lock?,
        };
        let settings = serde_json::from_slice(&fs::read(folder.join(SETTINGS))?)?;
        // When it was used last; a cache on a disk that cannot be written serves all the same.
        let _ =
            File::options().write(true).open(folder.join(SETTINGS)).and_then(|it| it.set_modified(SystemTime::now()));
        Ok(Some(Unpacked { root: folder.join(ROOT), settings, folder: Some(folder), lock: Some(lock) }))
    }

    fn target_of(&self, reference: &Path) -> Option<PathBuf> {
        let digest: Digest = fs::read_to_string(reference).ok()?.try_into().ok()?;
        Some(self.cache.join(digest.hex()))
    }

    /// Unpacks an image and notes what it is. The caller has the turn of all who want the same one.
    fn unpack(&self, source: &Path, reference: &Path) -> io::Result<()> {
        let target = self.scratch(NEW);
        fs::DirBuilder::new().mode(0o755).create(&target)?;
        let folder = Folder::new(&target);
        // Its maker is its only user; when it dies, the next one to clean up finds nobody.
        let _lock = folder.share()?;
        let unpacked = self.run(source, &target).and_then(|digest| {
            let place = self.cache.join(digest.hex());
            match fs::rename(&target, &place) {
                // The same image from elsewhere.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => remove_tree(&target)?,
                renamed => renamed?,
            }
            let new = reference.with_extension("new");
            fs::write(&new, String::from(digest))?;
            fs::rename(new, reference)
        });
        unpacked.inspect_err(|_| drop(remove_tree(&target)))
    }

    /// Has the guest program unpack, which shuts itself in first.
    fn run(&self, source: &Path, target: &Path) -> io::Result<Digest> {
        let mut process = Command::new(&self.guest)
            .arg0(guest_binary::NAME)
            .arg("unpack")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let order = Order {
            source: source.to_owned(),
            target: target.to_owned(),
            max_bytes: self.max_size.as_bytes(),
            max_entries: MAX_ENTRIES,
        };
        let mut report = Vec::new();
        if let (Some(mut stdin), Some(stdout)) = (process.stdin.take(), process.stdout.take()) {
            let _ = stdin.write_all(&serde_json::to_vec(&order)?);
            drop(stdin);
            stdout.take(MAX_REPORT).read_to_end(&mut report)?;
        }
        let status = process.wait()?;
        match serde_json::from_slice(&report) {
            Ok(Report::Unpacked(digest)) => Ok(digest),
            Ok(Report::Failed(why)) => Err(source::refused(why)),
            Err(_) => Err(source::refused(format!("unpacking it took more than it may, or broke: {status}"))),
        }
    }

    fn scratch(&self, prefix: &str) -> PathBuf {
        self.cache.join(format!("{prefix}{}", SandboxId::random()))
    }
}

/// Shares an unpacked image; waits while somebody only looks whether it is unused.
fn share(folder: &Path) -> io::Result<Lock> {
    for _ in 0..1000 {
        match Folder::new(folder).share() {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(Duration::from_millis(1)),
            shared => return shared,
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Takes turns with all who want the same image.
fn lock(path: &Path) -> io::Result<File> {
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.lock()?;
    Ok(file)
}

/// Names what lies at a path now: another file, or the same one after a change, has another name.
fn reference(path: &Path, found: &fs::Metadata) -> String {
    let text = format!(
        "{}\0{} {} {} {} {} {} {}",
        path.display(),
        found.dev(),
        found.ino(),
        found.size(),
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec()
    );
    Digest::of(text.as_bytes()).hex()
}
