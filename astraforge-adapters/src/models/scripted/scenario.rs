//! A scenario: steps with conditions on the request, and the answers they give.

use std::collections::BTreeMap;

use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ScenarioError, request::Seen};

/// What the named groups of a step's patterns matched.
pub(super) type Captures = BTreeMap<String, String>;

/// A scenario that was read and checked.
#[derive(Debug)]
pub(super) struct Scenario {
    pub name: String,
    pub models: Vec<String>,
    steps: Vec<Step>,
}

/// The first step that matches answers.
#[derive(Debug)]
struct Step {
    name: String,
    when: When,
    answer: Vec<Entry>,
}

impl Scenario {
    /// Reads a scenario and checks everything that can be checked before a request comes.
    pub(super) fn parse(text: &str) -> Result<Self, ScenarioError> {
        let written: WrittenScenario = serde_json::from_str(text).map_err(ScenarioError::Malformed)?;
        if written.steps.is_empty() {
            return Err(invalid("scenario", "it has no steps"));
        }
        let steps = written.steps.into_iter().enumerate().map(|(index, step)| step.check(index));
        Ok(Self { name: written.name, models: written.models, steps: steps.collect::<Result<_, _>>()? })
    }

    /// Returns the answer of the first step that matches, filled in; else why each step does not match.
    pub(super) fn answer(&self, seen: &Seen) -> Result<Vec<Entry>, String> {
        let mut misses = Vec::new();
        for step in &self.steps {
            match step.when.matches(seen) {
                Ok(captures) => return Ok(step.answer.iter().map(|entry| entry.filled(&captures)).collect()),
                Err(why) => misses.push(format!("step `{}`: {why}", step.name)),
            }
        }
        Err(format!("scenario `{}` has no step for this request. {}", self.name, misses.join("; ")))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenScenario {
    name: String,
    #[serde(default = "default_models")]
    models: Vec<String>,
    steps: Vec<WrittenStep>,
}

fn default_models() -> Vec<String> {
    vec!["scripted".into()]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStep {
    name: Option<String>,
    #[serde(default)]
    when: WrittenWhen,
    answer: Vec<Entry>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenWhen {
    prompt_matches: Option<String>,
    last_output_matches: Option<String>,
    text_matches: Option<String>,
    #[serde(default)]
    no_output_yet: bool,
    calls_made: Option<usize>,
    tool_offered: Option<String>,
}

impl WrittenStep {
    fn check(self, index: usize) -> Result<Step, ScenarioError> {
        let name = self.name.unwrap_or_else(|| format!("{}", index + 1));
        let pattern = |condition: &'static str, text: Option<String>| {
            let compiled = text.map(|text| Regex::new(&text)).transpose();
            compiled.map_err(|source| ScenarioError::Pattern { step: name.clone(), condition, source })
        };
        let when = When {
            prompt: pattern("prompt_matches", self.when.prompt_matches)?,
            last_output: pattern("last_output_matches", self.when.last_output_matches)?,
            text: pattern("text_matches", self.when.text_matches)?,
            no_output_yet: self.when.no_output_yet,
            calls_made: self.when.calls_made,
            tool_offered: self.when.tool_offered,
        };
        check_order(&self.answer).map_err(|reason| invalid(&name, reason))?;
        check_placeholders(&self.answer, &when).map_err(|reason| invalid(&name, reason))?;
        Ok(Step { name, when, answer: self.answer })
    }
}

fn invalid(step: &str, reason: impl Into<String>) -> ScenarioError {
    ScenarioError::Invalid { step: step.to_owned(), reason: reason.into() }
}

fn check_order(answer: &[Entry]) -> Result<(), String> {
    if answer.is_empty() {
        return Err("its answer is empty".into());
    }
    for (index, entry) in answer.iter().enumerate() {
        let only_waits_before = answer[..index].iter().all(|e| matches!(e, Entry::DelayMs(_)));
        if entry.is_head() && !only_waits_before {
            return Err("`error` and `html` answer the whole call: only `delay_ms` may stand before them".into());
        }
        if (entry.is_head() || entry.is_end()) && index + 1 < answer.len() {
            return Err("something follows an entry that ends the answer".into());
        }
    }
    Ok(())
}

fn check_placeholders(answer: &[Entry], when: &When) -> Result<(), String> {
    let known = when.group_names();
    let mut unknown = None;
    for entry in answer {
        entry.clone().each_text(&mut |text| {
            for name in placeholders(text) {
                if !known.contains(&name) {
                    unknown = Some(name);
                }
            }
        });
    }
    match unknown {
        None => Ok(()),
        Some(name) => Err(format!(
            "`${{{name}}}` is not a named group of its patterns; name one `(?P<{name}>…)`, or write `$${{{name}}}` for the text itself"
        )),
    }
}

/// Conditions on a request; all that are given must hold.
#[derive(Debug)]
struct When {
    prompt: Option<Regex>,
    last_output: Option<Regex>,
    text: Option<Regex>,
    no_output_yet: bool,
    calls_made: Option<usize>,
    tool_offered: Option<String>,
}

impl When {
    /// Returns what the named groups matched, or which conditions do not hold.
    fn matches(&self, seen: &Seen) -> Result<Captures, String> {
        let mut captures = Captures::new();
        let mut misses = Vec::new();
        if self.no_output_yet && !seen.outputs.is_empty() {
            misses.push(format!("no_output_yet, but {} tool outputs are there", seen.outputs.len()));
        }
        if let Some(wanted) = self.calls_made.filter(|wanted| *wanted != seen.outputs.len()) {
            misses.push(format!("calls_made {wanted}, but it is {}", seen.outputs.len()));
        }
        if let Some(tool) = self.tool_offered.as_ref().filter(|tool| !seen.tools.contains(*tool)) {
            misses.push(format!("tool_offered `{tool}`, but offered are {:?}", seen.tools));
        }
        let last_output = seen.outputs.last().map_or("", String::as_str);
        for (condition, pattern, text) in [
            ("prompt_matches", &self.prompt, seen.prompt.as_str()),
            ("last_output_matches", &self.last_output, last_output),
            ("text_matches", &self.text, &seen.text),
        ] {
            let Some(pattern) = pattern else { continue };
            if condition == "last_output_matches" && seen.outputs.is_empty() {
                misses.push("last_output_matches, but there is no tool output".into());
            } else if !capture(pattern, text, &mut captures) {
                misses.push(format!("{condition} /{pattern}/, but it is {:?}", shortened(text)));
            }
        }
        if misses.is_empty() { Ok(captures) } else { Err(misses.join(", ")) }
    }

    fn group_names(&self) -> Vec<String> {
        let patterns = [&self.prompt, &self.last_output, &self.text];
        patterns.into_iter().flatten().flat_map(|p| p.capture_names().flatten()).map(str::to_owned).collect()
    }
}

fn capture(pattern: &Regex, text: &str, captures: &mut Captures) -> bool {
    let Some(found) = pattern.captures(text) else { return false };
    for name in pattern.capture_names().flatten() {
        let value = found.name(name).map_or("", |group| group.as_str());
        captures.insert(name.to_owned(), value.to_owned());
    }
    true
}

/// The end of a long text says more than its beginning: a tool's outcome stands there.
fn shortened(text: &str) -> String {
    const KEPT: usize = 300;
    let n_chars = text.chars().count();
    if n_chars <= KEPT {
        return text.to_owned();
    }
    format!("…{}", text.chars().skip(n_chars - KEPT).collect::<String>())
}

/// One part of an answer, as it is written in a scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Entry {
    /// A text of the assistant.
    Message(String),
    /// A summary of its reasoning.
    Reasoning(String),
    /// A call of a function, with its arguments as a JSON object.
    FunctionCall { name: String, arguments: Value },
    /// A call of a custom tool, with its input as a text.
    CustomToolCall { name: String, input: String },
    /// The tokens that the answer says it used; without it they are estimated.
    Usage { input_tokens: u64, output_tokens: u64 },
    /// A wait. Before everything else, it holds back the head of the answer too.
    DelayMs(u64),
    /// A piece of the stream, as it is.
    Sse(String),
    /// An HTTP error instead of an answer.
    Error {
        status: u16,
        #[serde(default)]
        headers: BTreeMap<String, String>,
        #[serde(default)]
        body: Value,
    },
    /// A page of HTML instead of an answer, as a gateway sends it.
    Html {
        #[serde(default = "ok_status")]
        status: u16,
        body: String,
    },
    /// The answer ends in `response.failed`.
    Failed { code: String, message: String },
    /// The answer ends in `response.incomplete`.
    Incomplete { reason: String },
    /// The connection breaks.
    Cut,
    /// The stream ends in good order, but without its last event.
    End,
    /// Nothing more comes, and the stream does not end.
    Stall,
}

fn ok_status() -> u16 {
    200
}

impl Entry {
    /// It replaces the whole answer, head included.
    fn is_head(&self) -> bool {
        matches!(self, Self::Error { .. } | Self::Html { .. })
    }

    /// It ends the stream in its own way.
    fn is_end(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Incomplete { .. } | Self::Cut | Self::End | Self::Stall)
    }

    fn filled(&self, captures: &Captures) -> Self {
        let mut filled = self.clone();
        filled.each_text(&mut |text| *text = fill(text, captures));
        filled
    }

    /// Visits the texts in which placeholders stand.
    fn each_text(&mut self, visit: &mut dyn FnMut(&mut String)) {
        match self {
            Self::Message(text) | Self::Reasoning(text) | Self::Sse(text) => visit(text),
            Self::CustomToolCall { input, .. } => visit(input),
            Self::FunctionCall { arguments, .. } => each_string(arguments, visit),
            _ => {}
        }
    }
}

fn each_string(value: &mut Value, visit: &mut dyn FnMut(&mut String)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(items) => items.iter_mut().for_each(|item| each_string(item, visit)),
        Value::Object(fields) => fields.values_mut().for_each(|field| each_string(field, visit)),
        _ => {}
    }
}

/// Replaces `${name}` by what the group matched, and `$${` by `${`.
fn fill(text: &str, captures: &Captures) -> String {
    let mut filled = String::with_capacity(text.len());
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => filled.push_str(text),
            Piece::Placeholder(name) => filled.push_str(captures.get(name).map_or("", String::as_str)),
        }
    }
    filled
}

fn placeholders(text: &str) -> Vec<String> {
    let name = |piece| match piece {
        Piece::Placeholder(name) => Some(name.to_owned()),
        Piece::Text(_) => None,
    };
    pieces(text).into_iter().filter_map(name).collect()
}

enum Piece<'a> {
    Text(&'a str),
    Placeholder(&'a str),
}

fn pieces(mut text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    while let Some(at) = text.find("${") {
        let escaped = text[..at].ends_with('$');
        let end = text[at..].find('}').map(|end| at + end);
        match end {
            Some(end) if !escaped => {
                pieces.push(Piece::Text(&text[..at]));
                pieces.push(Piece::Placeholder(&text[at + 2..end]));
                text = &text[end + 1..];
            }
            _ => {
                pieces.push(Piece::Text(&text[..at - usize::from(escaped)]));
                pieces.push(Piece::Text("${"));
                text = &text[at + 2..];
            }
        }
    }
    pieces.push(Piece::Text(text));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_filled(text: &str, expected: &str) {
        let captures = Captures::from([("file".to_owned(), "a.js".to_owned())]);
        assert_eq!(fill(text, &captures), expected);
    }

    #[test]
    fn placeholders_are_filled() {
        check_filled("cat ${file}", "cat a.js");
        check_filled("${file}${file}", "a.jsa.js");
        check_filled("$${file} $file ${file", "${file} $file ${file");
        check_filled("", "");
    }

    #[track_caller]
    fn check_refused(answer: &str, said: &str) {
        let text = format!(
            r#"{{"name": "n", "steps": [{{"when": {{"prompt_matches": "(?P<file>x)"}}, "answer": {answer}}}]}}"#
        );
        let error = Scenario::parse(&text).unwrap_err();
        let text = format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string));
        assert!(text.contains(said), "{text}");
    }

    #[test]
    fn mistakes_are_found_when_the_scenario_is_read() {
        check_refused("[]", "empty");
        check_refused(r#"[{"mesage": "x"}]"#, "unknown variant `mesage`");
        check_refused(r#"[{"message": "${fiel}"}]"#, "`${fiel}` is not a named group");
        check_refused(r#"["cut", {"message": "x"}]"#, "follows");
        check_refused(r#"[{"message": "x"}, {"error": {"status": 500}}]"#, "only `delay_ms`");
    }
}
