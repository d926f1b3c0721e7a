//! The folder of all sandboxes' folders, which nobody but this server may write.
//!
//! What lies in it is believed: which processes to end, which control groups to remove, which program to start.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

/// Makes the folder, for its owner alone, and returns its absolute path.
///
/// # Errors
/// When it cannot be made, or there is one that somebody else may write.
pub(super) fn make(path: &Path) -> io::Result<PathBuf> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let path = path.canonicalize()?;
    let found = fs::metadata(&path)?;
    let refused = |reason: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    if found.uid() != rustix::process::geteuid().as_raw() {
        refused(format!("it belongs to another user ({}); name a folder of your own", found.uid()))
    } else if found.mode() & 0o022 != 0 {
        refused(format!("others may write to it; to change that: chmod go-w {}", path.display()))
    } else {
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_that_others_may_write_is_refused_with_the_command_that_closes_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("new/state");
        assert_eq!(make(&path).unwrap(), path.canonicalize().unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        for mode in [0o770, 0o702, 0o1777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = make(&path).unwrap_err().to_string();
            assert!(error.contains("chmod go-w "), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        make(&path).unwrap();
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused() {
        let home = tempfile::tempdir().unwrap();
        // Only root may give a folder away; to everyone else `/` is somebody else's.
        let theirs = if rustix::process::geteuid().is_root() {
            rustix::fs::chown(home.path(), Some(rustix::fs::Uid::from_raw(65534)), None).unwrap();
            home.path()
        } else {
            Path::new("/")
        };
        assert!(make(theirs).unwrap_err().to_string().contains("belongs to another user"));
    }
}
