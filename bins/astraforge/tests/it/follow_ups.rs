//! Conversations that go on: the agent resumes its thread, whatever came in between.

use std::time::Duration;

use astraforge_core::{id::RequestId, request::RequestState};
use astraforge_http::wire::request::RequestView;
use serde_json::{Value, json};

use crate::world::{World, git, has_status, last_run, say, shell, step};

/// Answers the prompt that says `word` with `command`, and then with `answer`, if what was said before has `memory`.
fn turn(word: &str, memory: &str, command: &str, answer: &str) -> [Value; 2] {
    [
        json!({ "when": { "prompt_matches": word, "text_matches": memory, "no_output_yet": true }, "answer": shell(command) }),
        json!({ "when": { "prompt_matches": word, "text_matches": memory, "calls_made": 1 }, "answer": say(answer) }),
    ]
}

/// A world whose agent makes `one`, then on request `two` and `three`, each time only if it remembers the time before.
fn world() -> World {
    let mut steps: Vec<Value> = Vec::new();
    steps.extend(turn("third", "answer-two", "echo three > three", "answer-three"));
    steps.extend(turn("second", "answer-one", "echo two > two", "answer-two"));
    steps.push(json!({ "when": { "prompt_matches": "broken" }, "answer": [{ "error": { "status": 400 } }] }));
    steps.push(json!({ "when": { "prompt_matches": "endless" }, "answer": shell("sleep 1000") }));
    steps.extend([step(0, shell("echo one > one")), step(1, say("answer-one"))]);
    World::new(steps)
}

impl World {
    /// Goes on with a request, and waits for the end.
    async fn chat(&self, request: RequestId, message: &str) -> RequestView {
        self.client().chat(request, message.parse().unwrap()).await.unwrap();
        self.finished(request).await
    }

    /// Goes on with a request, which must work and remember what was said before.
    async fn goes_on(&self, request: RequestId, message: &str, answer: &str, paths: &[&str]) {
        let found = self.chat(request, message).await;
        let run = last_run(&found);
        assert_eq!(found.state, RequestState::PatchReady, "{run:?}");
        assert_eq!(run.artifacts.final_message.as_deref(), Some(answer), "{run:?}");
        let change = self.client().diff(request).await.unwrap();
        let mut found: Vec<_> = change.files.iter().map(|file| file.path.as_str()).collect();
        found.sort_unstable();
        assert_eq!(found, paths);
        assert!(has_status(&self.log(request).await, "Restored Codex history"));
    }

    /// Approves what waits, and waits for the review.
    async fn approved(&self, request: RequestId) {
        self.client().approve(request, None).await.unwrap();
        self.reviewed(request).await;
    }

    fn published(&self, request: RequestId) -> String {
        git(&self.bare("demo"), &["rev-parse", &format!("refs/heads/astraforge/{request}")])
    }
}

#[tokio::test]
async fn two_follow_ups_go_on_in_one_conversation_also_after_a_restart() {
    let mut world = world();
    let request = world.patch_ready("Begin").await.id;
    world.goes_on(request, "second", "answer-two", &["one", "two"]).await;
    world.kill();
    world.start();
    world.goes_on(request, "third", "answer-three", &["one", "three", "two"]).await;
}

#[tokio::test]
async fn a_follow_up_to_a_merge_request_moves_its_branch_on() {
    let world = world();
    let request = world.patch_ready("Begin").await.id;
    world.approved(request).await;
    let first = world.published(request);
    world.goes_on(request, "second", "answer-two", &["one", "two"]).await;
    assert_eq!(world.published(request), first, "nothing moves before it is approved");
    world.approved(request).await;
    let second = world.published(request);
    assert_eq!(git(&world.bare("demo"), &["rev-parse", &format!("{second}^")]), first);
    assert_eq!(world.client().merge_requests().await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_published_is_the_approved_commit_with_its_modes_and_bytes() {
    let line = "printf '\\000\\377binary' > blob; printf '#!/bin/sh\\n' > run; chmod +x run; ln -s run link; mv README.md MOVED.md";
    let world = World::new(vec![step(0, shell(line)), step(1, say("Done."))]);
    let request = world.patch_ready("Make all kinds").await.id;
    let change = world.client().diff(request).await.unwrap();
    world.approved(request).await;
    assert_eq!(world.published(request), change.head_commit);
    let tree = git(&world.bare("demo"), &["ls-tree", "--format=%(objectmode) %(path)", &change.head_commit]);
    assert_eq!(tree, "100644 MOVED.md\n100644 blob\n120000 link\n100755 run");
    let modes: Vec<_> = change.files.iter().map(|file| format!("{} {}", file.mode, file.path)).collect();
    for entry in tree.lines() {
        assert!(modes.iter().any(|mode| mode == entry), "{entry} is not shown: {modes:?}");
    }
}

#[tokio::test]
async fn a_conversation_goes_on_after_a_run_that_failed_and_one_that_was_cancelled() {
    let world = world();
    let request = world.patch_ready("Begin").await.id;
    assert_eq!(world.chat(request, "broken").await.state, RequestState::Failed);
    world.client().chat(request, "endless".parse().unwrap()).await.unwrap();
    while world.client().request(request).await.unwrap().state != RequestState::Executing {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.client().cancel_request(request).await.unwrap();
    assert_eq!(world.finished(request).await.state, RequestState::Cancelled);
    world.goes_on(request, "second", "answer-two", &["one", "two"]).await;
}

#[tokio::test]
async fn what_the_agent_takes_back_cannot_be_approved() {
    let mut steps = turn("back", "answer-one", "unlink one", "taken back").to_vec();
    steps.extend([step(0, shell("echo one > one")), step(1, say("answer-one"))]);
    let world = World::new(steps);
    let request = world.patch_ready("Begin").await.id;
    assert_eq!(world.chat(request, "Take it back").await.state, RequestState::PatchReady);
    let refused = world.client().approve(request, None).await.unwrap_err();
    assert!(refused.detail().unwrap().contains("nothing to approve"), "{refused}");
}
