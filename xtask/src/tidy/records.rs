//! Rules of the texts: decision records, change fragments, and paths and links that lead somewhere.

use std::path::{Path, PathBuf};

use super::{Finding, TextFile};

/// What a change fragment may be about; the second part of its name.
const FRAGMENT_KINDS: [&str; 5] = ["added", "changed", "fixed", "removed", "security"];

/// Hosts of package registries. A client that is set up for a mirror must stay with it, so no file names one.
/// Written in parts because this file is checked too.
const REGISTRIES: [(&str, &str); 7] = [
    ("crates", "io"),
    ("pypi", "org"),
    ("pythonhosted", "org"),
    ("npmjs", "org"),
    ("npmjs", "com"),
    ("proxy.golang", "org"),
    ("repo.maven.apache", "org"),
];

/// Checks the records and texts of the checkout at `root`.
pub(crate) fn check(root: &Path, files: &[TextFile]) -> Vec<Finding> {
    let mut findings = decisions(files);
    findings.extend(files.iter().filter_map(fragment));
    findings.extend(files.iter().flat_map(registries));
    for file in files.iter().filter(|file| file.is("md")) {
        findings.extend(links(root, file));
        if file.path == Path::new("ARCHITECTURE.md") {
            findings.extend(paths(root, file));
        }
    }
    findings
}

/// Decision records are `docs/adr/NNNN-title.md`, numbered from 0001 without a gap.
fn decisions(files: &[TextFile]) -> Vec<Finding> {
    let mut records: Vec<&TextFile> = files.iter().filter(|file| file.path.starts_with("docs/adr")).collect();
    records.sort_by_key(|file| &file.path);
    let mut findings = Vec::new();
    for (index, file) in records.iter().enumerate() {
        let expected = format!("{:04}-", index + 1);
        let title = file.name().strip_prefix(&expected).and_then(|rest| rest.strip_suffix(".md"));
        if !title.is_some_and(is_slug) {
            findings.push(Finding::new(&file.path, format!("should be named {expected}some-title.md")));
        }
        for heading in ["## Context", "## Decision", "## Consequences"] {
            if !file.text.lines().any(|line| line == heading) {
                findings.push(Finding::new(&file.path, format!("has no `{heading}`")));
            }
        }
    }
    findings
}

/// Change fragments are `docs/changes/some-change.KIND.md` and say something.
fn fragment(file: &TextFile) -> Option<Finding> {
    if !file.path.starts_with("docs/changes") {
        return None;
    }
    let stem = file.name().strip_suffix(".md").and_then(|stem| stem.split_once('.'));
    if !stem.is_some_and(|(title, kind)| is_slug(title) && FRAGMENT_KINDS.contains(&kind)) {
        let kinds = FRAGMENT_KINDS.join(", ");
        return Some(Finding::new(&file.path, format!("should be named some-change.KIND.md, with a kind of {kinds}")));
    }
    file.text.trim().is_empty().then(|| Finding::new(&file.path, "says nothing"))
}

fn registries(file: &TextFile) -> Vec<Finding> {
    if file.name() == "Cargo.lock" || file.name() == "package-lock.json" {
        return Vec::new();
    }
    let hosts = REGISTRIES.iter().map(|(name, domain)| format!("{name}.{domain}"));
    hosts
        .filter(|host| file.text.contains(host.as_str()))
        .map(|host| Finding::new(&file.path, format!("names the registry host {host}; name the package alone")))
        .collect()
}

/// Relative links of a Markdown text lead to files.
fn links(root: &Path, file: &TextFile) -> Vec<Finding> {
    let folder = file.path.parent().unwrap_or(Path::new(""));
    let targets = outside_code(&file.text).flat_map(|line| line.split("](").skip(1));
    targets
        .filter_map(|rest| rest.split([')', '#']).next())
        .filter(|target| !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:"))
        .filter(|target| !root.join(folder).join(target).exists())
        .map(|target| Finding::new(&file.path, format!("links to {target}, which is not there")))
        .collect()
}

/// Paths in backticks, from the root, exist.
fn paths(root: &Path, file: &TextFile) -> Vec<Finding> {
    let quoted = outside_code(&file.text).flat_map(|line| line.split('`').skip(1).step_by(2));
    let named = quoted.filter(|word| is_path(word)).map(PathBuf::from);
    named
        .filter(|path| !root.join(path).exists())
        .map(|path| Finding::new(&file.path, format!("names `{}`, which is not there", path.display())))
        .collect()
}

/// The lines of a Markdown text that are not in a fenced block.
fn outside_code(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// Whether a quoted word is meant as a path: a folder with a slash, or a file with an ending that we use.
fn is_path(word: &str) -> bool {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    let endings = [".rs", ".md", ".toml", ".yml", ".sql", ".rego", ".lock", "/"];
    plain && !word.starts_with('/') && !word.starts_with("..") && endings.iter().any(|ending| word.ends_with(ending))
}

/// Lower-case words with hyphens.
fn is_slug(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::{TextFile, check};
    use std::path::Path;

    /// Checks `files` (path, text) as a project and compares what the findings say.
    #[track_caller]
    fn broken(files: &[(&str, &str)], expected: &[&str]) {
        let files: Vec<TextFile> =
            files.iter().map(|(path, text)| TextFile { path: path.into(), text: (*text).to_owned() }).collect();
        let found = check(Path::new(env!("CARGO_MANIFEST_DIR")), &files);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (finding, part) in found.iter().zip(expected) {
            assert!(finding.message.contains(part), "{finding}");
        }
    }

    const RECORD: &str = "# T\n## Context\n## Decision\n## Consequences\n";

    #[test]
    fn decision_records_are_numbered_without_gaps() {
        broken(&[("docs/adr/0001-a.md", RECORD), ("docs/adr/0002-b-c.md", RECORD)], &[]);
        broken(&[("docs/adr/0001-a.md", RECORD), ("docs/adr/0003-b.md", RECORD)], &["0002-some-title.md"]);
        broken(&[("docs/adr/0001-Big Title.md", RECORD)], &["0001-some-title.md"]);
        broken(&[("docs/adr/0001-a.md", "# T\n## Context\n## Decision\n")], &["`## Consequences`"]);
    }

    #[test]
    fn change_fragments_have_a_kind_and_a_text() {
        broken(&[("docs/changes/request-spine.added.md", "It is there.")], &[]);
        broken(&[("docs/changes/request-spine.md", "It is there.")], &["with a kind of"]);
        broken(&[("docs/changes/x.added.md", " \n")], &["says nothing"]);
    }

    #[test]
    fn registry_hosts_stay_out_of_the_tree() {
        let host = ["pypi", "org"].join(".");
        broken(&[("README.md", &format!("from https://{host}/simple"))], &["registry host"]);
        broken(&[("Cargo.lock", &host)], &[]);
    }

    #[test]
    fn links_and_paths_lead_somewhere() {
        broken(&[("a.md", "[code](src/main.rs) [web](https://example.org/x) [here](#part)")], &[]);
        broken(&[("a.md", "[code](src/lost.rs)")], &["links to src/lost.rs"]);
        broken(&[("ARCHITECTURE.md", "open `src/tidy.rs` in `src/tidy/`; `/api/x/` and `a/b` are no files")], &[]);
        broken(&[("ARCHITECTURE.md", "open `src/lost.rs`\n```text\n`gone.rs`\n```\n")], &["names `src/lost.rs`"]);
    }
}
