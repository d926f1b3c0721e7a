//! Run events as lines.

use astraforge_core::event::{EventKind, RunEvent};

use super::{Terminal, attention, bad, faint, good, harmless, strong};

/// Returns the lines for one event.
pub(crate) fn lines(terminal: Terminal, event: &RunEvent) -> Vec<String> {
    let mark = |mark: &str, style, text: &str| {
        text.lines()
            .enumerate()
            .map(|(i, line)| {
                let mark = if i == 0 { terminal.paint(mark, style) } else { " ".to_owned() };
                format!("{mark} {}", harmless(line))
            })
            .collect::<Vec<_>>()
    };
    match &event.kind {
        EventKind::UserPrompt { message } | EventKind::UserMessage { message } => mark("›", strong(), message),
        EventKind::Status { stage, message } => {
            let lines = mark("·", faint(), message);
            lines
                .into_iter()
                .map(|line| format!("{} {line}", terminal.paint(format!("{stage:>12}"), faint())))
                .collect()
        }
        EventKind::Command { command, .. } => indent(mark("$", attention(), command)),
        EventKind::Log { message } => indent(mark(" ", faint(), message)),
        EventKind::Error { stage, message, output, .. } => {
            let message = match stage.as_deref() {
                None | Some("failed") => message.clone(),
                Some(stage) => format!("[{stage}] {message}"),
            };
            let mut lines = mark("✖", bad(), &message);
            lines.extend(indent(output.iter().flat_map(|output| mark(" ", bad(), output)).collect()));
            lines
        }
        EventKind::AssistantMessage { message, .. } => mark("‹", strong(), message),
        EventKind::Completed { message } => mark("✔", good(), message),
        EventKind::Cancelled { message } => mark("✖", attention(), message),
        // Kinds that a newer server may send.
        _ => Vec::new(),
    }
}

/// Moves lines below the column of the stages.
fn indent(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().map(|line| format!("{:12} {line}", "")).collect()
}

#[cfg(test)]
mod tests {
    use astraforge_core::id::RequestId;

    use super::*;

    #[track_caller]
    fn check(kind: EventKind, expected: &[&str]) {
        let event = RunEvent {
            seq: 1,
            request_id: RequestId::random(),
            run_id: None,
            kind,
            created_at: "2026-03-01T10:15:00Z".parse().unwrap(),
        };
        assert_eq!(lines(Terminal::plain(), &event), expected);
    }

    #[test]
    fn each_kind_of_event_has_its_look() {
        check(EventKind::status("clone", "Cloned"), &["       clone · Cloned"]);
        check(EventKind::Command { command: "ls".into(), cwd: None }, &["             $ ls"]);
        check(EventKind::log("a\nb"), &["               a", "               b"]);
        check(EventKind::failed("no\u{7} luck"), &["✖ no\u{fffd} luck"]);
        check(EventKind::Completed { message: "Execution finished".into() }, &["✔ Execution finished"]);
    }
}
