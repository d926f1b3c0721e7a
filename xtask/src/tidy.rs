//! The tree's own rules, checked by reading it: manifests, sources, records.

mod manifests;
mod records;
mod security;
mod sources;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

use crate::process;

/// One broken rule: where, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: PathBuf,
    message: String,
}

impl Finding {
    fn new(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)
    }
}

/// A text file of the project; its path is relative to the root.
#[derive(Debug)]
struct TextFile {
    path: PathBuf,
    text: String,
}

impl TextFile {
    fn is(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|found| found == extension)
    }

    fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }
}

/// Fails with every broken rule of the checkout at `root`.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let files = project_files(root)?;
    let mut findings = manifests::check(&files)?;
    findings.extend(sources::check(&files));
    findings.extend(records::check(root, &files));
    findings.extend(security::check(&files));
    if findings.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    bail!("{} rules broken:\n  {}", lines.len(), lines.join("\n  "))
}

/// Every text file that is committed or would be, so that a rule is broken before the commit, not after.
fn project_files(root: &Path) -> anyhow::Result<Vec<TextFile>> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let list = process::read(&mut git)?;
    let mut files = Vec::new();
    for path in list.split('\0').filter(|path| !path.is_empty()) {
        // Deleted but not yet committed, a picture, or a link: nothing to read.
        if let Ok(text) = fs::read_to_string(root.join(path)) {
            files.push(TextFile { path: path.into(), text });
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_tree_keeps_its_own_rules() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        if let Err(findings) = super::check(root) {
            panic!("{findings}");
        }
    }
}
