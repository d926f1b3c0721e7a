//! Where the checkout and its target folder are, and how cargo is called in them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::Deserialize;

/// The checkout that the task was started in.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The folder of the virtual manifest.
    pub(crate) root: PathBuf,
    /// The shared target folder; everything that tasks make or install goes below it.
    pub(crate) target: PathBuf,
    /// The members, in cargo's order.
    pub(crate) packages: Vec<Package>,
}

/// A member as `cargo metadata` describes it.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) manifest_path: PathBuf,
    features: std::collections::BTreeMap<String, Vec<String>>,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
}

impl Package {
    /// The package's own folder.
    pub(crate) fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("/"))
    }

    /// Whether others can depend on it.
    pub(crate) fn is_library(&self) -> bool {
        self.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "lib"))
    }

    /// Its features but for `default`.
    pub(crate) fn features(&self) -> impl Iterator<Item = &str> {
        self.features.keys().map(String::as_str).filter(|name| *name != "default")
    }
}

impl Workspace {
    /// Asks cargo where things are.
    pub(crate) fn find() -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Metadata {
            packages: Vec<Package>,
            workspace_root: PathBuf,
            target_directory: PathBuf,
        }
        let mut command = cargo_in(Path::new("."));
        command.args(["metadata", "--no-deps", "--format-version", "1"]);
        let output = command.output().context("could not start cargo")?;
        if !output.status.success() {
            bail!("cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cargo metadata is not readable")?;
        Ok(Self { root: metadata.workspace_root, target: metadata.target_directory, packages: metadata.packages })
    }

    /// `cargo` in the workspace root, building into the shared target folder.
    pub(crate) fn cargo(&self, arguments: impl IntoIterator<Item = impl AsRef<str>>) -> Command {
        let mut command = cargo_in(&self.root);
        command.env("CARGO_TARGET_DIR", &self.target);
        for argument in arguments {
            command.arg(argument.as_ref());
        }
        command
    }

    /// Where `cargo xtask guest` puts the guest, and where the tests are told to find it.
    pub(crate) fn guest(&self) -> PathBuf {
        self.target.join("guest/astraforge-guest")
    }

    /// The platform that rustc builds for here, such as `x86_64-unknown-linux-gnu`.
    pub(crate) fn host_triple(&self) -> anyhow::Result<String> {
        let output =
            Command::new("rustc").arg("-vV").current_dir(&self.root).output().context("could not run rustc")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let host = text.lines().find_map(|line| line.strip_prefix("host: "));
        Ok(host.context("rustc -vV named no host")?.trim().to_owned())
    }
}

/// `cargo` without the variables that the cargo which started us has set for us alone: left in, they
/// look to build scripts like a changed environment, and dependencies are rebuilt for nothing.
fn cargo_in(folder: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(folder);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}
