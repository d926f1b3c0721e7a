//! `logs`: shows what happens on a request.

use astraforge_core::{
    event::{Envelope, RunEvent},
    id::RequestId,
};
use astraforge_http::Client;
use futures::StreamExt;

use crate::{
    cli::{ConnectionArgs, LogsArgs},
    connection::{Connection, parse_id},
    node::Queue,
    render::{Terminal, log},
};

/// Shows the log of a request.
pub(crate) async fn logs(args: &ConnectionArgs, logs: &LogsArgs) -> anyhow::Result<()> {
    let request: RequestId = parse_id(&logs.request, "astraforge requests")?;
    // It stays until nothing is at work, so what waits has to be worked on.
    Connection::with(args, Queue::Work, async |client| show(client, args, request, logs.follow).await).await
}

async fn show(client: &Client, args: &ConnectionArgs, request: RequestId, follow: bool) -> anyhow::Result<()> {
    let terminal = Terminal::detect();
    let mut events = if follow { client.follow_logs(request, 0) } else { client.logs(request, 0) };
    while let Some(event) = events.next().await {
        print_event(terminal, args.json, &event?)?;
    }
    Ok(())
}

/// Prints one event, as a line of JSON or as people read it.
pub(crate) fn print_event(terminal: Terminal, json: bool, event: &RunEvent) -> anyhow::Result<()> {
    if json {
        terminal.line(serde_json::to_string(&Envelope::from(event.clone()))?);
    } else {
        log::lines(terminal, event).into_iter().for_each(|line| terminal.line(line));
    }
    Ok(())
}
