//! `astraforge-worker`: runs, publications and reviews, as many workers as are needed on one database.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use clap::Parser;

use crate::{config::ServerArgs, node::Node, settings};

/// Does the runs, publications and reviews that wait in an installation's database.
///
/// All programs of an installation have the same DATABASE_URL, ASTRAFORGE_SECRET_KEY, and bucket or folder of files.
#[derive(Debug, Parser)]
#[command(name = "astraforge-worker", version, max_term_width = 110)]
pub(super) struct WorkerArgs {
    /// Address to answer `/healthz` and `/readyz` on [default: none]
    #[arg(long, env = "ASTRAFORGE_HEALTH_LISTEN", value_name = "ADDRESS")]
    health_listen: Option<SocketAddr>,
    /// How many seconds it may see through what it is at when it is told to stop; then runs are given back to others
    #[arg(long, env = "ASTRAFORGE_DRAIN", value_name = "SECONDS", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(..=86_400))]
    drain: u32,
    #[command(flatten)]
    node: ServerArgs,
}

/// Works until the process is told to stop.
#[must_use]
pub fn worker() -> ExitCode {
    let (args, _) = settings::read::<WorkerArgs>();
    super::run(super::until_told(async {
        super::look_around()?;
        args.node.database.require_server("astraforge-worker")?;
        let listener = match args.health_listen {
            Some(address) => Some(super::bind(address, "--health-listen").await?),
            None => None,
        };
        let health = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let node = Node::work(&args.node, listener, Duration::from_secs(args.drain.into())).await?;
        node.notes.iter().for_each(|note| tracing::warn!("{note}"));
        tracing::info!(workers = args.node.workers, health = health.map(tracing::field::display), "at work");
        Ok(node)
    }))
}
