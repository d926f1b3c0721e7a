//! What a server that takes calls says when it is up.

use std::path::Path;

use serde_json::json;

use crate::{
    node::{Door, Node},
    render::{Terminal, attention, faint, good, strong},
};

/// Says where `node` takes calls, and the first key of all when it was made just now; as one line of JSON if asked for.
pub(crate) fn greet(json: bool, data: &Path, node: &Node, door: &Door) {
    let terminal = Terminal::detect();
    let key = door.is_first_start.then(|| door.owner_key.reveal());
    if json {
        terminal.line(json!({ "url": door.url, "api_key": key, "data": data, "notes": node.notes }));
        return;
    }
    terminal.line(format!("{} {}", terminal.paint("AstraForge is up:", good()), terminal.paint(&door.url, strong())));
    terminal.line(format!("  API description  {}/api/docs/", door.url));
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
}
