//! The scripted upstream: which step answers, and what the answer looks like.

#![expect(clippy::unwrap_used, reason = "a failing test is what these are for")]

use std::time::Duration;

use astraforge_adapters::models::{ScriptedUpstream, sse};
use astraforge_core::ports::model::{Endpoint, ModelAnswer, ModelCall, ModelUpstream as _};
use futures::StreamExt as _;
use serde_json::{Value, json};

fn upstream(steps: Value) -> ScriptedUpstream {
    ScriptedUpstream::from_json(&json!({"name": "test", "models": ["m"], "steps": steps}).to_string()).unwrap()
}

fn user(text: &str) -> Value {
    json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]})
}

fn output(text: &str) -> Value {
    json!({"type": "function_call_output", "call_id": "c", "output": text})
}

async fn call(upstream: &ScriptedUpstream, body: Value) -> ModelAnswer {
    let body = body.to_string().into();
    upstream.call(ModelCall { endpoint: Endpoint::Responses, headers: vec![], body }).await.unwrap()
}

/// Reads the body, and tells whether it broke off.
async fn read(answer: ModelAnswer) -> (String, bool) {
    let (mut text, mut body) = (String::new(), answer.body);
    while let Some(piece) = body.next().await {
        match piece {
            Ok(bytes) => text.push_str(std::str::from_utf8(&bytes).unwrap()),
            Err(_) => return (text, true),
        }
    }
    (text, false)
}

async fn events(upstream: &ScriptedUpstream, input: Value) -> Vec<Value> {
    let answer = call(upstream, json!({"model": "m", "stream": true, "input": input})).await;
    assert_eq!(answer.status, 200);
    let (text, broken) = read(answer).await;
    assert!(!broken);
    sse::data(&text).iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_request_alone_decides_which_step_answers() {
    let upstream = upstream(json!([
        {"when": {"no_output_yet": true, "tool_offered": "run"}, "answer": [{"message": "first"}]},
        {"when": {"calls_made": 2, "last_output_matches": "ok"}, "answer": [{"message": "third"}]},
        {"when": {"last_output_matches": "in (?P<file>\\S+)", "prompt_matches": "(?P<verb>fix|mend)"},
         "answer": [{"function_call": {"name": "run", "arguments": {"argv": ["cat", "${file}"], "why": "${verb} $${file}"}}}]},
    ]));
    for _ in 0..2 {
        let tools = json!([{"type": "function", "name": "run"}]);
        let (text, _) = read(call(&upstream, json!({"input": [user("fix it")], "tools": tools})).await).await;
        assert!(text.contains("\"first\""), "{text}");
        let found = events(&upstream, json!([user("please fix it"), output("error in a.js")])).await;
        let item = &found.last().unwrap()["response"]["output"][0];
        let arguments: Value = serde_json::from_str(item["arguments"].as_str().unwrap()).unwrap();
        assert_eq!(arguments, json!({"argv": ["cat", "a.js"], "why": "fix ${file}"}));
        let found = events(&upstream, json!([user("x"), output("error in a.js"), output("ok")])).await;
        assert_eq!(found.last().unwrap()["response"]["output"][0]["content"][0]["text"], "third");
    }
    assert_eq!(upstream.n_calls(), 6);
    assert_eq!(upstream.bodies().len(), 6);
}

#[tokio::test]
async fn a_request_that_no_step_is_for_is_refused_with_the_reasons() {
    let upstream = upstream(json!([
        {"name": "start", "when": {"no_output_yet": true}, "answer": [{"message": "x"}]},
        {"name": "patch", "when": {"last_output_matches": "broken", "tool_offered": "apply_patch"}, "answer": [{"message": "x"}]},
    ]));
    let answer = call(&upstream, json!({"stream": true, "input": [user("x"), output("all is well")]})).await;
    assert_eq!(answer.status, 400);
    let error: Value = serde_json::from_str(&read(answer).await.0).unwrap();
    let text = error["error"]["message"].as_str().unwrap();
    for said in ["step `start`: no_output_yet, but 1 tool", "step `patch`", "apply_patch", "/broken/", "all is well"] {
        assert!(text.contains(said), "{said} is not in {text}");
    }
    assert_eq!(error["error"]["code"], "no_matching_step");
}

#[tokio::test]
async fn a_stream_has_every_event_of_its_items() {
    let upstream = upstream(json!([{"answer": [
        {"reasoning": "think"},
        {"message": "a text that is longer than one delta is"},
        {"function_call": {"name": "f", "arguments": {}}},
        {"custom_tool_call": {"name": "apply_patch", "input": "*** Begin Patch"}},
        {"usage": {"input_tokens": 7, "output_tokens": 3}},
    ]}]));
    let found = events(&upstream, json!("go")).await;
    assert_eq!(
        types(&found),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.reasoning_summary_part.added",
            "response.reasoning_summary_text.delta",
            "response.reasoning_summary_text.done",
            "response.reasoning_summary_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.custom_tool_call_input.delta",
            "response.custom_tool_call_input.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let done: Vec<_> = found.iter().filter(|e| e["type"] == "response.output_item.done").map(|e| &e["item"]).collect();
    let response = &found.last().unwrap()["response"];
    assert_eq!(done, response["output"].as_array().unwrap().iter().collect::<Vec<_>>());
    assert_eq!(response["usage"]["total_tokens"], 10);
    assert_eq!(response["model"], "m");
    let ids: std::collections::BTreeSet<_> = done.iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 4);
    let numbers: Vec<_> = found.iter().map(|e| e["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..found.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn without_stream_the_answer_is_one_object() {
    let upstream = upstream(json!([
        {"when": {"prompt_matches": "fail"}, "answer": [{"failed": {"code": "server_error", "message": "no"}}]},
        {"when": {"prompt_matches": "stop"}, "answer": [{"message": "ha"}, {"incomplete": {"reason": "max_output_tokens"}}]},
        {"answer": [{"message": "hello"}]},
    ]));
    let object = async |prompt: &str| -> Value {
        serde_json::from_str(&read(call(&upstream, json!({"input": prompt})).await).await.0).unwrap()
    };
    let whole = object("go").await;
    assert_eq!(
        (&whole["object"], &whole["status"], &whole["output"][0]["content"][0]["text"]),
        (&json!("response"), &json!("completed"), &json!("hello"))
    );
    assert_eq!(object("fail").await["error"]["code"], "server_error");
    assert_eq!(object("stop").await["incomplete_details"]["reason"], "max_output_tokens");
}

#[tokio::test]
async fn failures_are_played_as_they_are_written() {
    let upstream = upstream(json!([
        {"when": {"prompt_matches": "busy"}, "answer": [{"error": {"status": 429, "headers": {"Retry-After": "2"}, "body": {"error": {"code": "slow_down"}}}}]},
        {"when": {"prompt_matches": "html"}, "answer": [{"html": {"status": 502, "body": "<html>"}}]},
        {"when": {"prompt_matches": "cut"}, "answer": [{"message": "half"}, "cut"]},
        {"when": {"prompt_matches": "end"}, "answer": [{"sse": "data: {\"raw\":1}\n\n"}, "end"]},
        {"when": {"prompt_matches": "failed"}, "answer": [{"failed": {"code": "server_error", "message": "no"}}]},
    ]));
    let streamed = async |prompt: &str| call(&upstream, json!({"input": prompt, "stream": true})).await;

    let busy = streamed("busy").await;
    assert_eq!(busy.status, 429);
    assert!(busy.headers.contains(&("retry-after".into(), "2".into())));
    assert_eq!(read(busy).await.0, r#"{"error":{"code":"slow_down"}}"#);

    let html = streamed("html").await;
    assert!(html.status == 502 && html.headers[0].1.starts_with("text/html"));

    let (text, broken) = read(streamed("cut").await).await;
    assert!(broken && text.contains("half") && !text.contains("response.completed"));

    let (text, broken) = read(streamed("end").await).await;
    assert!(!broken && text.ends_with("data: {\"raw\":1}\n\n"));

    let (text, _) = read(streamed("failed").await).await;
    assert!(text.contains("event: response.failed") && !text.contains("response.completed"));
}

#[tokio::test(start_paused = true)]
async fn delays_and_stalls_take_their_time() {
    let upstream = upstream(json!([
        {"when": {"prompt_matches": "late"}, "answer": [{"delay_ms": 5000}, {"message": "x"}]},
        {"when": {"prompt_matches": "slow"}, "answer": [{"message": "x"}, {"delay_ms": 3000}]},
        {"when": {"prompt_matches": "stall"}, "answer": [{"message": "x"}, "stall"]},
    ]));
    let streamed = async |prompt: &str| call(&upstream, json!({"input": prompt, "stream": true})).await;
    let start = tokio::time::Instant::now();
    streamed("late").await;
    assert_eq!(start.elapsed().as_secs(), 5);
    let slow = streamed("slow").await;
    assert_eq!(start.elapsed().as_secs(), 5);
    read(slow).await;
    assert_eq!(start.elapsed().as_secs(), 8);
    let stalled = tokio::time::timeout(Duration::from_secs(600), read(streamed("stall").await)).await;
    assert!(stalled.is_err());
}

#[tokio::test]
async fn models_are_listed() {
    let call = ModelCall { endpoint: Endpoint::Models, headers: vec![], body: bytes::Bytes::new() };
    let answer = upstream(json!([{"answer": [{"message": "x"}]}])).call(call).await.unwrap();
    let list: Value = serde_json::from_str(&read(answer).await.0).unwrap();
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!("m")));
}

const DEMO: &str = include_str!("../../../xtask/demo/scenario.json");

async fn demo_answer(outputs: &[&str]) -> String {
    let input: Vec<_> = [user("A test fails. Fix it.")].into_iter().chain(outputs.iter().map(|o| output(o))).collect();
    let tools = json!([{"type": "function", "name": "exec_command"}, {"type": "custom", "name": "apply_patch"}]);
    let upstream = ScriptedUpstream::from_json(DEMO).unwrap();
    let body = json!({"input": input, "tools": tools});
    read(call(&upstream, body).await).await.0
}

#[tokio::test]
async fn the_demonstration_understands_both_reporters_of_node() {
    const TAP: &str = "not ok 3 - a unit\n  ---\n  location: '/w/test/a.test.js:18:1'\n  ...\n# pass 3\n# fail 1\n";
    const SPEC: &str = "✔ one (1ms)\n✖ a unit (1.0ms)\n  at (file:///w/test/a.test.js:21:10)\nℹ pass 3\nℹ fail 1\n";
    for failed in [TAP, SPEC] {
        let answer = demo_answer(&[failed]).await;
        assert!(answer.contains("cat test/a.test.js") && answer.contains(r#"\"a unit\" fails"#), "{answer}");
    }
    assert!(demo_answer(&["✔ one\nℹ pass 4\nℹ fail 0\n"]).await.contains("All 4 tests pass already"));
}

#[tokio::test]
async fn the_demonstration_claims_no_success_that_it_did_not_see() {
    for outcome in ["ℹ pass 3\nℹ fail 1\n", "# pass 0\n# fail 0\n", "node: not found", ""] {
        let answer = demo_answer(&["", "", "", "", outcome]).await;
        assert!(!answer.contains("Fixed") && !answer.contains("tests pass."), "{answer}");
    }
    assert!(demo_answer(&["node: not found"]).await.contains("I stopped"));
}
