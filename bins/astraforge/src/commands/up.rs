//! `up`: runs the server and its workers until Ctrl-C.

use anyhow::Context;
use serde_json::json;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{
    cli::{ConnectionArgs, UpArgs},
    node::Node,
    render::{Terminal, attention, faint, good, strong},
};

/// Runs a node until it is told to stop.
pub(crate) async fn up(connection: &ConnectionArgs, args: &UpArgs) -> anyhow::Result<()> {
    // Asked for first, so that no signal is lost in between.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}; pass another address with --listen", args.listen))?;
    let node = Node::start(&connection.node, listener).await?;
    greet(connection, &node)?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping");
    node.stop().await;
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
