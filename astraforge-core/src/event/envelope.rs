//! The versioned form of an event, for every reader that is not this program.

use serde::{Deserialize, Serialize, de};
use serde_json::{Map, Value};

use super::RunEvent;

/// An event in the form that other programs and other versions read. Its schema is `docs/schemas/run-event.v1.json`.
///
/// Within a version fields may be added; whatever else changes, a type of event among it, counts the version up.
///
/// ```
/// use astraforge_core::event::Envelope;
///
/// let json = r#"{"version":1,"seq":1,"request_id":"018f2f6e-6f0a-7c3e-9d55-0a4f5b1c2d3e","type":"log",
///     "message":"hello","created_at":"2026-03-01T12:00:00Z"}"#;
/// let envelope: Envelope = serde_json::from_str(json)?;
/// assert_eq!(envelope.event().seq, 1);
/// assert!(serde_json::from_str::<Envelope>(&json.replace(r#""version":1"#, r#""version":2"#)).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Envelope {
    version: u32,
    #[serde(flatten)]
    event: RunEvent,
}

impl Envelope {
    /// The version that is written.
    pub const VERSION: u32 = 1;

    /// The event.
    #[must_use]
    pub fn event(&self) -> &RunEvent {
        &self.event
    }

    /// The event, without its envelope.
    #[must_use]
    pub fn into_event(self) -> RunEvent {
        self.event
    }
}

impl From<RunEvent> for Envelope {
    fn from(event: RunEvent) -> Self {
        Self { version: Self::VERSION, event }
    }
}

/// The event is of a version that this program does not know.
#[derive(Debug, thiserror::Error)]
#[error("the event is of version {version}, this program knows versions up to {}: use a newer one", Envelope::VERSION)]
struct NewerEvent {
    version: u32,
}

/// What was written, by any version.
#[derive(Deserialize)]
struct Written {
    /// Events had no version before they had an envelope; the rest of their form was that of version 1.
    #[serde(default)]
    version: u32,
    /// What it means depends on the version.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Written { version, rest } = Written::deserialize(deserializer)?;
        if version > Self::VERSION {
            return Err(de::Error::custom(NewerEvent { version }));
        }
        serde_json::from_value(Value::Object(rest)).map(RunEvent::into).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use jsonschema::Validator;
    use serde_json::json;

    use super::*;
    use crate::{
        event::EventKind,
        id::{RequestId, RunId},
        testing::samples,
    };

    fn file(path: &str) -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap()
    }

    fn schema() -> Value {
        file("../docs/schemas/run-event.v1.json")
    }

    fn validator() -> Validator {
        jsonschema::options().should_validate_formats(true).build(&schema()).unwrap()
    }

    /// The name of a kind on the wire. A new kind does not compile until it has one, and then has to be in the schema.
    fn name(kind: &EventKind) -> &'static str {
        match kind {
            EventKind::UserPrompt { .. } => "user_prompt",
            EventKind::UserMessage { .. } => "user_message",
            EventKind::Status { .. } => "status",
            EventKind::Command { .. } => "command",
            EventKind::Log { .. } => "log",
            EventKind::Error { .. } => "error",
            EventKind::AssistantMessage { .. } => "assistant_message",
            EventKind::Completed { .. } => "completed",
            EventKind::Cancelled { .. } => "cancelled",
        }
    }

    fn every_kind() -> Vec<EventKind> {
        let text = || "ä \"quoted\"\n\u{0}".to_owned();
        let error = |stage, output, exit_code| EventKind::Error { stage, message: text(), output, exit_code };
        vec![
            EventKind::UserPrompt { message: text() },
            EventKind::UserMessage { message: text() },
            EventKind::status("clone", text()),
            EventKind::Command { command: text(), cwd: None },
            EventKind::Command { command: text(), cwd: Some(text()) },
            EventKind::log(""),
            EventKind::failed(text()),
            error(None, None, None),
            error(Some(text()), Some(text()), Some(-1)),
            EventKind::assistant_message(text()),
            EventKind::Completed { message: text() },
            EventKind::Cancelled { message: text() },
        ]
    }

    fn event(kind: EventKind, run_id: Option<RunId>) -> RunEvent {
        RunEvent { seq: 7, request_id: RequestId::random(), run_id, kind, created_at: samples::at(3) }
    }

    #[test]
    fn every_kind_of_event_keeps_to_the_schema_and_is_read_again() {
        let validator = validator();
        let mut named = BTreeSet::new();
        for kind in every_kind() {
            named.insert(name(&kind));
            for run in [None, Some(RunId::random())] {
                let envelope = Envelope::from(event(kind.clone(), run));
                let json = serde_json::to_value(&envelope).unwrap();
                if let Err(error) = validator.validate(&json) {
                    panic!("{json}: {error}");
                }
                assert_eq!(json["type"], name(&kind));
                assert_eq!(serde_json::from_value::<Envelope>(json).unwrap(), envelope);
            }
        }
        let known: Vec<String> = serde_json::from_value(schema()["properties"]["type"]["enum"].clone()).unwrap();
        assert_eq!(known.iter().map(String::as_str).collect::<BTreeSet<_>>(), named);
    }

    #[test]
    fn what_is_no_event_does_not_keep_to_the_schema() {
        let good = serde_json::to_value(Envelope::from(event(EventKind::status("mr", "x"), None))).unwrap();
        let validator = validator();
        assert!(validator.is_valid(&good));
        for (field, bad) in [
            ("version", json!(2)),
            ("version", json!("1")),
            ("seq", json!(0)),
            ("seq", json!("7")),
            ("request_id", json!("none")),
            ("run_id", Value::Null),
            ("type", json!("other")),
            ("stage", json!(1)),
            ("created_at", json!("yesterday")),
        ] {
            let mut broken = good.clone();
            broken[field] = bad;
            assert!(!validator.is_valid(&broken), "{broken}");
        }
        for field in ["version", "seq", "request_id", "type", "stage", "message", "created_at"] {
            let mut broken = good.clone();
            broken.as_object_mut().unwrap().remove(field);
            assert!(!validator.is_valid(&broken), "without {field}");
        }
        let mut more = good;
        more["added_later"] = json!({});
        assert!(validator.is_valid(&more), "fields may be added within a version");
    }

    #[test]
    fn events_of_every_older_version_are_read() {
        let written = file("tests/events/before-version-1.json");
        let written = written.as_array().unwrap();
        let names: BTreeSet<&str> = every_kind().iter().map(name).collect();
        assert_eq!(written.iter().filter_map(|event| event["type"].as_str()).collect::<BTreeSet<_>>(), names);
        for (place, json) in (1..).zip(written) {
            let envelope: Envelope = serde_json::from_value(json.clone()).unwrap();
            assert_eq!(envelope.event().seq, place);
            let mut again = serde_json::to_value(&envelope).unwrap();
            assert_eq!(again["version"], 1);
            again.as_object_mut().unwrap().remove("version");
            assert_eq!(again, *json);
        }
    }

    #[test]
    fn an_event_of_a_newer_version_is_refused_with_what_to_do() {
        let mut json = serde_json::to_value(Envelope::from(event(EventKind::log("x"), None))).unwrap();
        json["version"] = json!(2);
        // What makes it one of another version, in most cases.
        json["type"] = json!("from_later");
        json.as_object_mut().unwrap().remove("seq");
        let error = serde_json::from_value::<Envelope>(json).unwrap_err().to_string();
        assert!(error.contains("version 2") && error.contains("use a newer one"), "{error}");
    }
}
