//! Server-sent events, read from a copy of the bytes, and the few that the proxy writes itself.

use bytes::Bytes;
use http::HeaderValue;
use serde::Deserialize;

/// The largest event that is looked into; a larger one passes all the same.
const LARGEST: usize = 16 * 1024 * 1024;

/// Tells whether a content type is that of an event stream.
pub(super) fn is_event_stream(content_type: Option<&HeaderValue>) -> bool {
    content_type.is_some_and(|value| {
        let value = value.as_bytes();
        let kind = value.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        kind.eq_ignore_ascii_case(b"text/event-stream")
    })
}

/// Splits a stream that comes in arbitrary chunks into events.
#[derive(Debug, Default)]
pub(super) struct SseReader {
    line: Vec<u8>,
    name: Vec<u8>,
    data: Vec<u8>,
    /// The event has bytes that were left out of `data`.
    cut: bool,
    /// The last byte was a carriage return: a line feed that follows belongs to it.
    after_cr: bool,
    /// Something came since the last blank line.
    open: bool,
}

impl SseReader {
    /// Reads a chunk and hands over each event that it completes.
    pub(super) fn push(&mut self, chunk: &[u8], mut on_event: impl FnMut(Event<'_>)) {
        let mut rest = chunk;
        if self.after_cr && !rest.is_empty() {
            self.after_cr = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = rest.iter().position(|b| matches!(b, b'\n' | b'\r')) {
            self.extend_line(&rest[..end]);
            self.end_line(&mut on_event);
            let was_cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            if was_cr {
                self.after_cr = rest.is_empty();
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
        }
        self.extend_line(rest);
    }

    /// Tells whether an event has begun and not ended, or a line has ended in half of its line break.
    pub(super) fn is_open(&self) -> bool {
        self.open || self.after_cr
    }

    /// Reads a blank line, as if the stream had ended its last event.
    pub(super) fn close(&mut self, on_event: impl FnMut(Event<'_>)) {
        self.push(b"\n\n", on_event);
    }

    fn extend_line(&mut self, bytes: &[u8]) {
        self.open |= !bytes.is_empty();
        let room = LARGEST.saturating_sub(self.line.len());
        self.cut |= bytes.len() > room;
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end_line(&mut self, on_event: &mut impl FnMut(Event<'_>)) {
        if self.line.is_empty() {
            if !self.data.is_empty() {
                on_event(Event { name: &self.name, data: &self.data, cut: self.cut });
            }
            self.name.clear();
            self.data.clear();
            (self.cut, self.open) = (false, false);
            return;
        }
        if let Some(value) = field(&self.line, b"data") {
            if !self.data.is_empty() {
                self.data.push(b'\n');
            }
            let room = LARGEST.saturating_sub(self.data.len());
            self.cut |= value.len() > room;
            self.data.extend_from_slice(&value[..value.len().min(room)]);
        } else if let Some(value) = field(&self.line, b"event") {
            self.name = value[..value.len().min(256)].to_vec();
        }
        self.line.clear();
    }
}

fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = line.strip_prefix(name)?.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

/// One event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event<'a> {
    name: &'a [u8],
    data: &'a [u8],
    cut: bool,
}

impl Event<'_> {
    /// What it says about the answer as a whole; `None` for what is no event of the Responses API.
    pub(super) fn read(&self) -> Option<ResponseEvent> {
        if !self.cut {
            return serde_json::from_slice(self.data).ok();
        }
        // Too large to be read whole, but how it begins tells what it is.
        let head = &self.data[..self.data.len().min(512)];
        let is = |kind: &&str| {
            let field = format!("\"type\":\"{kind}\"");
            self.name == kind.as_bytes() || head.windows(field.len()).any(|window| window == field.as_bytes())
        };
        let kind = TERMINAL.into_iter().find(is)?;
        Some(ResponseEvent { kind: kind.to_owned(), sequence_number: None, response: None })
    }
}

const TERMINAL: [&str; 3] = ["response.completed", "response.failed", "response.incomplete"];

/// An event of the Responses API, as far as the proxy cares.
#[derive(Debug, Deserialize)]
pub(super) struct ResponseEvent {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) sequence_number: Option<u64>,
    #[serde(default)]
    pub(super) response: Option<ResponseObject>,
}

impl ResponseEvent {
    /// Tells whether the answer ends with it.
    pub(super) fn is_terminal(&self) -> bool {
        TERMINAL.contains(&self.kind.as_str())
    }
}

/// A `response` object, as far as the proxy cares.
#[derive(Debug, Deserialize)]
pub(super) struct ResponseObject {
    #[serde(default)]
    pub(super) id: Option<String>,
    /// Kept apart, so that an odd form of it spoils nothing else.
    #[serde(default)]
    pub(super) usage: Option<serde_json::Value>,
}

/// A `response.failed` event that Codex takes as a reason to try once more.
pub(super) fn failed(id: Option<&str>, sequence_number: u64, message: &str) -> Bytes {
    let event = serde_json::json!({
        "type": "response.failed",
        "sequence_number": sequence_number,
        "response": {
            "id": id.unwrap_or("resp_unfinished"),
            "object": "response",
            "status": "failed",
            "error": {"code": "server_error", "message": message},
            "output": [],
        },
    });
    Bytes::from(format!("event: response.failed\ndata: {event}\n\n"))
}

/// [`failed`] for a stream that may have been cut within an event, which is ended first.
pub(super) fn failed_after_cut(message: &str) -> Bytes {
    let mut bytes = b"\n\n".to_vec();
    bytes.extend_from_slice(&failed(None, 0, message));
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&[u8]]) -> Vec<String> {
        let (mut reader, mut seen) = (SseReader::default(), Vec::new());
        for chunk in chunks {
            reader.push(chunk, |event| seen.push(String::from_utf8_lossy(event.data).into_owned()));
        }
        seen
    }

    #[track_caller]
    fn check(stream: &str, events: &[&str]) {
        assert_eq!(read(&[stream.as_bytes()]), events, "{stream:?}");
        for cut in 0..stream.len() {
            let (head, tail) = stream.as_bytes().split_at(cut);
            assert_eq!(read(&[head, tail]), events, "{stream:?} cut at {cut}");
        }
    }

    #[test]
    fn events_are_found_wherever_the_chunks_are_cut() {
        check("data: a\n\ndata: b\n\n", &["a", "b"]);
        check("event: x\r\ndata: a\r\n\r\n: comment\r\n\r\ndata:b\r\n\r\n", &["a", "b"]);
        check("data: a\r\rdata: b\r\r", &["a", "b"]);
        check("data: a\ndata: b\nid: 7\n\n", &["a\nb"]);
        check("data: never ended\n", &[]);
        check("\n\nevent: no data\n\n", &[]);
    }

    #[test]
    fn the_end_of_an_event_too_large_to_be_read_is_known_all_the_same() {
        let mut reader = SseReader::default();
        let mut seen = None;
        reader.push(b"data: {\"type\":\"response.completed\",\"filler\":\"", |_| ());
        for _ in 0..17 {
            reader.push(&vec![b'x'; 1024 * 1024], |_| ());
        }
        reader.push(b"\"}\n\n", |event| seen = event.read().map(|event| event.is_terminal()));
        assert_eq!(seen, Some(true));
        assert!(!reader.is_open());
    }
}
