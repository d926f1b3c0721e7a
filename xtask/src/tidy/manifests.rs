//! Rules of the manifests: who may depend on whom, and what every crate takes from the workspace.

use anyhow::Context as _;
use toml::{Table, Value};

use super::{Finding, TextFile};

/// Which of our crates each of our crates may depend on. A crate that is not here is at the edge
/// (a binary, an example, this tool) and may depend on any.
const ARROWS: [(&str, &[&str]); 5] = [
    ("astraforge-core", &[]),
    ("astraforge-sandbox", &["astraforge-core"]),
    ("astraforge-codex", &["astraforge-core"]),
    ("astraforge-adapters", &["astraforge-core"]),
    ("astraforge-http", &["astraforge-core"]),
];

/// Beginnings of crate names that would bring HTTP, SQL, containers, Python or a runtime into the core.
const FOREIGN_TO_CORE: [&str; 22] = [
    "actix",
    "async-std",
    "aws-",
    "axum",
    "bollard",
    "diesel",
    "http",
    "hyper",
    "k8s-openapi",
    "kube",
    "openssl",
    "pyo3",
    "redis",
    "reqwest",
    "rusqlite",
    "rustls",
    "sea-orm",
    "smol",
    "sqlx",
    "tokio",
    "tonic",
    "warp",
];

/// What every crate inherits instead of saying it again.
const INHERITED: [&str; 6] = ["version", "edition", "rust-version", "license", "repository", "authors"];

/// Checks every member's manifest.
pub(crate) fn check(files: &[TextFile]) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.name() == "Cargo.toml") {
        let manifest: Table = file.text.parse().with_context(|| format!("{} is not TOML", file.path.display()))?;
        let is_outside = ["examples", "fuzz"].iter().any(|outside| file.path.starts_with(outside));
        if manifest.contains_key("workspace") || is_outside {
            continue;
        }
        let messages = arrows(&manifest).into_iter().chain(foreign(&manifest)).chain(inheritance(&manifest));
        findings.extend(messages.map(|message| Finding::new(&file.path, message)));
    }
    Ok(findings)
}

/// Arrows that are not in the table; tests may not draw others either.
fn arrows(manifest: &Table) -> Vec<String> {
    let name = name(manifest);
    let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
        return Vec::new();
    };
    let sections = ["dependencies", "build-dependencies", "dev-dependencies"];
    let ours = sections.iter().flat_map(|section| dependencies(manifest, section));
    ours.filter(|to| to.starts_with("astraforge") && *to != name && !allowed.contains(to))
        .map(|to| format!("{name} may not depend on {to}; let them meet in bins through a port of astraforge-core"))
        .collect()
}

fn foreign(manifest: &Table) -> Vec<String> {
    if name(manifest) != "astraforge-core" {
        return Vec::new();
    }
    dependencies(manifest, "dependencies")
        .filter(|to| FOREIGN_TO_CORE.iter().any(|beginning| to.starts_with(beginning)))
        .map(|to| format!("the core decides and does no I/O: {to} belongs in an adapter"))
        .collect()
}

fn inheritance(manifest: &Table) -> Vec<String> {
    let package = manifest.get("package").and_then(Value::as_table);
    let inherits = |table: Option<&Table>, key: &str| {
        let value = table.and_then(|table| table.get(key));
        value.and_then(|value| value.get("workspace")) == Some(&Value::Boolean(true))
    };
    let mut messages: Vec<String> = INHERITED
        .iter()
        .filter(|key| !inherits(package, key))
        .map(|key| format!("say `{key}.workspace = true` under [package]"))
        .collect();
    let takes_lints = manifest.get("lints").and_then(|lints| lints.get("workspace")) == Some(&Value::Boolean(true));
    if !takes_lints {
        messages.push("take the workspace's lints: `[lints] workspace = true`".into());
    }
    if package.and_then(|package| package.get("description")).and_then(Value::as_str).is_none_or(str::is_empty) {
        messages.push("say in `description` what the crate is".into());
    }
    messages
}

fn name(manifest: &Table) -> &str {
    manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str).unwrap_or_default()
}

/// The crates that `section` names, under any target and by their real names.
fn dependencies<'a>(manifest: &'a Table, section: &'a str) -> impl Iterator<Item = &'a str> {
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let tables = std::iter::once(manifest.get(section)).chain(targets.map(move |target| target.get(section)));
    tables
        .flatten()
        .filter_map(Value::as_table)
        .flatten()
        .map(|(key, value)| value.get("package").and_then(Value::as_str).unwrap_or(key))
}

#[cfg(test)]
mod tests {
    use super::{TextFile, check};

    const HEAD: &str = "version.workspace = true\nedition.workspace = true\nrust-version.workspace = true\n\
        license.workspace = true\nrepository.workspace = true\nauthors.workspace = true\ndescription = \"d\"\n\
        [lints]\nworkspace = true\n";

    /// Checks a crate `name` with `rest` after a good head against the beginnings of the findings.
    #[track_caller]
    fn broken(name: &str, rest: &str, expected: &[&str]) {
        let text = format!("[package]\nname = \"{name}\"\n{HEAD}{rest}");
        let found = check(&[TextFile { path: "x/Cargo.toml".into(), text }]).unwrap();
        let messages: Vec<&str> = found.iter().map(|finding| finding.message.as_str()).collect();
        assert_eq!(messages.len(), expected.len(), "{messages:?}");
        for (message, beginning) in messages.iter().zip(expected) {
            assert!(message.contains(beginning), "{message}");
        }
    }

    #[test]
    fn arrows_point_inward() {
        let core = "[dependencies]\nastraforge-core.workspace = true\n";
        broken("astraforge-sandbox", core, &[]);
        broken("astraforge", "[dependencies]\nastraforge-sandbox.workspace = true\n", &[]);
        broken("astraforge-core", core, &[]);
        broken("astraforge-core", "[dependencies]\nastraforge-http.workspace = true\n", &["may not depend"]);
        broken("astraforge-codex", "[dev-dependencies]\nastraforge-sandbox.workspace = true\n", &["may not depend"]);
        let renamed =
            "[target.'cfg(unix)'.dependencies]\nbox = { package = \"astraforge-sandbox\", version = \"1\" }\n";
        broken("astraforge-http", renamed, &["may not depend on astraforge-sandbox"]);
    }

    #[test]
    fn the_core_knows_no_runtime() {
        broken("astraforge-core", "[dependencies]\nfutures = \"1\"\ntower = \"1\"\n", &[]);
        broken("astraforge-core", "[dependencies]\ntokio-util = \"1\"\n", &["tokio-util belongs in an adapter"]);
        broken("astraforge-core", "[dev-dependencies]\ntokio = \"1\"\n", &[]);
    }

    #[test]
    fn a_crate_takes_what_is_shared_from_the_workspace() {
        let text = "[package]\nname = \"x\"\nversion = \"1.0.0\"\n".to_owned();
        let found = check(&[TextFile { path: "x/Cargo.toml".into(), text }]).unwrap();
        assert_eq!(found.len(), 8, "six fields, the lints and the description: {found:?}");
    }
}
