//! Models that misbehave: a run fails soon, with words about the model.

use astraforge_http::wire::repository_link::EnvironmentBody;
use serde_json::{Value, json};

use crate::world::{World, step};

async fn check(answer: Value, words: &[&str]) {
    let world = World::new(vec![step(0, answer)]);
    let environment = EnvironmentBody { timeout_seconds: Some(60), ..EnvironmentBody::default() };
    let failure = world.failure("Do it", environment).await;
    assert!(words.iter().any(|word| failure.contains(word)), "{failure}");
    world.assert_no_sandbox();
}

#[tokio::test]
async fn a_model_that_refuses() {
    let body = json!({ "error": { "message": "this model is not for you", "code": "invalid_prompt" } });
    check(json!([{ "error": { "status": 400, "body": body } }]), &["this model is not for you"]).await;
}

#[tokio::test]
async fn a_model_without_quota() {
    let body =
        json!({ "error": { "message": "no money", "code": "insufficient_quota", "type": "insufficient_quota" } });
    check(json!([{ "error": { "status": 429, "body": body } }]), &["uota", "no money"]).await;
}

#[tokio::test]
async fn a_model_that_breaks_off() {
    check(json!([{ "message": "I beg" }, "cut"]), &["broke off", "disconnected", "ended", "before"]).await;
}

#[tokio::test]
async fn a_model_that_answers_with_a_web_page() {
    check(json!([{ "html": { "body": "<html>Please log in</html>" } }]), &["HTML", "html", "not"]).await;
}

#[tokio::test]
async fn a_model_that_says_nothing() {
    let usage = json!({ "usage": { "input_tokens": 1, "output_tokens": 0 } });
    check(json!([usage]), &["without an answer", "no answer", "empty"]).await;
}

#[tokio::test]
async fn a_model_that_stalls() {
    let world = World::new(vec![step(0, json!(["stall"]))]);
    let environment = EnvironmentBody { timeout_seconds: Some(5), ..EnvironmentBody::default() };
    let failure = world.failure("Do it", environment).await;
    assert!(failure.contains("5 s") || failure.contains("too long"), "{failure}");
    world.assert_no_sandbox();
}
