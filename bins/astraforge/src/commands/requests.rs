//! `requests`: lists requests, or shows one.

use astraforge_core::request::RequestState;
use astraforge_http::{Client, wire::request::RequestView};
use owo_colors::Style;

use crate::{
    cli::{ConnectionArgs, ListOrOne},
    commands::{Listed, print},
    connection::{Connection, parse_id},
    node::Queue,
    render::{Terminal, attention, bad, faint, good, harmless, strong},
};

/// Lists requests, or shows one.
pub(crate) async fn requests(args: &ConnectionArgs, which: &ListOrOne) -> anyhow::Result<()> {
    Connection::with(args, Queue::Leave, async |client| show(client, args, which).await).await
}

async fn show(client: &Client, args: &ConnectionArgs, which: &ListOrOne) -> anyhow::Result<()> {
    match &which.id {
        Some(id) => print(args, &client.request(parse_id(id, "astraforge requests")?).await?, one),
        None => {
            let listed = Listed::read(client.stream_requests(None), which.limit).await?;
            let none = "No requests yet. Make one with: astraforge run \"what to do\"";
            listed.print(args, none, |terminal, request| terminal.line(row(terminal, request)))
        }
    }
}

fn row(terminal: Terminal, request: &RequestView) -> String {
    let state = terminal.paint(format!("{:<12}", request.state.to_string()), style_of(request.state));
    let made = request.created_at.format("%Y-%m-%d %H:%M");
    let title = harmless(request.payload.title.lines().next().unwrap_or_default());
    format!("{}  {state}  {}  {title}", request.id, terminal.paint(made, faint()))
}

fn one(terminal: Terminal, request: &RequestView) {
    terminal.line(terminal.paint(harmless(&request.payload.title), strong()));
    terminal.line(row(terminal, request));
    for message in &request.metadata.chat_messages {
        terminal.line(format!("{:?}: {}", message.role, harmless(&message.message.replace('\n', " "))));
    }
    terminal.line(terminal.paint(next_step(request), faint()));
}

/// What a person can do next.
fn next_step(request: &RequestView) -> String {
    let id = request.id;
    match request.state {
        RequestState::PatchReady => format!("next: astraforge diff {id}, then astraforge approve {id}"),
        RequestState::MrOpened | RequestState::Reviewed => format!("next: astraforge mr, astraforge apply {id}"),
        RequestState::Failed | RequestState::Cancelled => format!("next: astraforge logs {id}"),
        _ => format!("next: astraforge logs -f {id}"),
    }
}

/// The colour of a state.
pub(crate) fn style_of(state: RequestState) -> Style {
    match state {
        RequestState::Failed => bad(),
        RequestState::Cancelled | RequestState::PatchReady => attention(),
        RequestState::MrOpened | RequestState::Reviewed | RequestState::Done => good(),
        _ => Style::new().cyan(),
    }
}
