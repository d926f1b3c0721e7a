//! What a scenario looks at in a request.

use std::collections::BTreeSet;

use serde_json::Value;

/// The parts of a `POST /responses` body that conditions look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The model that is asked for.
    pub model: String,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// The text of the last user message.
    pub prompt: String,
    /// The texts of the tool outputs after that message.
    pub outputs: Vec<String>,
    /// The names of the tools that are offered; hosted tools go by their type.
    pub tools: BTreeSet<String>,
    /// The whole body.
    pub text: String,
}

impl Seen {
    /// Reads a request. A body that is no JSON object is an error in words.
    pub(super) fn read(body: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(body).map_err(|_| "the body is not UTF-8".to_owned())?;
        let value: Value = serde_json::from_str(text).map_err(|error| format!("the body is not JSON: {error}"))?;
        let Value::Object(body) = &value else { return Err("the body is not a JSON object".into()) };
        let mut seen = Self {
            model: body.get("model").and_then(Value::as_str).unwrap_or("scripted").to_owned(),
            stream: body.get("stream").and_then(Value::as_bool).unwrap_or(false),
            text: text.to_owned(),
            ..Self::default()
        };
        seen.read_tools(body.get("tools"));
        match body.get("input") {
            Some(Value::String(prompt)) => seen.prompt.clone_from(prompt),
            Some(Value::Array(items)) => items.iter().for_each(|item| seen.read_item(item)),
            _ => {}
        }
        Ok(seen)
    }

    fn read_item(&mut self, item: &Value) {
        match item.get("type").and_then(Value::as_str) {
            Some("function_call_output" | "custom_tool_call_output") => self.outputs.push(text_of(item.get("output"))),
            Some("additional_tools") => self.read_tools(item.get("tools")),
            // The type may be left out of a message.
            Some("message") | None if item.get("role").and_then(Value::as_str) == Some("user") => {
                self.prompt = text_of(item.get("content"));
                self.outputs.clear();
            }
            _ => {}
        }
    }

    fn read_tools(&mut self, tools: Option<&Value>) {
        for tool in tools.and_then(Value::as_array).into_iter().flatten() {
            let name = tool.get("name").or_else(|| tool.get("type")).and_then(Value::as_str);
            self.tools.extend(name.map(str::to_owned));
            self.read_tools(tool.get("tools"));
        }
    }
}

/// Returns a text, or the texts of a list of parts.
fn text_of(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts = parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str));
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Seen {
        Seen::read(body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn outputs_count_from_the_last_user_message() {
        let user = |text: &str| json!({"role": "user", "content": [{"type": "input_text", "text": text}]});
        let output = |text: &str| json!({"type": "function_call_output", "call_id": "c", "output": text});
        let parts = json!({"type": "custom_tool_call_output", "output": [{"type": "input_text", "text": "d"}]});
        let seen = read(&json!({"input": [user("a"), output("b"), user("c"), parts, output("e")]}));
        assert_eq!((seen.prompt.as_str(), seen.outputs), ("c", vec!["d".to_owned(), "e".to_owned()]));
    }

    #[test]
    fn tools_are_found_wherever_they_are_offered() {
        let nested = json!([{"type": "namespace", "name": "functions", "tools": [{"type": "custom", "name": "exec"}]}]);
        let seen = read(&json!({
            "tools": [{"type": "function", "name": "exec_command"}, {"type": "web_search"}],
            "input": [{"type": "additional_tools", "tools": nested}],
        }));
        assert_eq!(seen.tools.into_iter().collect::<Vec<_>>(), ["exec", "exec_command", "functions", "web_search"]);
    }

    #[test]
    fn a_body_that_is_no_object_is_refused_in_words() {
        for (body, said) in [(&b"\xff"[..], "UTF-8"), (b"{", "not JSON"), (b"[]", "object")] {
            assert!(Seen::read(body).unwrap_err().contains(said));
        }
    }
}
