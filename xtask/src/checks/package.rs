//! Sees that what a library reads at build time is in the archive that its users get.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::bail;

use super::tally::Tally;
use super::{Context, Verdict};
use crate::process;
use crate::workspace::Package;

/// The macros that read a file beside the source while it is compiled.
const MACROS: [&str; 2] = ["include_str!(", "include_bytes!("];

/// Compares every embedded file of every library with `cargo package --list`.
pub(crate) fn check(context: &Context<'_>, _: &mut Tally) -> anyhow::Result<Verdict> {
    let mut missing = Vec::new();
    let mut n_embedded = 0;
    for package in context.workspace.packages.iter().filter(|package| package.is_library()) {
        let packaged = packaged_files(context, package)?;
        for embedded in embedded_files(package.folder())? {
            n_embedded += 1;
            let inside = embedded.strip_prefix(package.folder()).is_ok_and(|path| packaged.contains(path));
            if !inside {
                missing.push(format!("{} reads {}", package.name, embedded.display()));
            }
        }
    }
    if !missing.is_empty() {
        bail!("not in the archive (link or copy it into the crate's folder): {}", missing.join("; "));
    }
    Ok(Verdict::PassedWith(format!("{n_embedded} embedded files")))
}

fn packaged_files(context: &Context<'_>, package: &Package) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut cargo = context.workspace.cargo(["package", "--list", "--allow-dirty", "--locked", "--package"]);
    Ok(process::read(cargo.arg(&package.name))?.lines().map(PathBuf::from).collect())
}

/// Every file that the sources below `folder`/src embed, as an absolute path.
fn embedded_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.join("src")];
    while let Some(current) = folders.pop() {
        for entry in fs::read_dir(&current)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.extend(embedded_by(folder, &path, &fs::read_to_string(&path)?));
            }
        }
    }
    Ok(files)
}

/// The files that `text`, the source at `source`, embeds.
fn embedded_by(folder: &Path, source: &Path, text: &str) -> Vec<PathBuf> {
    let beside = source.parent().unwrap_or(folder);
    let calls = MACROS.iter().flat_map(|name| text.match_indices(name).map(|(at, _)| &text[at + name.len()..]));
    calls
        .filter_map(|call| call.trim_start().strip_prefix('"')?.split('"').next())
        .map(|literal| normalised(&beside.join(literal)))
        .chain(from_manifest_folder(folder, text))
        .collect()
}

/// Files named by `concat!(env!("CARGO_MANIFEST_DIR"), "/…")`.
fn from_manifest_folder(folder: &Path, text: &str) -> Vec<PathBuf> {
    let marker = "concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/";
    let literals = text.match_indices(marker).filter_map(|(at, _)| text[at + marker.len()..].split('"').next());
    literals.map(|literal| normalised(&folder.join(literal))).collect()
}

/// `path` with its `..` taken away, without following links.
fn normalised(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        if part == std::path::Component::ParentDir {
            clean.pop();
        } else {
            clean.push(part);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::embedded_by;
    use std::path::{Path, PathBuf};

    #[track_caller]
    fn check(text: &str, files: &[&str]) {
        let found = embedded_by(Path::new("/house/adapters"), Path::new("/house/adapters/src/sqlite/schema.rs"), text);
        assert_eq!(found, files.iter().map(PathBuf::from).collect::<Vec<_>>());
    }

    #[test]
    fn embedded_files_are_found_wherever_they_are_named_from() {
        check(r#"include_str!("one.sql")"#, &["/house/adapters/src/sqlite/one.sql"]);
        check(r#"include_bytes!( "../../../migrations/1.sql" )"#, &["/house/migrations/1.sql"]);
        check(
            r#"include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/1.sql"))"#,
            &["/house/adapters/migrations/1.sql"],
        );
        check("no file at all", &[]);
    }
}
