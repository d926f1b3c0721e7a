//! Agents that misbehave: whatever they do, the run ends in words, and nothing of it leaves the sandbox.

use std::time::{Duration, Instant};

use astraforge_core::{event::EventKind, request::RequestState, run::RunStatus};
use astraforge_http::wire::repository_link::EnvironmentBody;

use crate::world::{World, git, has_status, last_run, one_command, say, shell, step, text};

#[tokio::test]
async fn an_agent_that_changes_nothing_is_told_as_such() {
    let world = World::new(vec![step(0, say("It is right as it is."))]);
    let request = world.patch_ready("Is this right?").await;
    let log = world.log(request.id).await;
    assert!(has_status(&log, "nothing to change"), "{log:?}");
    let refused = world.client().approve(request.id, None).await.unwrap_err();
    assert_eq!(refused.status().map(|status| status.as_u16()), Some(409));
    assert!(refused.detail().unwrap().contains("nothing to approve"), "{refused}");
}

#[tokio::test]
async fn an_agent_that_never_ends_is_stopped() {
    let world = World::new(one_command("echo begun > begun; sleep 1000"));
    let environment = EnvironmentBody { timeout_seconds: Some(4), ..EnvironmentBody::default() };
    let failure = world.failure("Take your time", environment).await;
    assert!(failure.contains("4 s") || failure.contains("too long"), "{failure}");
    world.assert_no_sandbox();
}

#[tokio::test]
async fn an_agent_at_work_is_cancelled_within_seconds() {
    let world = World::new(one_command("sleep 1000"));
    let request = world.submit("Take your time").await;
    let client = world.client();
    while !text(&world.events_so_far(request).await).contains("sleep 1000") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let asked = Instant::now();
    client.cancel_request(request).await.unwrap();
    let finished = world.finished(request).await;
    assert_eq!((finished.state, last_run(&finished).status), (RequestState::Cancelled, RunStatus::Cancelled));
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    world.assert_no_sandbox();
}

#[tokio::test]
async fn a_flood_of_output_stays_small() {
    let world = World::new(one_command("head -c 1000000000 /dev/zero | tr '\\0' x | fold -w 1000; echo ok > made"));
    let request = world.patch_ready("Talk").await;
    let log = world.log(request.id).await;
    assert!(text(&log).len() < 4_000_000, "{} bytes", text(&log).len());
}

#[tokio::test]
async fn a_flood_from_the_setup_command_stays_small() {
    let world = World::new(vec![step(0, say("Nothing to do."))]);
    let environment = EnvironmentBody {
        setup: Some("head -c 1000000000 /dev/zero | tr '\\0' x | fold -w 1000".to_owned()),
        ..EnvironmentBody::default()
    };
    let request = world.submit_for("demo", "Talk", environment).await;
    assert_eq!(world.finished(request).await.state, RequestState::PatchReady);
    let log = world.log(request).await;
    assert!(text(&log).len() < 8_000_000, "{} bytes", text(&log).len());
    assert!(has_status(&log, "log of this run is cut"), "the cut is told");
}

#[tokio::test]
async fn processes_that_an_agent_leaves_are_gone_with_its_sandbox() {
    let world =
        World::new(one_command("for i in 1 2 3; do setsid nohup sleep 987654 >/dev/null 2>&1 & done; echo x > made"));
    world.patch_ready("Fork").await;
    world.assert_no_sandbox();
    let left = std::process::Command::new("pgrep").args(["-f", "sleep 987654"]).output().unwrap();
    assert!(left.stdout.is_empty(), "{}", String::from_utf8_lossy(&left.stdout));
}

#[tokio::test]
async fn an_agent_that_deletes_the_repository_loses_only_its_history() {
    let world = World::new(one_command("find .git -delete; echo made > made"));
    let request = world.patch_ready("Delete it").await;
    let change = world.client().diff(request.id).await.unwrap();
    assert_eq!(change.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["made"]);
    assert_eq!(change.base_commit, git(&world.bare("demo"), &["rev-parse", "main"]));
}

#[tokio::test]
async fn commits_and_rewritten_history_of_an_agent_become_one_honest_change() {
    let line = "git config user.email a@b; git config user.name a; echo one > one; git add -A; git commit -qm one; \
                git checkout -q --orphan other; echo two > two; git add -A; git commit -qm two --amend || git commit -qm two; \
                git branch -D main astraforge 2>/dev/null; true";
    let world = World::new(one_command(line));
    let request = world.patch_ready("Commit by yourself").await;
    let change = world.client().diff(request.id).await.unwrap();
    let mut files: Vec<_> = change.files.iter().map(|file| file.path.clone()).collect();
    files.sort();
    assert_eq!(files, ["one", "two"]);
    assert_eq!(change.base_commit, git(&world.bare("demo"), &["rev-parse", "main"]));
}

#[tokio::test]
async fn an_agent_cannot_push_other_branches() {
    let line = "git config user.email a@b; git config user.name a; echo x > made; git add -A; git commit -qm x; \
                git push -q git://127.0.0.2:9418/repository HEAD:main HEAD:evil 2>&1; git push -q origin HEAD:evil 2>&1; true";
    let world = World::new(one_command(line));
    world.patch_ready("Push").await;
    assert_eq!(git(&world.bare("demo"), &["for-each-ref", "--format=%(refname)"]), "refs/heads/main");
    let quarantine = std::fs::read_dir(world.path("data/quarantine")).unwrap().next().unwrap().unwrap().path();
    assert!(!git(&quarantine, &["for-each-ref"]).contains("evil"));
}

#[tokio::test]
async fn hooks_and_configuration_of_an_agent_are_not_run_when_its_work_is_collected() {
    let line = "mkdir -p .git/hooks; for h in pre-commit post-commit pre-push post-index-change reference-transaction; do \
                printf '#!/bin/sh\\ntouch /workspace/hooked\\n' > .git/hooks/$h; chmod +x .git/hooks/$h; done; \
                git config core.fsmonitor 'touch /workspace/hooked; false'; git config filter.x.clean 'touch /workspace/hooked; cat'; \
                echo '* filter=x' > .gitattributes; echo x > made; test ! -e hooked || unlink hooked";
    let world = World::new(one_command(line));
    let request = world.patch_ready("Leave traps").await;
    let change = world.client().diff(request.id).await.unwrap();
    let mut files: Vec<_> = change.files.iter().map(|file| file.path.clone()).collect();
    files.sort();
    assert_eq!(files, [".gitattributes", "made"]);
}

#[tokio::test]
async fn the_token_of_a_run_does_not_reach_the_log() {
    let world = World::new(one_command(
        "cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n' | grep -a afr_; echo looked > looked",
    ));
    let request = world.patch_ready("Print what you find").await;
    let log = world.log(request.id).await;
    let text = text(&log);
    let token =
        text.match_indices("afr_").find(|(at, _)| text[at + 4..].starts_with(|c: char| c.is_ascii_alphanumeric()));
    assert_eq!(token, None, "{text}");
}

#[tokio::test]
async fn a_full_workspace_is_a_failure_in_words_or_an_honest_change() {
    let mut world =
        World::without_server(one_command("head -c 200000000 /dev/zero > big; unlink big; echo small > small"));
    world.options = vec!["--workspace-size".to_owned(), "32Mi".to_owned()];
    world.make_repository("demo", |clone| std::fs::write(clone.join("README.md"), "# demo\n").unwrap());
    world.start();
    let request = world.patch_ready("Fill the disk").await;
    let log = world.log(request.id).await;
    assert!(text(&log).contains("No space left on device"), "{}", text(&log));
    assert_eq!(world.client().diff(request.id).await.unwrap().files.len(), 1);
}

#[tokio::test]
async fn prompts_of_a_megabyte_and_prompts_that_look_like_options_reach_the_agent() {
    let world = World::new(vec![step(0, say("Read."))]);
    let long = format!("-rf --help {}", "x".repeat(1_000_000 - 11));
    let request = world.patch_ready(&long).await;
    assert_eq!(request.metadata.prompt, long);
}

#[tokio::test]
async fn a_message_goes_on_in_the_same_conversation() {
    let world = World::new(vec![
        serde_json::json!({ "when": { "prompt_matches": "more", "text_matches": "first answer" }, "answer": say("Second.") }),
        step(0, shell("echo one > one")),
        step(1, say("first answer")),
    ]);
    let request = world.patch_ready("Begin").await.id;
    world.client().chat(request, "more, please".parse().unwrap()).await.unwrap();
    let finished = world.finished(request).await;
    assert_eq!(last_run(&finished).artifacts.final_message.as_deref(), Some("Second."));
    let change = world.client().diff(request).await.unwrap();
    assert_eq!(change.files.len(), 1, "the first run's change is still there");
}

#[tokio::test]
async fn the_answer_is_the_last_event_before_the_end() {
    let world = World::new(one_command("echo x > made"));
    let request = world.patch_ready("Make it").await;
    let log = world.log(request.id).await;
    let [.., answer, end] = log.as_slice() else { panic!("{log:?}") };
    assert_eq!(answer.kind, EventKind::assistant_message("Done."));
    assert!(matches!(end.kind, EventKind::Completed { .. }), "{end:?}");
    assert!(log.iter().zip(1..).all(|(event, seq)| event.seq == seq), "sequence numbers have no gap");
}
