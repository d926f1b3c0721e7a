//! The tests of what stands on PostgreSQL and Redis, against servers that run only for them.

use super::{Context, Verdict, stages, tally::Tally};
use crate::{
    chaos,
    services::{self, Services},
};

/// Starts the servers, runs the tests that ask for one, and stops them again.
pub(super) fn check(context: &Context<'_>, tally: &mut Tally) -> anyhow::Result<Verdict> {
    if let Some(obstacle) = services::obstacle(context.all)? {
        return Ok(Verdict::Skipped(obstacle));
    }
    let services = Services::start()?;
    let tell = &|command: &mut _| services.tell(command);
    stages::some(context, &["--test", "postgres", "--test", "redis"], tell, tally)?;
    // Servers that are used and killed, as on SQLite.
    let servers = "package(astraforge) & test(/^(restarts|follow_ups|agents|repositories|event_bus)::/)";
    stages::some(context, &["--test", "it", "-E", servers], tell, tally)?;
    // An installation of several programs, with ten blows against it, and whatever else is ignored where there are no
    // servers.
    let installation = "package(astraforge) & test(/^(installation|event_bus)::/)";
    let seed = chaos::new_seed();
    println!("chaos: 10 blows, seed {seed}; play them again with: cargo xtask chaos service --seed {seed}");
    let tell = &|command: &mut _| {
        services.tell(command);
        chaos::service::tell(command, 10, seed);
    };
    stages::some(context, &["--test", "it", "--run-ignored", "only", "-E", installation], tell, tally)?;
    Ok(Verdict::Passed)
}
