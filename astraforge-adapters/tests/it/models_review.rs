//! The model reviewer, played to by scenarios.

#![expect(clippy::unwrap_used, reason = "a failing test is what these are for")]

use std::{sync::Arc, time::Duration};

use astraforge_adapters::models::{ModelReviewer, ScriptedUpstream};
use astraforge_core::{
    ports::review::{ReviewError, Reviewer as _},
    request::change_set::Change,
    review::{Finding, Severity},
};
use serde_json::{Value, json};

const DIFF: &str =
    "diff --git a/src/a.rs b/src/a.rs\n--- a/src/a.rs\n+++ b/src/a.rs\n@@ -9,2 +9,2 @@\n fn f() {\n-    a\n+    b\n";

fn change(diff: &str) -> Change {
    Change {
        target_branch: "main".into(),
        branch: "b".into(),
        base_commit: "a".repeat(40),
        head_commit: "b".repeat(40),
        head_tree: "c".repeat(40),
        diff: diff.into(),
        files: vec![],
    }
}

fn scripted(answer: Value) -> ScriptedUpstream {
    let scenario = json!({"name": "review", "steps": [{"answer": answer}]});
    ScriptedUpstream::from_json(&scenario.to_string()).unwrap()
}

async fn review(answer: Value) -> Result<Vec<Finding>, ReviewError> {
    let reviewer = ModelReviewer::new(Arc::new(scripted(answer)), "m").with_timeout(Duration::from_secs(5));
    reviewer.review(&change(DIFF)).await
}

fn findings(findings: Value) -> Value {
    json!([{"message": json!({"findings": findings}).to_string()}])
}

fn remark(file: &str, line: u64, message: &str) -> Value {
    json!({"file": file, "line": line, "severity": "warning", "message": message})
}

#[tokio::test]
async fn findings_are_tied_to_the_diff() {
    let remarks = [remark("src/a.rs", 10, "b is wrong"), remark("b/src/a.rs", 99, "far"), remark("nowhere.rs", 1, "x")];
    let found = review(findings(json!(remarks))).await.unwrap();
    let got: Vec<_> = found.iter().map(|f| (&*f.file, f.line, f.severity, &*f.message)).collect();
    let expected =
        [("src/a.rs", Some(10), Severity::Warning, "b is wrong"), ("src/a.rs", None, Severity::Warning, "far")];
    assert_eq!(got, expected);
    let again = review(findings(json!([remark("src/a.rs", 10, "in other words")]))).await.unwrap();
    assert_eq!(again[0].fingerprint, found[0].fingerprint);
    assert!(review(findings(json!([]))).await.unwrap().is_empty());
}

#[tokio::test]
async fn two_findings_on_a_line_stay_two() {
    let found = review(findings(json!([remark("src/a.rs", 10, "one"), remark("src/a.rs", 10, "two")]))).await.unwrap();
    assert_ne!(found[0].fingerprint, found[1].fingerprint);
}

#[tokio::test]
async fn a_bad_answer_is_an_error_and_not_an_empty_review() {
    for (answer, said) in [
        (json!([{"message": "All good."}]), "no list of findings"),
        (json!([{"function_call": {"name": "f", "arguments": {}}}]), "no text"),
        (json!([{"error": {"status": 429, "body": {"error": {"message": "quota"}}}}]), "429"),
        (json!([{"html": {"body": "<html>"}}]), "no response object"),
        (json!([{"failed": {"code": "server_error", "message": "broke"}}]), "broke"),
        (json!([{"message": "{"}, {"incomplete": {"reason": "max_output_tokens"}}]), "max_output_tokens"),
        (json!([{"message": "x"}, "cut"]), "cuts"),
        (findings(json!([remark("nowhere.rs", 1, "x")])), "does not have"),
    ] {
        let error = review(answer.clone()).await.unwrap_err();
        assert!(error.source.to_string().contains(said), "{answer}: {}", error.source);
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_does_not_end_is_an_error() {
    let error = review(json!([{"message": "x"}, "stall"])).await.unwrap_err();
    assert!(error.source.to_string().contains("within 5 s"), "{}", error.source);
}

#[tokio::test]
async fn an_upstream_that_only_streams_is_understood() {
    let item = json!({"type": "message", "content": [{"type": "output_text", "text": "{\"findings\": []}"}]});
    let done = json!({"type": "response.output_item.done", "item": item});
    let last = json!({"type": "response.completed", "response": {"id": "r"}});
    let stream = format!("data: {done}\n\ndata: {last}\n\n");
    assert!(review(json!([{"html": {"body": stream}}])).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_was_not_read_is_said() {
    let upstream = scripted(findings(json!([])));
    let reviewer = ModelReviewer::new(Arc::new(upstream.clone()), "m").with_diff_limit(200);
    let long = format!("{DIFF}{}", DIFF.replace("src/a.rs", "src/long.rs").replace("+    b", &"+".repeat(300)));
    let found = reviewer.review(&change(&long)).await.unwrap();
    assert_eq!(found.iter().map(|f| (&*f.file, &*f.rule)).collect::<Vec<_>>(), [("src/long.rs", "not-reviewed")]);
    let sent: Value = serde_json::from_slice(&upstream.bodies()[0]).unwrap();
    assert_eq!(sent["text"]["format"]["strict"], true);
    assert!(sent["input"][1]["content"][0]["text"].as_str().unwrap().len() <= 200);
    assert!(reviewer.review(&change("")).await.unwrap().is_empty());
    assert_eq!(upstream.n_calls(), 1, "an empty change is not asked about");
}
