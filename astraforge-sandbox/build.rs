//! Takes the guest program into the library when `ASTRAFORGE_EMBED_GUEST` names it, so that a server is one file.

use std::{env, path::Path};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(astraforge_embedded_guest)");
    println!("cargo::rerun-if-env-changed=ASTRAFORGE_EMBED_GUEST");
    let Some(path) = env::var_os("ASTRAFORGE_EMBED_GUEST").filter(|it| !it.is_empty()) else { return };
    let path = Path::new(&path);
    assert!(
        path.is_absolute() && path.is_file(),
        "ASTRAFORGE_EMBED_GUEST is not the absolute path of a file: {}",
        path.display()
    );
    println!("cargo::rerun-if-changed={}", path.display());
    println!("cargo::rustc-env=ASTRAFORGE_EMBED_GUEST={}", path.display());
    println!("cargo::rustc-cfg=astraforge_embedded_guest");
}
