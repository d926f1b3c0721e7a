//! The tests of the PostgreSQL store, against a server that runs only for them.

use std::process::Command;

use super::{Context, Verdict, stages, tally::Tally};
use crate::services::{self, Postgres};

/// Starts a server, runs the tests that ask for one, and stops it again.
pub(super) fn check(context: &Context<'_>, tally: &mut Tally) -> anyhow::Result<Verdict> {
    if let Some(obstacle) = services::postgres::obstacle(context.all)? {
        return Ok(Verdict::Skipped(obstacle));
    }
    let postgres = Postgres::start()?;
    let tell = &|command: &mut Command| _ = command.env(services::postgres::VARIABLE, postgres.url());
    stages::some(context, &["--test", "postgres"], tell, tally)?;
    // Servers that are used and killed, as on SQLite.
    let servers = "package(astraforge) & test(/^(restarts|follow_ups|agents|repositories)::/)";
    stages::some(context, &["--test", "it", "-E", servers], tell, tally)?;
    Ok(Verdict::Passed)
}
