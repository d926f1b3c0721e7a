//! `docs/configuration.md` names every variable, as the programs have it, and no other one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use clap::{Arg, Command, CommandFactory};

use super::{NOT_READ, READ_BESIDE};
use crate::{cli::Cli, programs, settings};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The rows of tables that begin with a variable, by the heading that they are under.
fn rows() -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let (mut rows, mut heading) = (BTreeMap::<_, Vec<_>>::new(), String::new());
    for line in text.lines() {
        if let Some(next) = line.strip_prefix("## ") {
            next.clone_into(&mut heading);
        } else if line.starts_with("| `") {
            rows.entry(heading.clone()).or_default().push(line.to_owned());
        }
    }
    rows
}

fn variable(row: &str) -> String {
    row.split('`').nth(1).unwrap().to_owned()
}

/// The row of an option, as it has to be.
fn row(arg: &Arg) -> Option<(String, String)> {
    let variable = arg.get_env()?.to_str().unwrap().to_owned();
    let values: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let has_default = !values.is_empty() && arg.get_action().takes_values();
    let default = if has_default { format!("`{}`", values.join(" ")) } else { String::new() };
    let help = arg.get_help().unwrap_or_else(|| panic!("{variable} has no words")).to_string();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    let row = format!("| `{variable}` | `{}` | {default} | {help} |", settings::option(arg)).replace("|  |", "| |");
    Some((variable, row))
}

fn options(command: &Command) -> BTreeMap<String, String> {
    let own = command.get_arguments().filter_map(row);
    own.chain(command.get_subcommands().flat_map(options)).collect()
}

#[track_caller]
fn same(found: &[String], expected: &BTreeSet<String>, heading: &str) {
    let found: BTreeSet<_> = found.iter().cloned().collect();
    let missing: Vec<_> = expected.difference(&found).map(String::as_str).collect();
    let stale: Vec<_> = found.difference(expected).map(String::as_str).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/configuration.md, {heading}\nmissing:\n{}\nstale:\n{}",
        missing.join("\n"),
        stale.join("\n")
    );
}

fn beside(table: &[(&str, &str)]) -> BTreeSet<String> {
    table.iter().map(|(name, words)| format!("| `{name}` | {words} |")).collect()
}

#[test]
fn every_variable_is_documented_as_it_is() {
    let rows = rows();
    let of = |heading: &str| rows.get(heading).cloned().unwrap_or_default();
    let options: BTreeMap<_, _> = programs::commands().iter().chain([&Cli::command()]).flat_map(options).collect();
    same(&of("Variables with an option"), &options.into_values().collect(), "options");
    same(&of("Variables without an option"), &beside(READ_BESIDE), "without an option");
    same(&of("No longer read"), &beside(NOT_READ), "no longer read");
}

#[test]
fn what_is_said_to_be_kept_is_read_and_its_tests_exist() {
    let rows = rows();
    let mut read = programs::variables();
    read.extend(READ_BESIDE.iter().map(|(name, _)| (*name).to_owned()));
    let tests =
        ["bins", "astraforge-adapters", "astraforge-sandbox"].map(|folder| sources(&root().join(folder))).concat();
    let kept = &rows["Still read"];
    assert!(kept.len() > 40, "{}", kept.len());
    for row in kept {
        assert!(read.contains(&variable(row)), "nobody reads it: {row}");
        let cells: Vec<_> = row.trim_matches('|').split('|').collect();
        assert!(["kept", "changed"].contains(&cells[1].trim()), "kept or changed? {row}");
        for test in cells.last().unwrap().split('`').skip(1).step_by(2) {
            assert!(tests.contains(&format!("fn {test}(")), "there is no such test: {test}");
        }
    }
    let headings = ["Variables with an option", "Variables without an option", "Still read", "No longer read"];
    assert!(rows.keys().all(|heading| headings.contains(&heading.as_str())), "{:?}", rows.keys());
}

fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            text.push_str(&sources(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&entry).unwrap());
        }
    }
    text
}
