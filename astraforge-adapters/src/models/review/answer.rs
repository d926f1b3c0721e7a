//! Reads a model's findings: strict in what must be there, tolerant in how it is wrapped.

use astraforge_core::{BoxError, review::Severity};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::models::sse;

/// How many findings are taken, and how long one may be: more is no review.
const MAX_REMARKS: usize = 50;
const MAX_MESSAGE: usize = 2000;

/// One finding, as the model wrote it.
#[derive(Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Remark {
    file: String,
    #[serde(default, deserialize_with = "line")]
    pub line: Option<u64>,
    #[serde(deserialize_with = "severity")]
    pub severity: Severity,
    pub message: String,
}

impl Remark {
    /// The path without the side that diffs put before it.
    pub(super) fn path(&self) -> &str {
        let file = self.file.trim();
        ["a/", "b/", "./"].iter().find_map(|side| file.strip_prefix(side)).unwrap_or(file)
    }
}

/// Reads the findings out of an answer.
pub(super) fn remarks(status: u16, body: &str) -> Result<Vec<Remark>, BoxError> {
    if status >= 400 {
        return Err(format!("the model upstream answered with status {status}: {}", shortened(body)).into());
    }
    let text = message(body)?;
    let mut remarks =
        parse(&text).ok_or_else(|| format!("the model's answer is no list of findings: {}", shortened(&text)))?;
    remarks.retain(|remark| !remark.message.trim().is_empty());
    remarks.truncate(MAX_REMARKS);
    for remark in &mut remarks {
        remark.message = remark.message.trim().chars().take(MAX_MESSAGE).collect();
    }
    Ok(remarks)
}

/// Returns the text of the assistant, from one object or from a stream.
fn message(body: &str) -> Result<String, BoxError> {
    let response = match serde_json::from_str::<Value>(body) {
        Ok(response) => response,
        Err(_) => streamed(body).ok_or_else(|| format!("the answer is no response object: {}", shortened(body)))?,
    };
    match response.get("status").and_then(Value::as_str) {
        Some("failed") => return Err(format!("the model failed: {}", shortened(&response["error"].to_string())).into()),
        Some("incomplete") => {
            return Err(format!("the model's answer is cut short: {}", response["incomplete_details"]).into());
        }
        _ => {}
    }
    let contents = response["output"].as_array().into_iter().flatten().flat_map(|item| item["content"].as_array());
    let mut text = String::new();
    for part in contents.flatten() {
        if let Some(refusal) = part["refusal"].as_str() {
            return Err(format!("the model refused: {}", shortened(refusal)).into());
        }
        if part["type"] == "output_text" {
            text.push_str(part["text"].as_str().unwrap_or_default());
        }
    }
    match text.trim().is_empty() {
        true => Err("the model's answer has no text".into()),
        false => Ok(text),
    }
}

/// Returns the last state of a streamed response, with the items that were streamed before it.
fn streamed(body: &str) -> Option<Value> {
    let events: Vec<Value> = sse::data(body).iter().filter_map(|data| serde_json::from_str(data).ok()).collect();
    let last = events.iter().rev().find(|event| {
        matches!(event["type"].as_str(), Some("response.completed" | "response.failed" | "response.incomplete"))
    })?;
    let mut response = last.get("response")?.clone();
    if response["output"].as_array().is_none_or(Vec::is_empty) {
        let done = events.iter().filter(|event| event["type"] == "response.output_item.done");
        response["output"] = done.map(|event| event["item"].clone()).collect();
    }
    Some(response)
}

/// Finds the findings in a text: an object anywhere in it, or a bare list that is all of it.
fn parse(text: &str) -> Option<Vec<Remark>> {
    #[derive(Deserialize)]
    struct Written {
        findings: Vec<Remark>,
    }
    let inner = text.trim().trim_start_matches("```json").trim_matches('`').trim();
    if let Ok(remarks) = serde_json::from_str(inner) {
        return Some(remarks);
    }
    // Each start costs a parse of what follows; the findings do not begin behind a long preface.
    let starts = text.match_indices('{').map(|(at, _)| at).take(20);
    starts.into_iter().find_map(|at| {
        let value: Value = serde_json::Deserializer::from_str(&text[at..]).into_iter().next()?.ok()?;
        serde_json::from_value::<Written>(value).ok().map(|written| written.findings)
    })
}

fn line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let line = match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_u64(),
        // A range begins at its first line.
        Value::String(text) => text.split(['-', ':']).next().and_then(|first| first.trim().parse().ok()),
        _ => None,
    };
    Ok(line.filter(|line| *line > 0))
}

fn severity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Severity, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.to_ascii_lowercase().as_str() {
        "error" | "critical" | "high" | "major" | "blocker" => Ok(Severity::Error),
        "warning" | "warn" | "medium" | "moderate" | "minor" => Ok(Severity::Warning),
        "info" | "low" | "note" | "nit" | "suggestion" => Ok(Severity::Info),
        _ => Err(serde::de::Error::custom("the severity is not error, warning or info")),
    }
}

fn shortened(text: &str) -> String {
    const KEPT: usize = 300;
    let text = text.trim();
    match text.char_indices().nth(KEPT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"file": "b/x", "line": 3, "severity": "error", "message": "m"}"#;

    #[track_caller]
    fn check(text: &str, expected: Option<usize>) {
        assert_eq!(parse(text).map(|remarks| remarks.len()), expected, "{text}");
    }

    #[test]
    fn findings_are_found_however_they_are_wrapped() {
        check(&format!(r#"{{"findings": [{ONE}]}}"#), Some(1));
        check(&format!("[{ONE}, {ONE}]"), Some(2));
        check(&format!("```json\n{{\"findings\": [{ONE}]}}\n```"), Some(1));
        check(&format!("I looked at {{it}} [twice]: {{\"findings\": [{ONE}]}} Done."), Some(1));
        check(r#"{"findings": []}"#, Some(0));
        check("Looks good to me!", None);
        check(r#"{"issues": []}"#, None);
        check("There are [] findings.", None);
        check(&format!("```json\n[{ONE}]\n```"), Some(1));
        check(&format!(r#"{{"findings": [{ONE}], "more": "#), None);
        check(r#"{"findings": [{"file": "x"}]}"#, None);
        check(&ONE.replace("error", "awful"), None);
        check(&format!(r#"{{"findings": [{ONE}"#), None);
    }

    #[test]
    fn lines_and_severities_are_read_as_models_write_them() {
        let text = r#"[{"file": "x", "line": "12-14", "severity": "High", "message": "m"},
                       {"file": "./x", "line": null, "severity": "nit", "message": "m"},
                       {"file": "x", "line": 0, "severity": "medium", "message": "m"}]"#;
        let remarks = parse(text).unwrap();
        let got: Vec<_> = remarks.iter().map(|r| (r.path(), r.line, r.severity)).collect();
        let expected = [("x", Some(12), Severity::Error), ("x", None, Severity::Info), ("x", None, Severity::Warning)];
        assert_eq!(got, expected);
    }
}
