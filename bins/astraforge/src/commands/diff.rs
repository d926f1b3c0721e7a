//! `diff`: shows the change that waits for approval.

use astraforge_core::policy::Decision;
use astraforge_http::wire::change_set::ChangeSetView;

use crate::{
    cli::{ConnectionArgs, RequestArg},
    commands::print,
    connection::{Connection, parse_id},
    node::Queue,
    render::{Terminal, attention, bad, change, good, harmless, strong},
};

/// Shows the newest change of a request.
pub(crate) async fn diff(args: &ConnectionArgs, request: &RequestArg) -> anyhow::Result<()> {
    let id = parse_id(&request.request, "astraforge requests")?;
    let found = Connection::with(args, Queue::Leave, async |client| Ok(client.diff(id).await?)).await?;
    print(args, &found, write)
}

/// Writes a change with its verdict and digest.
pub(crate) fn write(terminal: Terminal, set: &ChangeSetView) {
    change::diff(terminal, &set.diff).into_iter().for_each(|line| terminal.line(line));
    terminal.line("");
    for file in &set.files {
        let counts = change::counts(terminal, file.added, file.removed);
        terminal.line(format!("  {counts}  {}", harmless(&file.path)));
    }
    let (word, style) = match set.verdict.decision {
        Decision::Allow => ("allowed", good()),
        Decision::NeedsMaintainer => ("needs a maintainer", attention()),
        Decision::Deny => ("forbidden", bad()),
    };
    terminal.line(format!("policy  {}", terminal.paint(word, style)));
    for reason in &set.verdict.reasons {
        let path = reason.path.as_deref().map(|path| format!("{}: ", harmless(path))).unwrap_or_default();
        terminal.line(format!("        {path}{} ({})", harmless(&reason.message), reason.rule));
    }
    terminal.line(format!("digest  {}", terminal.paint(&set.digest, strong())));
}
