//! The answer of a step as bytes: the full event set, or one `response` object.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{request::Seen, scenario::Entry};
use crate::models::sse;

/// An answer, worked out: what is left is to send it.
#[derive(Debug)]
pub(super) struct Played {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// How long the head is held back.
    pub head_delay: Duration,
    pub pieces: Vec<Piece>,
}

/// What happens next in the body of an answer.
#[derive(Debug)]
pub(super) enum Piece {
    Bytes(Bytes),
    Wait(Duration),
    Cut,
    Stall,
}

/// Works out the answer to a request.
pub(super) fn play(entries: &[Entry], seen: &Seen) -> Played {
    let (waits, rest): (Vec<_>, _) = {
        let n_waits = entries.iter().take_while(|entry| matches!(entry, Entry::DelayMs(_))).count();
        (entries[..n_waits].iter().map(wait).collect(), &entries[n_waits..])
    };
    let mut played = match rest.first() {
        Some(Entry::Error { status, headers, body }) => {
            let mut played = refusal(*status, body);
            played.headers.extend(headers.iter().map(|(k, v)| (k.to_ascii_lowercase(), v.clone())));
            played
        }
        Some(Entry::Html { status, body }) => whole(*status, "text/html; charset=utf-8", body.clone()),
        _ if seen.stream => stream(rest, seen),
        _ => object(rest, seen),
    };
    played.head_delay = waits.into_iter().sum();
    played
}

/// An answer in the shape of OpenAI's errors, with a text of our own.
pub(super) fn error(status: u16, code: &str, message: &str) -> Played {
    let body = json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": code}});
    whole(status, "application/json", body.to_string())
}

/// `GET /models`.
pub(super) fn models(names: &[String]) -> Played {
    let entry = |name| json!({"id": name, "object": "model", "created": 0, "owned_by": "scripted"});
    let body = json!({"object": "list", "data": names.iter().map(entry).collect::<Vec<_>>()});
    whole(200, "application/json", body.to_string())
}

fn refusal(status: u16, body: &Value) -> Played {
    match body {
        Value::Null => error(status, "scripted_error", &format!("the scenario answers with status {status}")),
        Value::String(text) => whole(status, "text/plain; charset=utf-8", text.clone()),
        body => whole(status, "application/json", body.to_string()),
    }
}

fn whole(status: u16, content_type: &str, body: String) -> Played {
    Played {
        status,
        headers: vec![("content-type".into(), content_type.into())],
        head_delay: Duration::ZERO,
        pieces: vec![Piece::Bytes(Bytes::from(body))],
    }
}

fn wait(entry: &Entry) -> Duration {
    match entry {
        Entry::DelayMs(ms) => Duration::from_millis(*ms),
        _ => Duration::ZERO,
    }
}

fn stream(entries: &[Entry], seen: &Seen) -> Played {
    let mut writer = Writer::new(entries, seen);
    writer.begin();
    for entry in entries {
        writer.entry(entry);
    }
    if !writer.ended {
        writer.end("completed", json!({}));
    }
    let mut played = whole(200, "text/event-stream; charset=utf-8", String::new());
    played.headers.push(("x-request-id".into(), format!("req_{}", writer.ids)));
    played.pieces = writer.pieces;
    played
}

fn object(entries: &[Entry], seen: &Seen) -> Played {
    let mut writer = Writer::new(entries, seen);
    let mut end = ("completed", json!({}));
    let mut pieces = Vec::new();
    for entry in entries {
        match entry {
            Entry::Failed { code, message } => end = ("failed", failed(code, message)),
            Entry::Incomplete { reason } => end = ("incomplete", incomplete(reason)),
            Entry::DelayMs(_) => pieces.push(Piece::Wait(wait(entry))),
            Entry::Cut => pieces.push(Piece::Cut),
            Entry::Stall => pieces.push(Piece::Stall),
            entry => writer.entry(entry),
        }
    }
    let response = writer.response(end.0, end.1);
    let mut played = whole(200, "application/json", response.to_string());
    played.headers.push(("x-request-id".into(), format!("req_{}", writer.ids)));
    // Breaking off and standing still come in the midst of the object.
    let body = played.pieces.pop();
    if matches!(pieces.last(), Some(Piece::Cut | Piece::Stall)) {
        pieces.insert(0, Piece::Bytes(Bytes::from_static(b"{")));
    } else {
        pieces.extend(body);
    }
    played.pieces = pieces;
    played
}

fn failed(code: &str, message: &str) -> Value {
    json!({"error": {"code": code, "message": message}})
}

fn incomplete(reason: &str) -> Value {
    json!({"incomplete_details": {"reason": reason}})
}

/// Writes the events of a streamed answer.
struct Writer {
    pieces: Vec<Piece>,
    /// The finished items.
    output: Vec<Value>,
    /// What every id of this answer ends in: the same request gets the same ids.
    ids: String,
    model: String,
    created_at: i64,
    usage: Value,
    sequence: u64,
    ended: bool,
}

impl Writer {
    fn new(entries: &[Entry], seen: &Seen) -> Self {
        let ids = format!("{:x}", Sha256::digest(seen.text.as_bytes()))[..16].to_owned();
        Self {
            pieces: Vec::new(),
            output: Vec::new(),
            ids,
            model: seen.model.clone(),
            created_at: chrono::Utc::now().timestamp(),
            usage: usage(entries, seen),
            sequence: 0,
            ended: false,
        }
    }

    fn begin(&mut self) {
        for event in ["response.created", "response.in_progress"] {
            let response = self.response("in_progress", json!({"usage": null}));
            self.event(event, json!({"response": response}));
        }
    }

    fn entry(&mut self, entry: &Entry) {
        match entry {
            Entry::Message(text) => self.message(text),
            Entry::Reasoning(text) => self.reasoning(text),
            Entry::FunctionCall { name, arguments } => self.function_call(name, &arguments.to_string()),
            Entry::CustomToolCall { name, input } => self.custom_tool_call(name, input),
            Entry::DelayMs(_) => self.pieces.push(Piece::Wait(wait(entry))),
            Entry::Sse(text) => self.pieces.push(Piece::Bytes(Bytes::from(text.clone()))),
            Entry::Failed { code, message } => self.end("failed", failed(code, message)),
            Entry::Incomplete { reason } => self.end("incomplete", incomplete(reason)),
            Entry::Cut => self.stop(Some(Piece::Cut)),
            Entry::Stall => self.stop(Some(Piece::Stall)),
            Entry::End => self.stop(None),
            Entry::Usage { .. } | Entry::Error { .. } | Entry::Html { .. } => {}
        }
    }

    fn message(&mut self, text: &str) {
        let id = self.item_id("msg");
        let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
        let item = |status, content: Value| json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": content});
        self.added(item("in_progress", json!([])));
        self.part("response.content_part.added", &id, "content_index", json!({"part": part("")}));
        for delta in deltas(text) {
            let fields = json!({"delta": delta, "logprobs": []});
            self.part("response.output_text.delta", &id, "content_index", fields);
        }
        let fields = json!({"text": text, "logprobs": []});
        self.part("response.output_text.done", &id, "content_index", fields);
        self.part("response.content_part.done", &id, "content_index", json!({"part": part(text)}));
        self.done(item("completed", json!([part(text)])));
    }

    fn reasoning(&mut self, text: &str) {
        let id = self.item_id("rs");
        let part = |text: &str| json!({"type": "summary_text", "text": text});
        self.added(json!({"id": id, "type": "reasoning", "summary": []}));
        self.part("response.reasoning_summary_part.added", &id, "summary_index", json!({"part": part("")}));
        for delta in deltas(text) {
            self.part("response.reasoning_summary_text.delta", &id, "summary_index", json!({"delta": delta}));
        }
        self.part("response.reasoning_summary_text.done", &id, "summary_index", json!({"text": text}));
        self.part("response.reasoning_summary_part.done", &id, "summary_index", json!({"part": part(text)}));
        self.done(json!({"id": id, "type": "reasoning", "summary": [part(text)]}));
    }

    fn function_call(&mut self, name: &str, arguments: &str) {
        let (id, call_id) = (self.item_id("fc"), self.item_id("call"));
        let item = |status, arguments| {
            json!({"id": id, "type": "function_call", "status": status, "name": name, "call_id": call_id,
                   "arguments": arguments})
        };
        self.added(item("in_progress", ""));
        let place = json!({"item_id": id, "output_index": self.output.len()});
        for delta in deltas(arguments) {
            self.event("response.function_call_arguments.delta", merged(&place, json!({"delta": delta})));
        }
        let fields = json!({"arguments": arguments, "name": name});
        self.event("response.function_call_arguments.done", merged(&place, fields));
        self.done(item("completed", arguments));
    }

    fn custom_tool_call(&mut self, name: &str, input: &str) {
        let (id, call_id) = (self.item_id("ctc"), self.item_id("call"));
        let item = |status, input| {
            json!({"id": id, "type": "custom_tool_call", "status": status, "name": name, "call_id": call_id,
                   "input": input})
        };
        self.added(item("in_progress", ""));
        let place = json!({"item_id": id, "output_index": self.output.len()});
        for delta in deltas(input) {
            self.event("response.custom_tool_call_input.delta", merged(&place, json!({"delta": delta})));
        }
        self.event("response.custom_tool_call_input.done", merged(&place, json!({"input": input})));
        self.done(item("completed", input));
    }

    fn added(&mut self, item: Value) {
        let place = json!({"output_index": self.output.len(), "item": item});
        self.event("response.output_item.added", place);
    }

    fn done(&mut self, item: Value) {
        let place = json!({"output_index": self.output.len(), "item": item});
        self.event("response.output_item.done", place);
        self.output.push(item);
    }

    fn part(&mut self, event: &str, item_id: &str, index: &str, fields: Value) {
        let place = json!({"item_id": item_id, "output_index": self.output.len(), index: 0});
        self.event(event, merged(&place, fields));
    }

    fn end(&mut self, status: &str, fields: Value) {
        let response = self.response(status, fields);
        self.event(&format!("response.{status}"), json!({"response": response}));
        self.ended = true;
    }

    fn stop(&mut self, piece: Option<Piece>) {
        self.pieces.extend(piece);
        self.ended = true;
    }

    fn event(&mut self, event: &str, fields: Value) {
        let head = json!({"type": event, "sequence_number": self.sequence});
        self.sequence += 1;
        self.pieces.push(Piece::Bytes(sse::frame(event, &merged(&head, fields))));
    }

    fn item_id(&self, kind: &str) -> String {
        format!("{kind}_{}{:02}", self.ids, self.output.len())
    }

    fn response(&self, status: &str, fields: Value) -> Value {
        let response = json!({
            "id": format!("resp_{}", self.ids), "object": "response", "created_at": self.created_at,
            "status": status, "model": self.model, "output": self.output, "usage": self.usage,
            "error": null, "incomplete_details": null, "instructions": null, "metadata": {},
            "parallel_tool_calls": true, "temperature": null, "tool_choice": "auto", "tools": [], "top_p": null,
        });
        merged(&response, fields)
    }
}

/// The usage that the scenario names, else four bytes a token.
fn usage(entries: &[Entry], seen: &Seen) -> Value {
    let named = entries.iter().find_map(|entry| match entry {
        Entry::Usage { input_tokens, output_tokens } => Some((*input_tokens, *output_tokens)),
        _ => None,
    });
    let (input, output) = named.unwrap_or_else(|| {
        let written: usize = entries.iter().map(text_length).sum();
        ((seen.text.len() / 4) as u64, (written / 4 + 1) as u64)
    });
    json!({
        "input_tokens": input, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input + output,
    })
}

fn text_length(entry: &Entry) -> usize {
    match entry {
        Entry::Message(text) | Entry::Reasoning(text) => text.len(),
        Entry::FunctionCall { arguments, .. } => arguments.to_string().len(),
        Entry::CustomToolCall { input, .. } => input.len(),
        _ => 0,
    }
}

/// Cuts a text as a model would send it: a few words at a time.
fn deltas(text: &str) -> Vec<String> {
    const LENGTH: usize = 24;
    let chars: Vec<char> = text.chars().collect();
    chars.chunks(LENGTH).map(|chunk| chunk.iter().collect()).collect()
}

fn merged(base: &Value, fields: Value) -> Value {
    let mut merged = base.clone();
    if let (Value::Object(merged), Value::Object(fields)) = (&mut merged, fields) {
        merged.extend(fields);
    }
    merged
}
