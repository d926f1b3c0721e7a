//! `sandbox egress`: what a sandbox may reach, and what it tried to.

use astraforge_core::egress::{EgressEvent, EgressOutcome};

use super::{Desk, sandbox_id};
use crate::{
    cli::EgressOptions,
    commands::print,
    render::{Terminal, attention, bad, faint, good, harmless},
};

impl Desk<'_> {
    /// Shows what the sandbox may reach and the last connections that it tried to make; changes the former first if asked.
    pub(super) async fn egress(&self, args: &EgressOptions) -> anyhow::Result<()> {
        let id = sandbox_id(&args.id)?;
        if let Some(egress) = &args.set {
            self.plane.set_egress(id, egress.clone()).await?;
        }
        let view = self.plane.egress(id, args.last).await?;
        print(self.args, &view, |terminal, view| {
            terminal.line(&view.egress);
            view.events.iter().for_each(|event| terminal.line(row(terminal, event)));
        })
    }
}

fn row(terminal: Terminal, event: &EgressEvent) -> String {
    let (word, style, more) = match &event.outcome {
        EgressOutcome::Allowed { address, sent, received } => {
            ("allowed", good(), format!("{address}, {sent} B sent, {received} B received"))
        }
        EgressOutcome::Refused { reason } => ("refused", bad(), reason.clone()),
        EgressOutcome::Failed { reason } => ("failed", attention(), reason.clone()),
        _ => ("other", attention(), String::new()),
    };
    let at = terminal.paint(event.at.format("%Y-%m-%d %H:%M:%S"), faint());
    let word = terminal.paint(format!("{word:<7}"), style);
    format!("{at}  {word}  {}:{}  {}", harmless(&event.host), event.port, harmless(&more)).trim_end().to_owned()
}
