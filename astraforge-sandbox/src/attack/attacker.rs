//! The hostile program that is put into sandboxes.

use std::path::{Path, PathBuf};

use bytes::Bytes;

/// Name of the program.
const NAME: &str = "astraforge-attacker";

/// Where it is looked for, from the folder of the executable: beside it, and where `cargo xtask guest` puts it.
const PLACES: [&str; 2] = [".", "../guest"];

/// The program, read.
#[derive(Debug, Clone)]
pub struct Attacker(Bytes);

/// Why there is no program to attack with.
#[derive(Debug, thiserror::Error)]
#[error("no program to attack with at {}; build it with `cargo xtask guest`, or name one that exists", list(looked_at))]
pub struct AttackerError {
    /// The paths that were tried, in order.
    looked_at: Vec<PathBuf>,
}

impl Attacker {
    /// Reads the program at `option`, else the one that lies near this executable.
    ///
    /// # Errors
    /// [`AttackerError`] lists where it looked. An `option` that names no program is never replaced.
    pub fn find(option: Option<&Path>) -> Result<Self, AttackerError> {
        let executable = std::env::current_exe().unwrap_or_default();
        let near = PLACES.iter().filter_map(|it| Some(executable.parent()?.join(it).join(NAME)));
        let looked_at: Vec<PathBuf> = option.map_or_else(|| near.collect(), |it| vec![it.to_owned()]);
        let found = looked_at.iter().find_map(|it| std::fs::read(it).ok());
        found.map(|it| Self(it.into())).ok_or(AttackerError { looked_at })
    }

    /// The program that lies beside `guest`, as it is built.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn beside(guest: &Path) -> Result<Self, AttackerError> {
        Self::find(Some(&guest.with_file_name(NAME)))
    }

    pub(super) fn bytes(&self) -> Bytes {
        self.0.clone()
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|it| it.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_named_with_what_to_do() {
        let error = Attacker::find(Some(Path::new("/nowhere/attacker"))).unwrap_err().to_string();
        assert!(error.contains("/nowhere/attacker; build it with `cargo xtask guest`"), "{error}");
    }
}
