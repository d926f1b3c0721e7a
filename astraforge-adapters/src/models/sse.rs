//! Server-sent events of the Responses API: writing frames, and reading the data of frames.

use bytes::Bytes;
use serde_json::Value;

/// Writes one frame: the event's name, and its data on one line.
#[must_use]
pub fn frame(event: &str, data: &Value) -> Bytes {
    // JSON escapes line ends within strings, so its text is always a single line.
    Bytes::from(format!("event: {event}\ndata: {data}\n\n"))
}

/// Reads the data of each whole frame of a finished stream, in order.
///
/// Comments and other fields are passed over; a frame without data gives nothing. Line ends may be `\n` or `\r\n`.
///
/// ```
/// use astraforge_adapters::models::sse;
///
/// let text = ": hello\r\nevent: a\r\ndata: {\"one\":1}\r\n\r\ndata: two\ndata: lines\n\ndata: cut off";
/// assert_eq!(sse::data(text), ["{\"one\":1}", "two\nlines"]);
/// ```
#[must_use]
pub fn data(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current: Option<String> = None;
    for line in text.split_inclusive('\n') {
        let Some(line) = line.strip_suffix('\n') else { break };
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            found.extend(current.take());
        } else if let Some(value) = line.strip_prefix("data:") {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut current {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => current = Some(value.to_owned()),
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_written_frame_is_read_back() {
        let event = json!({"type": "x", "text": "two\nlines and ü"});
        let bytes = frame("x", &event);
        let texts = data(std::str::from_utf8(&bytes).unwrap());
        assert_eq!(texts.len(), 1);
        assert_eq!(serde_json::from_str::<Value>(&texts[0]).unwrap(), event);
    }
}
