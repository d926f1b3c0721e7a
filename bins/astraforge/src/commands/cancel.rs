//! `cancel`: stops the runs of a request.

use astraforge_core::request::RequestState;

use crate::{
    cli::{ConnectionArgs, RequestArg},
    commands::print,
    connection::{Connection, parse_id},
    node::Queue,
};

/// Stops what is at work or waits.
pub(crate) async fn cancel(args: &ConnectionArgs, request: &RequestArg) -> anyhow::Result<()> {
    let id = parse_id(&request.request, "astraforge requests")?;
    let cancelled = Connection::with(args, Queue::Leave, async |client| Ok(client.cancel_request(id).await?)).await?;
    print(args, &cancelled, |terminal, cancelled| {
        let has_stopped = cancelled.state == RequestState::Cancelled;
        let then = if has_stopped { "nothing is at work on it" } else { "the log tells when its run has stopped" };
        terminal.line(format!("{}: {then}", cancelled.status));
    })
}
