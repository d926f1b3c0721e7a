//! Finds the guest program that every native sandbox is started with.

use std::{
    fs, io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::state_folder;

/// Name of the guest program.
pub const NAME: &str = "astraforge-guest";

/// Where it is looked for, from the folder of the executable: beside it, where packages put programs that people do not
/// start, and where `cargo xtask guest` puts it.
pub const PLACES: [&str; 3] = [".", "../lib/astraforge", "../guest"];

#[cfg(astraforge_embedded_guest)]
const EMBEDDED: Option<&[u8]> = Some(include_bytes!(env!("ASTRAFORGE_EMBED_GUEST")));
#[cfg(not(astraforge_embedded_guest))]
const EMBEDDED: Option<&[u8]> = None;

/// The guest program on disk.
///
/// ```
/// use std::path::Path;
/// use astraforge_sandbox::native::guest_binary::GuestBinary;
///
/// let error = GuestBinary::find(Some(Path::new("/nowhere")), Path::new("/tmp")).unwrap_err();
/// assert!(error.to_string().contains("cargo xtask guest"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestBinary(PathBuf);

/// Why there is no guest program to start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestBinaryError {
    /// None was found.
    #[error(
        "no guest program: looked at {}; build it with `cargo xtask guest`, or name one that exists",
        list(looked_at)
    )]
    NotFound {
        /// The paths that were tried, in order.
        looked_at: Vec<PathBuf>,
    },
    /// The embedded one could not be written to disk.
    #[error("cannot write the guest program to {path}")]
    Write {
        /// Where it was to go.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl GuestBinary {
    /// Finds the guest program: the one named by `option`, else one that lies near this executable ([`PLACES`]), else
    /// the one built into this executable, which is written below `state_dir` first.
    ///
    /// # Errors
    /// [`GuestBinaryError::NotFound`] lists where it looked. An `option` that names no program is never replaced.
    pub fn find(option: Option<&Path>, state_dir: &Path) -> Result<Self, GuestBinaryError> {
        if let Some(path) = option {
            return Self::at(path).ok_or_else(|| not_found([path.to_owned()]));
        }
        let executable = std::env::current_exe().unwrap_or_default();
        let near: Vec<_> = PLACES.iter().filter_map(|it| Some(executable.parent()?.join(it).join(NAME))).collect();
        if let Some(found) = near.iter().find_map(|it| Self::at(it)) {
            return Ok(found);
        }
        match EMBEDDED {
            Some(bytes) => write(bytes, state_dir).map(Self),
            None => Err(not_found(near)),
        }
    }

    /// Returns the program's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn at(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0);
        found.then(|| Self(path.to_owned()))
    }
}

fn not_found(looked_at: impl Into<Vec<PathBuf>>) -> GuestBinaryError {
    GuestBinaryError::NotFound { looked_at: looked_at.into() }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|it| it.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Writes the embedded program below `state_dir`, whole or not at all. Its name holds what it contains, so that servers
/// of two versions do not take each other's away.
fn write(bytes: &[u8], state_dir: &Path) -> Result<PathBuf, GuestBinaryError> {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    bytes.hash(&mut hasher);
    let path = state_dir.join(format!("{NAME}-{:016x}", hasher.finish()));
    if let Err(source) = state_folder::make(state_dir) {
        return Err(GuestBinaryError::Write { path, source });
    }
    if fs::read(&path).is_ok_and(|it| it == bytes) {
        return Ok(path);
    }
    let new = state_dir.join(format!(".{NAME}-{}", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o700)
        .open(&new)
        .and_then(|mut file| io::Write::write_all(&mut file, bytes))
        .and_then(|()| fs::rename(&new, &path));
    match written {
        Ok(()) => Ok(path),
        Err(source) => Err(GuestBinaryError::Write { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_named_but_missing_is_not_replaced_by_another() {
        let home = tempfile::tempdir().unwrap();
        let error = GuestBinary::find(Some(&home.path().join("none")), home.path()).unwrap_err();
        assert!(error.to_string().contains("none; build it with `cargo xtask guest`"), "{error}");
    }

    #[test]
    fn the_embedded_program_is_written_once_and_for_its_owner_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = write(b"one", home.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(write(b"one", home.path()).unwrap(), path);
        assert_ne!(write(b"two", home.path()).unwrap(), path);
        assert_eq!(fs::read(path).unwrap(), b"one");
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(write(b"one", home.path()).is_err(), "others may have put it there");
    }
}
