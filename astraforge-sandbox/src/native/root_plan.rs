//! Which parts of the host, or of an image on it, a sandbox sees.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

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

/// What a sandbox has of its own, whatever its image holds there.
const OWN: [&str; 7] = ["dev", "lost+found", "proc", "run", "sys", "tmp", "workspace"];

/// Folders of an image that a sandbox has some of its own files in, and which.
const SHARED: [(&str, &[&str]); 3] = [
    ("etc", &["group", "hostname", "hosts", "mtab", "nsswitch.conf", "passwd", "resolv.conf"]),
    ("home", &["agent"]),
    ("var", &["run", "tmp"]),
];

/// What an image may hold at its top and in the folders above; each is a mount.
const MAX_SHOWN: usize = 1000;

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

    /// Shows the image whose file system lies at `root`, but for what every sandbox has of its own. No link of the image
    /// is followed: it is shown as it is.
    ///
    /// # Errors
    /// When a folder cannot be read, or the image is none that a person would make.
    pub(crate) fn of_image(root: &Path) -> io::Result<Self> {
        let mut plan = Self::default();
        for (name, kind) in entries(root)? {
            let path = Path::new("/").join(&name);
            match SHARED.iter().find(|(shared, _)| name == **shared) {
                _ if OWN.iter().any(|own| name == **own) => {}
                None => plan.show_entry(root, &path, kind)?,
                Some((_, own)) if kind.is_dir() => {
                    for (inner, kind) in entries(&root.join(&name))? {
                        if own.iter().all(|own| inner != **own) {
                            plan.show_entry(root, &path.join(inner), kind)?;
                        }
                    }
                }
                Some(_) => {}
            }
        }
        if plan.shown.len() + plan.links.len() > MAX_SHOWN {
            return Err(io::Error::other(format!("it holds more than {MAX_SHOWN} files and folders at its top")));
        }
        Ok(plan)
    }

    fn show_entry(&mut self, root: &Path, path: &Path, kind: fs::FileType) -> io::Result<()> {
        let below = path.strip_prefix("/").unwrap_or(path);
        if kind.is_symlink() {
            self.links.push((below.to_owned(), root.join(below).read_link()?));
        } else if kind.is_dir() || kind.is_file() {
            self.show(root.join(below), path);
        }
        Ok(())
    }

    /// Shows one more folder or file.
    pub(crate) fn show(&mut self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) {
        self.shown.push(Shown { source: source.into(), target: target.into() });
    }
}

/// Reads a folder, in order of name.
fn entries(folder: &Path) -> io::Result<Vec<(std::ffi::OsString, fs::FileType)>> {
    let mut entries = fs::read_dir(folder)?
        .take(MAX_SHOWN + 1)
        .map(|entry| {
            let entry = entry?;
            Ok((entry.file_name(), entry.file_type()?))
        })
        .collect::<io::Result<Vec<_>>>()?;
    entries.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_image_is_shown_but_for_what_every_sandbox_has_of_its_own() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path();
        for folder in ["usr/bin", "etc/ssl", "home/other", "home/agent", "tmp/x", "proc/1", "var/lib", "var/tmp"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in ["etc/passwd", "etc/os-release", "init"] {
            fs::write(root.join(file), "").unwrap();
        }
        symlink("usr/bin", root.join("bin")).unwrap();
        symlink("/run", root.join("var/run")).unwrap();
        symlink("/run/lock", root.join("var/lock")).unwrap();
        let plan = RootPlan::of_image(root).unwrap();
        let targets: Vec<_> = plan.shown.iter().map(|it| it.target.to_str().unwrap()).collect();
        assert_eq!(targets, ["/etc/os-release", "/etc/ssl", "/home/other", "/init", "/usr", "/var/lib"]);
        assert!(plan.shown.iter().all(|it| it.source == root.join(it.target.strip_prefix("/").unwrap())));
        let links: Vec<_> =
            plan.links.iter().map(|(link, to)| (link.to_str().unwrap(), to.to_str().unwrap())).collect();
        assert_eq!(links, [("bin", "usr/bin"), ("var/lock", "/run/lock")]);
    }

    #[test]
    fn no_folder_of_the_host_is_shown_through_a_link_of_the_image() {
        let home = tempfile::tempdir().unwrap();
        symlink("/etc", home.path().join("etc")).unwrap();
        symlink("/", home.path().join("var")).unwrap();
        symlink("/root", home.path().join("home")).unwrap();
        assert_eq!(RootPlan::of_image(home.path()).unwrap(), RootPlan::default());
    }

    #[test]
    fn an_image_with_a_flood_of_names_at_its_top_is_refused() {
        let home = tempfile::tempdir().unwrap();
        for i in 0..=MAX_SHOWN {
            fs::write(home.path().join(i.to_string()), "").unwrap();
        }
        RootPlan::of_image(home.path()).unwrap_err();
    }
}
