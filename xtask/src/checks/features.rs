//! Builds every library without features, and with each feature alone.

use std::process::Command;

use super::tally::Tally;
use super::{Context, Verdict};
use crate::process;

/// Features are additive only if each one compiles without the others.
pub(crate) fn check(context: &Context<'_>, _: &mut Tally) -> anyhow::Result<Verdict> {
    let mut broken = Vec::new();
    let mut n_builds = 0;
    for mut command in commands(context) {
        n_builds += 1;
        println!("{}", process::line(&command));
        if process::run(&mut command).is_err() {
            broken.push(process::line(&command));
        }
    }
    if !broken.is_empty() {
        anyhow::bail!("{} of {n_builds} builds failed: {}", broken.len(), broken.join("; "));
    }
    Ok(Verdict::PassedWith(format!("{n_builds} builds")))
}

fn commands(context: &Context<'_>) -> Vec<Command> {
    let libraries = context.workspace.packages.iter().filter(|package| package.is_library());
    libraries
        .flat_map(|package| {
            let alone = std::iter::once(None).chain(package.features().map(Some));
            alone.map(|feature| {
                let mut cargo = context.workspace.cargo(["check", "--quiet", "--locked", "--lib", "--package"]);
                cargo.args([package.name.as_str(), "--no-default-features"]);
                if let Some(feature) = feature {
                    cargo.args(["--features", feature]);
                }
                cargo
            })
        })
        .collect()
}
