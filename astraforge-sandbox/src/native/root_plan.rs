//! Which parts of the host a sandbox sees.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Folders at the top of a Linux system that hold programs and libraries.
const SYSTEM_FOLDERS: [&str; 8] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix/store"];

/// What programs read below `/etc` and that holds no secret. Everything else there is left out.
const ETC: [&str; 15] = [
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "protocols",
    "services",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
];

/// Which parts of the host a sandbox sees, all of them read-only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootPlan {
    /// Links at the top, as on the host (`bin` → `usr/bin`).
    pub(crate) links: Vec<(PathBuf, PathBuf)>,
    /// Folders and files of the host, and where they are shown.
    pub(crate) shown: Vec<Shown>,
}

/// A folder or file of the host that a sandbox sees read-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shown {
    /// The absolute path on the host.
    pub(crate) source: PathBuf,
    /// The absolute path in the sandbox.
    pub(crate) target: PathBuf,
}

impl RootPlan {
    /// Shows the programs and libraries of the system at `host` (`/`, but for tests).
    pub(crate) fn of_host(host: &Path) -> Self {
        let mut plan = Self::default();
        for name in SYSTEM_FOLDERS {
            let source = host.join(name);
            match source.read_link() {
                Ok(target) => plan.links.push((name.into(), target)),
                Err(_) if source.is_dir() => plan.show(source, Path::new("/").join(name)),
                Err(_) => {}
            }
        }
        for name in ETC {
            let source = host.join("etc").join(name);
            if source.exists() {
                plan.show(source, Path::new("/etc").join(name));
            }
        }
        plan
    }

    /// Shows one more folder or file.
    pub(crate) fn show(&mut self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) {
        self.shown.push(Shown { source: source.into(), target: target.into() });
    }
}
