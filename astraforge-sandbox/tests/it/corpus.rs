//! What fuzzing began with and what it has found, played again.

use std::{env, fs, path::Path};

use astraforge_sandbox::testing::fuzz::{TARGETS, seeds};

#[test]
fn what_fuzzing_has_found_stays_mended() {
    // Asked for when it runs: it may have been built elsewhere.
    let folder = env::var_os("CARGO_MANIFEST_DIR").unwrap();
    let corpora = Path::new(&folder).join("../fuzz/corpus");
    for (name, target) in TARGETS {
        let folder = corpora.join(name);
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut n_inputs = 0;
        for entry in entries {
            let path = entry.unwrap().path();
            // Shown only if it fails.
            println!("{}", path.display());
            target(&fs::read(&path).unwrap());
            n_inputs += 1;
        }
        assert!(n_inputs > 0, "{name} has nothing to begin with: cargo xtask fuzz --seeds");
    }
}

#[test]
fn seeds_are_those_of_targets() {
    for (target, name, bytes) in seeds() {
        let (_, body) = TARGETS.iter().find(|(it, _)| *it == target).unwrap_or_else(|| panic!("no target {target}"));
        println!("{target}/{name}");
        body(&bytes);
    }
}
