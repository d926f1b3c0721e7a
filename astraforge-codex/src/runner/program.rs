//! The Codex CLI as a file of the host: where it is, and whether it is of a version that is known to work.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// The version that the runner is tested with, for the install command.
const TESTED: &str = "0.169.0";
/// What the versions that work begin with.
const TESTED_RANGE: &str = "0.169.";

/// The platform's part of the npm package, and the target that its programs are built for.
const PLATFORM: (&str, &str) = if cfg!(target_arch = "aarch64") {
    ("codex-linux-arm64", "aarch64-unknown-linux-musl")
} else {
    ("codex-linux-x64", "x86_64-unknown-linux-musl")
};

/// The folder that holds the native `codex` program, and what comes with it. Sandboxes see it, read-only, at `/opt/codex`.
///
/// ```
/// use astraforge_codex::CodexProgram;
///
/// let nowhere = tempfile::tempdir()?;
/// let error = CodexProgram::find(None, [nowhere.path()]).unwrap_err();
/// assert!(error.to_string().contains("npm install -g @openai/codex"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodexProgram {
    folder: PathBuf,
    program: &'static str,
    home: Home,
}

/// Whose file the program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    /// The host's; sandboxes are shown its folder.
    Host,
    /// The sandbox's image has it where others are shown it.
    Image,
}

/// Where a sandbox sees the program's folder.
pub(super) const FOLDER: &str = "/opt/codex";

impl CodexProgram {
    /// The program that the image of every sandbox brings, at `/opt/codex/bin/codex`; for drivers that can show no
    /// folder of the host.
    #[must_use]
    pub fn in_image() -> Self {
        Self { folder: PathBuf::from(FOLDER), program: "bin/codex", home: Home::Image }
    }

    /// Finds the program: at `given` if that is named, else as `codex` in the first of `folders` (such as those of
    /// `PATH`) that has it.
    ///
    /// npm installs a script as `codex`; the native program that belongs to it is found beside it. `given` may also be
    /// a folder: one that holds the program, or an npm prefix or `node_modules`.
    ///
    /// # Errors
    /// [`CodexNotFound`] says where it was looked for and how to install it.
    pub fn find<P: AsRef<Path>>(
        given: Option<&Path>,
        folders: impl IntoIterator<Item = P>,
    ) -> Result<Self, CodexNotFound> {
        if let Some(given) = given {
            return Self::at(given).ok_or_else(|| CodexNotFound { looked_at: vec![given.to_owned()] });
        }
        let candidates: Vec<PathBuf> = folders.into_iter().map(|folder| folder.as_ref().join("codex")).collect();
        candidates.iter().find_map(|path| Self::at(path)).ok_or(CodexNotFound { looked_at: candidates })
    }

    /// The folder on the host, or in the image.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of the host that sandboxes have to be shown.
    pub(super) fn shown(&self) -> Option<&Path> {
        (self.home == Home::Host).then_some(&*self.folder)
    }

    /// The program's path within the folder.
    pub(super) fn program(&self) -> &str {
        self.program
    }

    fn at(path: &Path) -> Option<Self> {
        let native = native(path)?;
        let beside = native.parent()?;
        // npm's layout: Codex puts the tools of this folder, such as `rg`, on the PATH of the model's commands.
        match beside.parent() {
            Some(above) if beside.ends_with("bin") && above.join("codex-path").is_dir() => {
                Some(Self { folder: above.to_owned(), program: "bin/codex", home: Home::Host })
            }
            _ => Some(Self { folder: beside.to_owned(), program: "codex", home: Home::Host }),
        }
    }
}

/// Finds the native program that a path leads to.
fn native(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    if path.is_dir() {
        let within =
            ["codex", "bin/codex", "lib/node_modules/@openai/codex", "node_modules/@openai/codex", "@openai/codex"];
        let direct = within.iter().find_map(|name| {
            let path = path.join(name);
            if path.is_file() { native(&path) } else { in_package(&path) }
        });
        return direct.or_else(|| in_package(&path));
    }
    if is_native(&path) {
        return Some(path);
    }
    // npm's script: `<package>/bin/codex.js`.
    path.ancestors().skip(1).take(3).find_map(in_package)
}

/// Finds the native program that belongs to an npm package of Codex, wherever npm chose to put it.
fn in_package(package: &Path) -> Option<PathBuf> {
    let (platform, target) = PLATFORM;
    let homes =
        [package.join("node_modules/@openai").join(platform), package.parent()?.join(platform), package.to_owned()];
    let programs = ["bin/codex", "codex/codex"];
    homes
        .iter()
        .flat_map(|home| programs.map(|program| home.join("vendor").join(target).join(program)))
        .find(|path| is_native(path))
        .and_then(|path| path.canonicalize().ok())
}

fn is_native(path: &Path) -> bool {
    let mut magic = [0; 4];
    path.is_file() && File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

/// The Codex CLI is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the Codex CLI was not found (looked at {}); install it with `npm install -g @openai/codex@{TESTED}`, or name the path of its `codex` program",
    shown(looked_at)
)]
pub struct CodexNotFound {
    /// Where it was looked for.
    pub looked_at: Vec<PathBuf>,
}

fn shown(paths: &[PathBuf]) -> String {
    match paths {
        [] => "no folder at all".to_owned(),
        paths => paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
    }
}

/// Reads what `codex --version` prints.
pub(super) fn version(printed: &str) -> Option<&str> {
    printed.trim().strip_prefix("codex-cli ").map(str::trim).filter(|version| !version.is_empty())
}

/// What to say about a version that was not tested.
pub(super) fn doubt(version: Option<&str>) -> Option<String> {
    match version {
        Some(version) if version.starts_with(TESTED_RANGE) => None,
        version => Some(format!(
            "Codex CLI {} is not among the versions that this runner was tested with ({TESTED_RANGE}x); if the run fails, install {TESTED}",
            version.unwrap_or("of an unknown version")
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn program(path: &Path, contents: &[u8]) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }

    fn vendor() -> String {
        format!("{}/vendor/{}/bin/codex", PLATFORM.0, PLATFORM.1)
    }

    /// Lays out an npm prefix with the platform's package at `place`, and finds it through `start`.
    #[track_caller]
    fn check(place: &str, start: &str) {
        let prefix = tempfile::tempdir().unwrap();
        let root = prefix.path().canonicalize().unwrap();
        let expected = root.join(place).join(vendor());
        program(&expected, b"\x7fELF....");
        program(&root.join("lib/node_modules/@openai/codex/bin/codex.js"), b"#!/usr/bin/env node\n");
        std::fs::create_dir_all(root.join("bin")).unwrap();
        symlink("../lib/node_modules/@openai/codex/bin/codex.js", root.join("bin/codex")).unwrap();
        let start = root.join(start);
        let found = CodexProgram::find(Some(&start), [""; 0]).unwrap();
        assert_eq!(found.folder(), expected.parent().unwrap());
        if start.ends_with("codex") {
            assert_eq!(CodexProgram::find(None, [&root.join("lib"), start.parent().unwrap()]), Ok(found));
        }
    }

    #[test]
    fn the_native_program_is_found_wherever_npm_puts_it() {
        let beside = "lib/node_modules/@openai";
        let below = "lib/node_modules/@openai/codex/node_modules/@openai";
        for place in [beside, below] {
            check(place, "bin/codex");
            check(place, "lib/node_modules/@openai/codex/bin/codex.js");
            check(place, "lib/node_modules/@openai/codex");
            check(place, "lib/node_modules");
            check(place, "");
        }
    }

    #[test]
    fn a_native_program_is_taken_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        program(&dir.path().join("codex"), b"\x7fELF....");
        let found = CodexProgram::find(None, [dir.path()]).unwrap();
        assert_eq!((found.folder(), found.program()), (dir.path().canonicalize().unwrap().as_path(), "codex"));
        assert_eq!(CodexProgram::find(Some(dir.path()), [""; 0]), Ok(found));
    }

    #[test]
    fn the_tools_that_come_with_it_are_shown_too() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        program(&root.join("bin/codex"), b"\x7fELF....");
        std::fs::create_dir_all(root.join("codex-path")).unwrap();
        let found = CodexProgram::find(Some(&root.join("bin")), [""; 0]).unwrap();
        assert_eq!((found.folder(), found.program()), (root.as_path(), "bin/codex"));
    }

    #[test]
    fn what_is_no_codex_is_not_taken_for_one() {
        let dir = tempfile::tempdir().unwrap();
        program(&dir.path().join("codex"), b"#!/bin/sh\n");
        assert!(CodexProgram::find(None, [dir.path()]).is_err());
        let error = CodexProgram::find(Some(&dir.path().join("nowhere")), [""; 0]).unwrap_err();
        assert!(error.to_string().contains("nowhere"), "{error}");
    }

    #[test]
    fn untested_versions_are_named() {
        assert_eq!(doubt(version("codex-cli 0.169.0\n")), None);
        assert!(doubt(version("codex-cli 0.170.1\n")).unwrap().contains("0.170.1"));
        assert!(doubt(version("something else")).unwrap().contains("unknown"));
    }
}
