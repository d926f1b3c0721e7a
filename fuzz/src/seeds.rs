//! Writes what the targets begin with into `corpus/`. What fuzzing has found stays beside it.

use std::{error::Error, fs, path::Path};

// It is compiled as the targets are, and calls what counts their branches.
use libfuzzer_sys as _;

fn main() -> Result<(), Box<dyn Error>> {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let core = astraforge_core::testing::fuzz::seeds();
    for (target, name, bytes) in core.into_iter().chain(astraforge_sandbox::testing::fuzz::seeds()) {
        let folder = corpora.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("seed-{name}")), bytes)?;
    }
    Ok(())
}
