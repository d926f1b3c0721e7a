//! Programs of others against our server: the published wheel of the system that ours takes the place of, unchanged, and
//! Schemathesis, which makes calls of the OpenAPI document up.

use std::process::Command;

use super::{Context, Verdict, packages, stages, tally::Tally};

/// A program of others, and the test that runs it.
struct Program {
    name: &'static str,
    /// Every package that is installed, at its one version.
    requirements: &'static str,
    /// Names the folder of its packages to the test.
    variable: &'static str,
    test: &'static str,
}

const WHEEL: Program = Program {
    name: "published-wheel",
    requirements: "bins/astraforge/tests/contract/requirements.txt",
    variable: "ASTRAFORGE_TEST_WHEEL",
    test: "package(astraforge) & test(/published_wheel/)",
};

const SCHEMATHESIS: Program = Program {
    name: "schemathesis",
    requirements: "bins/astraforge/tests/schema/requirements.txt",
    variable: "ASTRAFORGE_TEST_SCHEMATHESIS",
    test: "package(astraforge) & test(/schemathesis/)",
};

/// Runs the published wheel.
pub(super) fn wheel(context: &Context<'_>, tally: &mut Tally) -> anyhow::Result<Verdict> {
    run(&WHEEL, context, tally)
}

/// Runs Schemathesis.
pub(super) fn schema(context: &Context<'_>, tally: &mut Tally) -> anyhow::Result<Verdict> {
    run(&SCHEMATHESIS, context, tally)
}

fn run(program: &Program, context: &Context<'_>, tally: &mut Tally) -> anyhow::Result<Verdict> {
    let packages = match packages::installed(context, program.name, program.requirements) {
        Ok(packages) => packages,
        Err(error) => return Ok(Verdict::Skipped(format!("{error:#}"))),
    };
    let tell = &|command: &mut Command| {
        command.env(program.variable, &packages);
    };
    stages::some(context, &["--test", "it", "--run-ignored", "only", "-E", program.test], tell, tally)?;
    Ok(Verdict::Passed)
}
