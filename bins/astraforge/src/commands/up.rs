//! `up`: runs the server and its workers until Ctrl-C.

use anyhow::Context;
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    cli::{ConnectionArgs, UpArgs},
    node::{Node, Queue},
    render::{Terminal, attention, faint, good, strong},
    signals::StopSignals,
};

/// Runs a node until it is told to stop.
pub(crate) async fn up(connection: &ConnectionArgs, args: &UpArgs) -> anyhow::Result<()> {
    // Asked for first, so that no signal is lost in between.
    let mut stop = StopSignals::listen().context("cannot listen for signals")?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}; pass another address with --listen", args.listen))?;
    let node = Node::start(&connection.node, listener, Queue::Work).await?;
    greet(connection, &node)?;
    stop.told().await;
    tracing::info!("stopping");
    tokio::select! {
        () = node.stop() => {}
        () = stop.told() => tracing::warn!("told twice: what is left is settled at the next start"),
    }
    Ok(())
}

fn greet(connection: &ConnectionArgs, node: &Node) -> anyhow::Result<()> {
    let terminal = Terminal::detect();
    let data = connection.node.data_folder()?;
    let key = node.is_first_start.then(|| node.owner_key.reveal());
    if connection.json {
        terminal.line(json!({ "url": node.url, "api_key": key, "data": data, "notes": node.notes }));
        return Ok(());
    }
    terminal.line(format!("{} {}", terminal.paint("AstraForge is up:", good()), terminal.paint(&node.url, strong())));
    terminal.line(format!("  API description  {}/api/docs/", node.url));
    terminal.line(format!("  data folder      {}", data.display()));
    if let Some(key) = key {
        terminal.line(format!("  admin API key    {}", terminal.paint(key, strong())));
        terminal.line(
            terminal.paint("                   shown once; commands on this machine find it by themselves", faint()),
        );
    }
    for note in &node.notes {
        terminal.line(format!("  {} {note}", terminal.paint("note:", attention())));
    }
    terminal.line(terminal.paint("  Ctrl-C stops it", faint()));
    Ok(())
}
