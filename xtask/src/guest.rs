//! Builds the static guest, the one binary that every sandbox starts with, and the program that attacks sandboxes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::workspace::Workspace;
use crate::{elf, process};

/// Names the guest that was built for the tests, so that they need not build it themselves.
pub(crate) const VARIABLE: &str = "ASTRAFORGE_GUEST";

/// The programs that run inside sandboxes, the guest first.
const PROGRAMS: [&str; 2] = ["astraforge-guest", "astraforge-attacker"];

/// Builds the guest and returns where it lies: `<target>/guest/astraforge-guest`. The attack suite's program lies beside.
///
/// They have a target folder of their own because `+crt-static` is a flag for every crate they link; in the
/// shared folder it would rebuild the world. A copy is replaced only when its bytes have changed.
pub(crate) fn build(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let triple = workspace.host_triple()?;
    let folder = workspace.target.join("guest-build");
    let mut cargo = workspace.cargo(["build", "--profile", "guest", "--locked"]);
    cargo.args(PROGRAMS.iter().flat_map(|program| ["--package", program]));
    cargo.args(["--target", &triple, "--target-dir"]).arg(&folder);
    // These two would silently win over the variable below.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", triple.to_uppercase().replace('-', "_"));
    cargo.env(variable, "-C target-feature=+crt-static");
    process::run(&mut cargo)?;

    for program in PROGRAMS {
        let built = folder.join(&triple).join("guest").join(program);
        let bytes = fs::read(&built).with_context(|| format!("cargo left no {}", built.display()))?;
        elf::ensure_static(&bytes).with_context(|| format!("{} is not static", built.display()))?;
        let installed = workspace.guest().with_file_name(program);
        install(&bytes, &installed).with_context(|| format!("could not write {}", installed.display()))?;
    }
    Ok(workspace.guest())
}

/// Puts `bytes` at `path` in one step, so that a sandbox that starts meanwhile sees a whole file.
fn install(bytes: &[u8], path: &Path) -> anyhow::Result<()> {
    if fs::read(path).is_ok_and(|existing| existing == bytes) {
        return Ok(());
    }
    fs::create_dir_all(path.parent().context("it has no folder")?)?;
    let draft = path.with_extension(format!("new-{}", std::process::id()));
    fs::write(&draft, bytes)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
    fs::rename(&draft, path)?;
    Ok(())
}
