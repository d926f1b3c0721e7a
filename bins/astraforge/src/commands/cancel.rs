//! `cancel`: stops the runs of a request.

use crate::{
    cli::{ConnectionArgs, RequestArg},
    commands::print,
    connection::{Connection, parse_id},
};

/// Stops what is at work or waits.
pub(crate) async fn cancel(args: &ConnectionArgs, request: &RequestArg) -> anyhow::Result<()> {
    let id = parse_id(&request.request)?;
    let connection = Connection::open(args).await?;
    let cancelled = connection.client.cancel_request(id).await;
    connection.close().await;
    print(args, &cancelled?, |terminal, cancelled| terminal.line(format!("{}: {}", cancelled.status, cancelled.state)))
}
