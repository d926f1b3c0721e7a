//! Attacks sandboxes of every driver that this machine has, and prints what came of each case.

use std::path::PathBuf;
use std::process::Command;

use anyhow::ensure;

use super::tally::Tally;
use super::{Context, Verdict, rootless};
use crate::{guest, process};

/// Names the hostile program.
pub(super) const VARIABLE: &str = "ASTRAFORGE_ATTACKER";

/// Builds the command line program as the tests do, so that nothing is compiled again for it.
fn program(context: &Context<'_>) -> anyhow::Result<PathBuf> {
    process::run(&mut context.workspace.cargo(["test", "--workspace", "--locked", "--tests", "--no-run"]))?;
    Ok(context.workspace.target.join("debug/astraforge"))
}

/// Runs the suite on the native driver, as whoever we are and, if that is root, as an ordinary user too.
pub(crate) fn native(context: &Context<'_>, _: &mut Tally) -> anyhow::Result<Verdict> {
    let program = program(context)?;
    let mut own = Command::new(&program);
    own.env(guest::VARIABLE, context.workspace.guest());
    let mut who = Vec::new();
    if !run("native", &mut own)? {
        who.push(if rootless::is_root() { "as root" } else { "as an ordinary user" });
    }
    let mut verdict = Verdict::Passed;
    if rootless::is_root() && process::is_installed("setpriv") {
        let home = rootless::Home::create(context)?;
        println!("\nas an ordinary user:");
        if !run("native", &mut home.command(&program)?)? {
            who.push("as an ordinary user");
        }
    } else if rootless::is_root() {
        verdict = Verdict::PassedWith("as root alone: setpriv is missing".into());
    }
    ensure!(who.is_empty(), "attacks succeeded {}", who.join(" and "));
    Ok(verdict)
}

/// Runs the suite on the driver `name`; `tell` tells the program where what this driver stands on is.
pub(super) fn on(context: &Context<'_>, name: &str, tell: impl FnOnce(&mut Command)) -> anyhow::Result<()> {
    let mut command = Command::new(program(context)?);
    tell(command.env(guest::VARIABLE, context.workspace.guest()));
    ensure!(run(name, &mut command)?, "attacks succeeded on {name}");
    Ok(())
}

/// Whether all attacks fail.
fn run(driver: &str, command: &mut Command) -> anyhow::Result<bool> {
    command.args(["sandbox", "attack", "--driver", driver]);
    println!("\n{}", process::line(command));
    let (status, _) = process::run_and_read(command)?;
    Ok(status.success())
}
