//! Container images made on the spot, without a registry and without an engine.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::{process, python::Python};

/// What `/etc/passwd` and `/etc/group` say in images with a system.
const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nagent:x:1000:1000::/home/agent:/bin/sh\n";
const GROUPS: &str = "root:x:0:\nagent:x:1000:\n";

/// An image of one layer, to be written as an archive that `docker load` and `ctr images import` read.
#[derive(Debug)]
pub(crate) struct Image {
    name: String,
    command: Vec<String>,
    members: Vec<(PathBuf, Member)>,
}

#[derive(Debug)]
enum Member {
    Folder { mode: u32 },
    Copy { of: PathBuf },
    Text(&'static str),
    Link { to: PathBuf },
}

impl Image {
    /// An empty image.
    pub(crate) fn new(name: &str, command: &[&str]) -> Self {
        Self { name: name.to_owned(), command: command.iter().map(ToString::to_string).collect(), members: Vec::new() }
    }

    /// What a pod of the test cluster starts from.
    pub(super) fn pause() -> anyhow::Result<Self> {
        let image = Self::new("docker.io/library/pause:test", &["/busybox", "sleep", "infinity"]);
        Ok(image.with_file("busybox", Path::new("/usr/bin/busybox")))
    }

    /// A small system: busybox, and a bash.
    pub(super) fn busybox(name: &str) -> anyhow::Result<Self> {
        let mut image = Self::new(name, &["sh"]).with_system();
        let busybox = Path::new("/usr/bin/busybox");
        for applet in process::read(Command::new(busybox).arg("--list"))?.lines() {
            image = image.with_link(format!("bin/{applet}"), "busybox");
        }
        // One that cannot be started serves as itself.
        image.members.retain(|(path, _)| path != Path::new("bin/busybox"));
        Ok(image.with_file("bin/busybox", busybox).with_file("bin/bash", Path::new("/usr/bin/bash-static")))
    }

    /// Adds a Python with its pip.
    pub(super) fn with_python(mut self) -> anyhow::Result<Self> {
        let python = Python::find()?;
        for file in &python.files {
            self = self.with_file(file.strip_prefix("/")?, file);
        }
        Ok(self.with_link("bin/python3", python.program))
    }

    /// Some programs of this machine with the libraries they need, above the small system; and Codex where workspaces
    /// look for it.
    pub(crate) fn of_this_machine(name: &str, programs: &[&str], codex: &Path) -> anyhow::Result<Self> {
        let mut files = BTreeSet::new();
        for program in programs {
            let path = process::find(program).with_context(|| format!("{program} is not installed"))?;
            files.extend(process::libraries(&path)?);
            files.insert(path);
        }
        let mut image = Self::busybox(name)?;
        let codex_folder = codex.parent().and_then(Path::parent).context("codex has no folder")?;
        image.add_tree(Path::new("opt/codex"), codex_folder)?;
        for file in files {
            let inside = file.strip_prefix("/")?.to_owned();
            image = image.with_file(inside, &file);
        }
        Ok(image)
    }

    fn add_tree(&mut self, path: &Path, of: &Path) -> anyhow::Result<()> {
        for entry in fs::read_dir(of).with_context(|| format!("cannot read {}", of.display()))? {
            let entry = entry?;
            let inside = path.join(entry.file_name());
            if entry.path().is_dir() {
                self.add_tree(&inside, &entry.path())?;
            } else {
                self.members.push((inside, Member::Copy { of: entry.path() }));
            }
        }
        Ok(())
    }

    /// The guest alone.
    pub(super) fn guest(guest: &Path) -> anyhow::Result<Self> {
        let name = format!("astraforge/guest:{}", env!("CARGO_PKG_VERSION"));
        Ok(Self::new(&name, &["/astraforge-guest", "--version"]).with_file("astraforge-guest", guest))
    }

    /// What a pod names it by.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Adds the folders of a system, and its users.
    pub(crate) fn with_system(mut self) -> Self {
        let folders = [("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("home", 0o755), ("home/agent", 0o755)];
        let more = [("proc", 0o755), ("root", 0o755), ("sys", 0o755), ("tmp", 0o1777), ("workspace", 0o1777)];
        self.members.extend(folders.into_iter().chain(more).map(|(path, mode)| (path.into(), Member::Folder { mode })));
        self.members.push(("etc/passwd".into(), Member::Text(USERS)));
        self.members.push(("etc/group".into(), Member::Text(GROUPS)));
        self
    }

    /// Adds a file of this machine.
    pub(crate) fn with_file(mut self, path: impl Into<PathBuf>, of: &Path) -> Self {
        self.members.push((path.into(), Member::Copy { of: of.to_owned() }));
        self
    }

    /// Adds a symbolic link.
    pub(crate) fn with_link(mut self, path: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Self {
        self.members.push((path.into(), Member::Link { to: to.into() }));
        self
    }

    /// Writes the archive.
    pub(crate) fn write(&self, archive: &Path) -> anyhow::Result<()> {
        let layer = archive.with_extension("layer");
        self.write_layer(&layer)?;
        let digest = digest(&layer)?;
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": { "Cmd": self.command, "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        })
        .to_string();
        let config_name = format!("{}.json", hex(Sha256::digest(&config).as_slice()));
        let manifest = json!([{ "Config": config_name, "RepoTags": [self.name], "Layers": ["layer.tar"] }]).to_string();
        let mut tar = Builder::new(BufWriter::new(File::create(archive)?));
        for (name, text) in [(config_name.as_str(), &config), ("manifest.json", &manifest)] {
            append(&mut tar, Path::new(name), EntryType::Regular, 0o644, text.len() as u64, text.as_bytes())?;
        }
        tar.append_path_with_name(&layer, "layer.tar")?;
        tar.into_inner()?.flush()?;
        fs::remove_file(&layer)?;
        Ok(())
    }

    fn write_layer(&self, layer: &Path) -> anyhow::Result<()> {
        let mut tar = Builder::new(BufWriter::new(File::create(layer)?));
        // Folders that only lead somewhere; an engine would make them for root alone.
        let mut known: BTreeSet<&Path> = BTreeSet::from([Path::new("")]);
        for (path, member) in &self.members {
            let new: Vec<&Path> = path.ancestors().skip(1).filter(|folder| known.insert(folder)).collect();
            for folder in new.into_iter().rev() {
                append(&mut tar, folder, EntryType::Directory, 0o755, 0, io::empty())?;
            }
            known.insert(path);
            match member {
                Member::Folder { mode } => append(&mut tar, path, EntryType::Directory, *mode, 0, io::empty())?,
                Member::Text(text) => {
                    append(&mut tar, path, EntryType::Regular, 0o644, text.len() as u64, text.as_bytes())?;
                }
                Member::Link { to } => {
                    let mut header = header(EntryType::Symlink, 0o777, 0);
                    tar.append_link(&mut header, path, to)?;
                }
                Member::Copy { of } => {
                    let file = File::open(of).with_context(|| format!("cannot read {}", of.display()))?;
                    let length = file.metadata()?.len();
                    append(&mut tar, path, EntryType::Regular, 0o755, length, file)?;
                }
            }
        }
        tar.into_inner()?.flush()?;
        Ok(())
    }
}

fn append(
    tar: &mut Builder<impl Write>,
    path: &Path,
    kind: EntryType,
    mode: u32,
    size: u64,
    contents: impl Read,
) -> io::Result<()> {
    tar.append_data(&mut header(kind, mode, size), path, contents)
}

/// The head of a member that belongs to root and has no date.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}

fn digest(file: &Path) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(file)?, &mut hash)?;
    Ok(hex(hash.finalize().as_slice()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
