//! `sandbox watch`: changes of files, one a line.

use anyhow::Context;
use astraforge_core::files::{FileChange, FileEvent, WatchRequest};
use futures::StreamExt;

use super::{Desk, sandbox_id};
use crate::{
    cli::WatchArgs,
    render::{Terminal, attention, bad, good, harmless},
    signals::StopSignals,
};

impl Desk<'_> {
    pub(super) async fn watch(&self, args: &WatchArgs) -> anyhow::Result<()> {
        let id = sandbox_id(&args.id)?;
        let mut stop = StopSignals::listen().context("cannot listen for signals")?;
        let request = WatchRequest { roots: self.roots(id).await?, path: args.path.clone(), recursive: !args.flat };
        let mut events = self.machine(id).await?.watch(request).await?;
        let (terminal, mut gone) = (Terminal::detect(), std::pin::pin!(self.stay(id)));
        loop {
            tokio::select! {
                event = events.next() => match event.transpose()? {
                    Some(event) if self.args.json => terminal.line(serde_json::to_string(&event)?),
                    Some(event) => show(terminal, &event),
                    None => return Ok(()),
                },
                error = &mut gone => return Err(error),
                () = stop.told() => return Ok(()),
            }
        }
    }
}

fn show(terminal: Terminal, event: &FileEvent) {
    let path = harmless(&event.path);
    let (mark, style) = match event.change {
        FileChange::Watching => return terminal.note(format!("watching {path}; Ctrl-C ends it")),
        FileChange::Overflowed => {
            return terminal.note(format!("more happened below {path} than could be told; look again"));
        }
        FileChange::Created => ("A", good()),
        FileChange::Removed => ("D", bad()),
        _ => ("M", attention()),
    };
    terminal.line(format!("{}  {path}", terminal.paint(mark, style)));
}
