//! The translation, on lines that were recorded from Codex 0.169.0.

use super::*;

const RECORDED: &str = include_str!("recorded.jsonl");

fn read(stream: &[u8], chunk: usize) -> (Transcript, Vec<EventKind>) {
    let mut transcript = Transcript::new();
    let mut events: Vec<_> = stream.chunks(chunk).flat_map(|chunk| transcript.stdout(chunk)).collect();
    events.extend(transcript.end());
    (transcript, events)
}

fn event(line: &str) -> Vec<EventKind> {
    read(line.as_bytes(), usize::MAX).1
}

#[test]
fn recorded_events_become_run_events() {
    let (transcript, events) = read(RECORDED.as_bytes(), usize::MAX);
    insta::assert_json_snapshot!(events);
    assert_eq!(transcript.thread(), Some("01a202c7-80e7-7583-8b7f-a3c333797037"));
    assert_eq!(transcript.last_message(), Some("I will look first."));
    assert!(transcript.completed());
}

#[test]
fn chunks_change_nothing() {
    let whole = read(RECORDED.as_bytes(), usize::MAX).1;
    for chunk in [1, 7, 100] {
        assert_eq!(read(RECORDED.as_bytes(), chunk).1, whole);
    }
}

#[track_caller]
fn check_failure(message: &str, cause: FailureCause, words: &str) {
    let line = serde_json::json!({"type": "turn.failed", "error": {"message": message}}).to_string();
    let failure = read(line.as_bytes(), usize::MAX).0.failure().unwrap();
    assert_eq!((failure.cause, failure.message.as_str()), (cause, words));
}

#[test]
fn a_failed_turn_is_told_in_words() {
    check_failure(
        r#"{"error":{"message":"This run token is not valid.","type":"invalid_request_error","code":"x","param":null}}"#,
        FailureCause::Model,
        "The model gave no usable answer: This run token is not valid.",
    );
    check_failure(
        r#"unexpected status 502 Bad Gateway: {"error":{"message":"Model upstream `x` cannot be reached."}}, url: http://127.0.0.2:8080/v1/responses"#,
        FailureCause::Model,
        "The model gave no usable answer: unexpected status 502 Bad Gateway: Model upstream `x` cannot be reached.",
    );
    check_failure(
        "Missing environment variable: `X`.",
        FailureCause::Agent,
        "Codex gave up: Missing environment variable: `X`.",
    );
}

#[test]
fn what_is_not_known_is_ignored() {
    assert_eq!(event(r#"{"type":"turn.paused","why":"tea"}"#), []);
    assert_eq!(event(r#"{"type":"item.completed","item":{"id":"i","type":"hologram","size":3}}"#), []);
    assert_eq!(event(""), []);
}

#[test]
fn what_is_no_event_is_shown_as_it_is() {
    assert_eq!(event("Segmentation fault"), [EventKind::log("Segmentation fault")]);
}

#[test]
fn an_endless_line_is_left_out_and_its_size_told() {
    let mut transcript = Transcript::new();
    for _ in 0..20 {
        assert_eq!(transcript.stdout(&vec![b'x'; 1 << 20]), []);
    }
    assert_eq!(transcript.stdout(b"\n"), [EventKind::log("[an event of 20971520 bytes was left out]")]);
    assert_eq!(transcript.stdout(b"{\"type\":\"turn.completed\"}\n"), []);
    assert!(transcript.completed());
}

#[test]
fn long_output_of_a_command_is_shown_by_its_ends() {
    let output = (0..1000).map(|n| format!("line {n}")).collect::<Vec<_>>().join("\n");
    let line = serde_json::json!({"type": "item.completed", "item": {"type": "command_execution", "command": "x",
        "aggregated_output": output, "exit_code": 3, "status": "failed"}});
    let events = event(&line.to_string());
    assert_eq!(events.len(), SHOWN_LINES + 2);
    assert_eq!(events[SHOWN_LINES / 2], EventKind::log("… [600 lines left out] …"));
    assert_eq!(events.last(), Some(&status("Command ended with exit code 3")));
}

#[test]
fn a_warning_is_told_once() {
    let line = "{\"type\":\"error\",\"message\":\"Reconnecting... 1/5\"}\n";
    assert_eq!(event(&line.repeat(3)), [status("Reconnecting... 1/5")]);
}

#[test]
fn an_id_that_is_none_leads_nowhere() {
    for id in ["../../../etc/passwd", "x; rm -rf /", "", "*"] {
        let line = serde_json::json!({"type": "thread.started", "thread_id": id}).to_string();
        assert_eq!(read(line.as_bytes(), usize::MAX).0.thread(), None, "{id}");
    }
}
