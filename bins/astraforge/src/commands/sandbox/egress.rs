//! `sandbox egress`: what a sandbox may reach, and what it tried to.

use astraforge_core::egress::{EgressEvent, EgressOutcome};
use serde_json::json;

use super::{Desk, sandbox_id};
use crate::{
    cli::EgressOptions,
    commands::print,
    egress_log::EgressLog,
    render::{Terminal, attention, bad, faint, good, harmless},
};

impl Desk<'_> {
    /// Shows what the sandbox may reach and the last connections that it tried to make; changes the former first if asked.
    pub(super) async fn egress(&self, args: &EgressOptions) -> anyhow::Result<()> {
        let id = sandbox_id(&args.id)?;
        let sandbox = match &args.set {
            Some(egress) => self.plane.set_egress(&self.caller, id, egress.clone()).await?,
            None => self.plane.get(&self.caller, id).await?,
        };
        let egress = sandbox.spec.egress;
        let events = EgressLog::open(&self.args.node.data_folder()?)?.last(id, args.last)?;
        print(self.args, &json!({ "egress": egress.to_string(), "events": events }), |terminal, _| {
            terminal.line(&egress);
            events.iter().for_each(|event| terminal.line(row(terminal, event)));
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
