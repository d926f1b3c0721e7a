//! The guest program that tests start sandboxes with.
#![expect(clippy::unwrap_used, reason = "this is a part of tests")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Names the guest program to test with.
pub(crate) const VARIABLE: &str = "ASTRAFORGE_GUEST";

/// The guest program that `cargo xtask test` has built for all tests, else one built now: what is tested is never an old
/// one.
pub(crate) fn path() -> &'static Path {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| {
        if let Some(built) = std::env::var_os(VARIABLE) {
            return built.into();
        }
        let build = Command::new(env!("CARGO"))
            .args(["xtask", "guest"])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .output()
            .unwrap();
        assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
        String::from_utf8(build.stdout).unwrap().lines().last().unwrap().into()
    })
}
