//! The programs of a cluster: Debian's where it has them, the others built from its sources and kept.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::Context as _;

use crate::{process, tools, workspace::Workspace};

/// What is built; with another version it is built anew.
const VERSION: &str = "kubernetes-1.20.2";
/// One of its programs; they come all at once.
const LAST: &str = "kubelet";
/// What Debian has, and a file of each.
const PACKAGES: [(&str, &str); 9] = [
    ("etcd-server", "/usr/bin/etcd"),
    ("containerd", "/usr/bin/containerd"),
    ("runc", "/usr/sbin/runc"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("iproute2", "/usr/sbin/ip"),
    ("curl", "/usr/bin/curl"),
    ("openssl", "/usr/bin/openssl"),
    ("busybox-static", "/usr/bin/busybox"),
    ("bash-static", "/usr/bin/bash-static"),
];

/// The installed programs.
#[derive(Debug)]
pub(super) struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Whether none is missing.
    pub(super) fn are_installed() -> bool {
        missing().is_empty() && cache().is_ok_and(|cache| cache.join(VERSION).join(LAST).is_file())
    }

    /// Installs what is missing, aloud.
    pub(super) fn install(workspace: &Workspace) -> anyhow::Result<Self> {
        let missing = missing();
        if !missing.is_empty() {
            tools::install_packages(&missing)?;
        }
        let folder = cache()?.join(VERSION);
        if !folder.join(LAST).is_file() {
            println!("building {VERSION} from Debian's sources; this takes some minutes, once on this machine");
            let began = Instant::now();
            let script = workspace.root.join("xtask/cluster/build-kubernetes.sh");
            process::run(Command::new("bash").arg(script).arg(&folder))?;
            println!("built in {:.0} s: {}", began.elapsed().as_secs_f64(), folder.display());
        }
        Ok(Self { folder })
    }

    /// Where those that were built are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The packages that are not installed.
fn missing() -> Vec<&'static str> {
    // Some programs lie in /bin where that is a folder of its own.
    let is_there = |file: &str| Path::new(file).exists() || Path::new(file.trim_start_matches("/usr")).exists();
    PACKAGES.iter().filter(|(_, file)| !is_there(file)).map(|(name, _)| *name).collect()
}

/// The user's cache folder.
fn cache() -> anyhow::Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("astraforge"))
}
