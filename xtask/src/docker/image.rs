//! Images made from this machine's own programs, so that no registry is asked.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

use super::Engine;
use crate::{process, python::Python};

/// The image of the driver's tests: a shell, its tools, bash, and a Python with pip.
pub(crate) const TEST: &str = "astraforge-test:1";

/// The image of the demonstration: those of this machine's programs that a run of Codex needs.
pub(crate) const DEMO: &str = "astraforge-demo:1";

/// Folders of git and node that their programs read at run time.
const DEMO_FOLDERS: [&str; 4] = ["/usr/lib/git-core", "/usr/share/git-core", "/etc/ssl", "/usr/share/nodejs"];

/// What is missing for these images.
pub(crate) fn obstacle() -> Option<String> {
    let busybox = process::is_installed("busybox");
    (!busybox).then(|| "no busybox to make an image of: `apt-get install busybox-static`".to_owned())
}

/// Gives the engine the image of the tests.
pub(crate) fn load_test(engine: &Engine, scratch: &Path) -> anyhow::Result<()> {
    let root = shell_root(scratch)?;
    add_program(&root, "bash")?;
    let python = Python::find()?;
    python.files.iter().try_for_each(|file| copy(&root, file))?;
    symlink(&python.program, root.join("bin/python3"))?;
    import(engine, &root, TEST)
}

/// Gives the engine the image of the demonstration.
pub(crate) fn load_demo(engine: &Engine, scratch: &Path) -> anyhow::Result<()> {
    let root = shell_root(scratch)?;
    for program in ["bash", "git", "node", "tar"] {
        add_program(&root, program)?;
    }
    for folder in DEMO_FOLDERS.into_iter().map(Path::new).filter(|it| it.is_dir()) {
        let target = inside(&root, folder);
        fs::create_dir_all(target.parent().context("it has no folder")?)?;
        process::read(Command::new("cp").arg("--archive").arg(folder).arg(&target))?;
    }
    // Programs of these folders have libraries of their own.
    for program in fs::read_dir("/usr/lib/git-core")?.flatten().take(400) {
        if program.file_type()?.is_file() {
            add_libraries(&root, &program.path())?;
        }
    }
    import(engine, &root, DEMO)
}

/// A root folder with busybox under all its names.
fn shell_root(scratch: &Path) -> anyhow::Result<PathBuf> {
    let root = scratch.join("image");
    for folder in ["bin", "etc", "tmp", "proc", "sys", "dev", "usr/bin", "root"] {
        fs::create_dir_all(root.join(folder))?;
    }
    add_program(&root, "busybox")?;
    let busybox = find("busybox")?;
    for name in process::read(Command::new(&busybox).arg("--list"))?.lines() {
        let link = root.join("bin").join(name);
        if !link.exists() && name != "busybox" {
            symlink(&busybox, link)?;
        }
    }
    symlink(&busybox, root.join("usr/bin/env"))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nagent:x:1000:1000:agent:/home/agent:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nagent:x:1000:\n")?;
    Ok(root)
}

/// Copies a program of this machine, at its own place, with the libraries it is linked with.
fn add_program(root: &Path, name: &str) -> anyhow::Result<()> {
    let program = find(name)?;
    copy(root, &program)?;
    let link = root.join("bin").join(name);
    if !inside(root, &program).eq(&link) {
        _ = fs::remove_file(&link);
        symlink(&program, link)?;
    }
    add_libraries(root, &program)
}

/// Copies the libraries of a program, and its loader.
fn add_libraries(root: &Path, program: &Path) -> anyhow::Result<()> {
    process::libraries(program)?.iter().try_for_each(|library| copy(root, library))
}

/// Copies what a path leads to.
fn copy(root: &Path, path: &Path) -> anyhow::Result<()> {
    let target = inside(root, path);
    fs::create_dir_all(target.parent().context("it has no folder")?)?;
    if !target.exists() {
        fs::copy(path, &target).with_context(|| format!("cannot copy {}", path.display()))?;
    }
    Ok(())
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn find(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|it| it.is_file());
    found.with_context(|| format!("{name} is not installed"))
}

fn import(engine: &Engine, root: &Path, name: &str) -> anyhow::Result<()> {
    let mut tar = Command::new("tar")
        .arg("--directory")
        .arg(root)
        .args(["--create", "."])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start tar")?;
    let archive = tar.stdout.take().context("tar has no output")?;
    let imported = engine.docker(&["import", "-", name]).stdin(archive).stdout(Stdio::null()).status();
    ensure!(tar.wait()?.success() && imported?.success(), "cannot make the image {name}");
    fs::remove_dir_all(root)?;
    Ok(())
}
