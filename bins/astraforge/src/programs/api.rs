//! `astraforge-api`: the HTTP API, as many as are needed on one database.

use std::process::ExitCode;

use clap::Parser;

use super::ListenArgs;
use crate::{
    config::ServerArgs,
    greeting::greet,
    node::{Node, Queue},
    settings,
};

/// Serves the HTTP API of an installation whose workers are programs of their own.
///
/// All programs of an installation have the same DATABASE_URL, ASTRAFORGE_SECRET_KEY, and bucket or folder of files.
#[derive(Debug, Parser)]
#[command(name = "astraforge-api", version, max_term_width = 110)]
pub(super) struct ApiArgs {
    #[command(flatten)]
    listen: ListenArgs,
    /// Say where it listens as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: ServerArgs,
}

/// Serves the HTTP API until the process is told to stop.
#[must_use]
pub fn api() -> ExitCode {
    let (args, _) = settings::read::<ApiArgs>();
    super::run(super::until_told(async {
        super::look_around()?;
        args.node.database.require_server("astraforge-api")?;
        let listener = args.listen.bind().await?;
        let (node, door) = Node::serve(&args.node, listener, Queue::Leave).await?;
        greet(args.json, &args.node.data_folder()?, &node, &door);
        Ok(node)
    }))
}
