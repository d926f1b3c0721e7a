//! The table of stages: what each is for, what it stands on, and the command it runs.

use std::process::Command;

use super::tally::Tally;
use super::{
    Context, Verdict, attack, contract, embed, engine, features, kubernetes, oidc, package, rootless, services,
};
use crate::workspace::Workspace;
use crate::{chaos, codex, fuzz, guest, process, tidy, tools};

/// One check.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) purpose: &'static str,
    /// Stages whose failure makes this one pointless.
    pub(crate) after: &'static [&'static str],
    /// Whether it takes so long that it runs only with `--soak`.
    pub(crate) soak: bool,
    pub(crate) run: fn(&Context<'_>, &mut Tally) -> anyhow::Result<Verdict>,
}

/// Every stage that this checkout has, quick ones first.
pub(crate) fn table(workspace: &Workspace) -> Vec<Stage> {
    let mut stages = vec![
        stage("fmt", "the code is formatted", &[], fmt),
        stage("tidy", "the tree keeps its own rules", &[], |context, _| {
            tidy::check(&context.workspace.root).map(|()| Verdict::Passed)
        }),
        stage("guest", "the static guest builds", &[], |context, _| {
            guest::build(context.workspace).map(|_| Verdict::Passed)
        }),
        stage("codex", "the pinned Codex CLI is installed", &[], |context, _| {
            codex::install(context.workspace).map(|_| Verdict::Passed)
        }),
        stage("clippy", "no warning anywhere", &[], clippy),
        stage("tests", "unit and integration tests", &["guest", "codex"], tests),
        stage("doctests", "every example in the documentation runs", &["guest"], doctests),
        stage("docs", "the documentation builds without a warning", &[], docs),
        stage("features", "each library builds with each of its features alone", &[], features::check),
        stage("deny", "licences, banned crates and sources", &[], deny),
        stage("rootless", "the sandbox tests pass for an ordinary user too", &["guest", "tests"], rootless::check),
        stage("chaos", "killing servers and commands loses and leaves nothing", &["guest"], |context, _| {
            chaos::sandbox(context.workspace, 10, chaos::new_seed()).map(Verdict::PassedWith)
        }),
        stage("attack", "no attack on native sandboxes succeeds", &["guest"], attack::native),
        stage("contract", "the published wheel works against our server", &["tests"], contract::wheel),
        stage("oidc", "a real OpenID provider lets people and programs in", &["tests"], oidc::check),
        stage(
            "schema",
            "calls made up from the OpenAPI document are answered as it says",
            &["tests"],
            contract::schema,
        ),
        stage("package", "what a crate reads at build time travels inside it", &[], package::check),
    ];
    if embed::is_there(workspace) {
        stages.push(stage("embed", "crates outside the workspace embed the libraries", &["guest"], embed::check));
    }
    stages.push(stage(
        "services",
        "what stands on PostgreSQL and Redis servers of our own",
        &["tests"],
        services::check,
    ));
    stages.push(stage("docker", "the same sandboxes on a Docker engine of our own", &["guest"], engine::check));
    // The first time on a machine its programs are built from source, which takes some minutes.
    stages.push(stage("k8s", "the same sandboxes on a Kubernetes of our own", &["guest"], kubernetes::check));
    let attacks = stage("k8s-attack", "no attack on pods succeeds", &["guest"], kubernetes::attack);
    stages.push(Stage { soak: true, ..attacks });
    stages.push(Stage { soak: true, ..stage("soak", "the tests that take long", &["guest"], soak) });
    stages.push(Stage { soak: true, ..stage("kills", "the same, a thousand times", &["guest", "chaos"], kills) });
    stages.push(Stage {
        soak: true,
        ..stage("fuzz", "ten minutes of fuzzing for each target", &[], |context, _| {
            fuzz::fuzz(context.workspace, &[], 600, false).map(Verdict::PassedWith)
        })
    });
    stages.push(Stage { soak: true, ..stage("archives", "every package builds from its archive", &[], archives) });
    stages
}

fn stage(
    name: &'static str,
    purpose: &'static str,
    after: &'static [&'static str],
    run: fn(&Context<'_>, &mut Tally) -> anyhow::Result<Verdict>,
) -> Stage {
    Stage { name, purpose, after, soak: false, run }
}

fn fmt(context: &Context<'_>, _: &mut Tally) -> anyhow::Result<Verdict> {
    if !process::is_installed("rustfmt") {
        return Ok(Verdict::Skipped("rustfmt is missing: `rustup component add rustfmt`".into()));
    }
    run_cargo(context, &["fmt", "--all", "--check"])
}

fn clippy(context: &Context<'_>, _: &mut Tally) -> anyhow::Result<Verdict> {
    if !process::is_installed("cargo-clippy") {
        return Ok(Verdict::Skipped("clippy is missing: `rustup component add clippy`".into()));
    }
    run_cargo(context, &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
}

/// The tests through nextest, or through cargo's own runner where nextest can't be had.
fn tests(context: &Context<'_>, tally: &mut Tally) -> anyhow::Result<Verdict> {
    match tools::NEXTEST.install(context.workspace) {
        Ok(nextest) => {
            let mut command = Command::new(nextest);
            command.args(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]);
            in_workspace(context, &mut command);
            count(with_programs(context, &mut command)?, Tally::of_nextest, tally)?;
            Ok(Verdict::Passed)
        }
        Err(error) => {
            println!("using `cargo test` instead of nextest: {error:#}");
            let mut cargo = context.workspace.cargo(["test", "--workspace", "--locked", "--tests", "--no-fail-fast"]);
            count(with_programs(context, &mut cargo)?, Tally::of_libtest, tally)?;
            Ok(Verdict::PassedWith("with `cargo test`: nextest is not there".into()))
        }
    }
}

fn doctests(context: &Context<'_>, tally: &mut Tally) -> anyhow::Result<Verdict> {
    let mut cargo = context.workspace.cargo(["test", "--workspace", "--locked", "--doc", "--no-fail-fast"]);
    count(&mut cargo, Tally::of_libtest, tally)?;
    Ok(Verdict::Passed)
}

/// The documentation; `RUSTDOCFLAGS` touches rustdoc alone, so nothing is compiled again for it.
fn docs(context: &Context<'_>, _: &mut Tally) -> anyhow::Result<Verdict> {
    let mut cargo = context.workspace.cargo(["doc", "--workspace", "--no-deps", "--locked"]);
    process::run(cargo.env("RUSTDOCFLAGS", "-D warnings")).map(|()| Verdict::Passed)
}

fn deny(context: &Context<'_>, _: &mut Tally) -> anyhow::Result<Verdict> {
    let mut installed = tools::DENY.install(context.workspace);
    if installed.is_err() && context.all && rootless::is_root() && process::is_installed("apt-get") {
        tools::install_packages(&["python3-pip"])?;
        installed = tools::DENY.install(context.workspace);
    }
    let deny = match installed {
        Ok(deny) => deny,
        Err(error) => return Ok(Verdict::Skipped(format!("{error:#}"))),
    };
    let mut command = Command::new(deny);
    command.args(["--locked", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
    in_workspace(context, &mut command);
    process::run(&mut command)?;
    // The fuzz targets have a lock of their own, which nothing else looks at until somebody fuzzes.
    let mut cargo = context.workspace.cargo(["metadata", "--locked", "--format-version", "1", "--manifest-path"]);
    process::read(cargo.arg("fuzz/Cargo.toml"))?;
    Ok(Verdict::Passed)
}

/// Tests that are ignored and have `soak` in their names: hours of fuzzing, many kills.
fn soak(context: &Context<'_>, tally: &mut Tally) -> anyhow::Result<Verdict> {
    let arguments = ["test", "--workspace", "--locked", "--tests", "--no-fail-fast", "--", "--ignored", "soak"];
    let mut cargo = context.workspace.cargo(arguments);
    count(with_programs(context, &mut cargo)?, Tally::of_libtest, tally)?;
    if *tally == Tally::default() {
        return Ok(Verdict::Skipped("no test is ignored and has `soak` in its name".into()));
    }
    Ok(Verdict::Passed)
}

fn kills(context: &Context<'_>, _: &mut Tally) -> anyhow::Result<Verdict> {
    let sandboxes = chaos::sandbox(context.workspace, 1000, chaos::new_seed())?;
    let installation = chaos::service::strike(context.workspace, 1000, chaos::new_seed())?;
    Ok(Verdict::PassedWith(format!("{sandboxes}; {installation}")))
}

fn archives(context: &Context<'_>, _: &mut Tally) -> anyhow::Result<Verdict> {
    run_cargo(context, &["package", "--workspace", "--locked", "--allow-dirty", "--exclude", "xtask"])
}

fn run_cargo(context: &Context<'_>, arguments: &[&str]) -> anyhow::Result<Verdict> {
    process::run(&mut context.workspace.cargo(arguments)).map(|()| Verdict::Passed)
}

/// Runs some tests with the very features of the `tests` stage, so that nothing is compiled again.
pub(super) fn some(
    context: &Context<'_>,
    which: &[&str],
    tell: &dyn Fn(&mut Command),
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let mut command = Command::new(tools::NEXTEST.install(context.workspace)?);
    command.args(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]).args(which);
    in_workspace(context, &mut command);
    tell(&mut command);
    count(with_programs(context, &mut command)?, Tally::of_nextest, tally)
}

/// Lets a cargo subcommand that we start ourselves find the checkout and the shared target folder.
pub(super) fn in_workspace(context: &Context<'_>, command: &mut Command) {
    command.current_dir(&context.workspace.root).env("CARGO_TARGET_DIR", &context.workspace.target);
}

/// Tells tests where the programs are that they run.
pub(super) fn with_programs<'a>(context: &Context<'_>, command: &'a mut Command) -> anyhow::Result<&'a mut Command> {
    let codex = codex::install(context.workspace)?;
    if context.all {
        // Then no test may pass by that a package cannot be had.
        command.env("ASTRAFORGE_TEST_PACKAGES", "required");
    }
    Ok(command.env(guest::VARIABLE, context.workspace.guest()).env(codex::VARIABLE, codex))
}

/// Runs a test runner and adds what it counted to `tally`.
pub(super) fn count(command: &mut Command, read: fn(&str) -> Tally, tally: &mut Tally) -> anyhow::Result<()> {
    let (status, output) = process::run_and_read(command)?;
    *tally += read(&output);
    process::ensure_success(command, status)
}
