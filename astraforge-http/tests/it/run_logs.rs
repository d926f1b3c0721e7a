//! Run logs as server-sent events.

use std::time::Duration;

use astraforge_core::{
    cancel::Cancellation,
    event::{EventKind, NewEvent},
    ports::{
        artifacts::ArtifactStore as _,
        executor::AgentOutcome,
        git::GitError,
        store::{Changes, Store as _},
    },
    run::{FailureCause, Run, RunFailure, RunStatus},
    testing::samples,
};
use axum::{
    body::{Body, BodyDataStream},
    http::Request,
};
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::house::{Answer, House, Who};

/// The frames of a stream: id and data.
fn frames(text: &str) -> Vec<(Option<u64>, Value)> {
    let frames = text.split("\n\n").filter(|frame| !frame.is_empty() && !frame.starts_with(':'));
    frames.map(frame).collect()
}

fn frame(text: &str) -> (Option<u64>, Value) {
    let mut id = None;
    let mut data = Value::Null;
    for line in text.lines() {
        match line.split_once(": ") {
            Some(("event", event)) => assert_eq!(event, "message"),
            Some(("id", text)) => id = Some(text.parse().unwrap()),
            Some(("data", text)) => data = serde_json::from_str(text).unwrap(),
            _ => panic!("{line}"),
        }
    }
    (id, data)
}

async fn read(house: &House, id: &str, after: Option<&str>) -> Answer {
    let mut request = Request::get(format!("/api/runs/{id}/logs/stream")).header("x-api-key", house.key(Who::Observer));
    if let Some(after) = after {
        request = request.header("last-event-id", after);
    }
    house.send(request.body(Body::empty()).unwrap()).await
}

/// A stream that stays open.
async fn follow(house: &House, id: &str) -> BodyDataStream {
    let request = Request::get(format!("/api/runs/{id}/logs/stream?follow=1"));
    let request = request.header("x-api-key", house.key(Who::Observer)).body(Body::empty()).unwrap();
    house.app.clone().oneshot(request).await.unwrap().into_body().into_data_stream()
}

fn last_type(answer: &Answer) -> String {
    frames(&answer.text).last().unwrap().1["type"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_finished_request_is_replayed_and_the_stream_ends() {
    let house = House::new().await;
    let id = house.submit(json!({})).await;
    house.work().await;
    let answer = read(&house, &id, None).await;
    answer.has_status(200);
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("cache-control"), "no-cache");
    assert_eq!(answer.header("x-accel-buffering"), "no");
    assert_eq!(answer.header("x-run-log"), "settled");
    let frames = frames(&answer.text);
    assert_eq!(frames[0], (None, json!({"request_id": id, "type": "heartbeat", "message": "stream_ready"})));
    assert_eq!((frames[1].0, &frames[1].1["type"]), (Some(1), &json!("user_prompt")));
    for (place, (seq, event)) in frames[1..].iter().enumerate() {
        assert_eq!(*seq, Some(place as u64 + 1));
        assert_eq!((&event["version"], &event["seq"]), (&1.into(), &(place + 1).into()));
    }
    assert_eq!(last_type(&answer), "completed");
}

#[tokio::test]
async fn a_stream_resumes_after_the_last_event_that_was_seen() {
    let house = House::new().await;
    let id = house.submit(json!({})).await;
    house.work().await;
    let whole = frames(&read(&house, &id, None).await.text);
    for seen in [1, whole.len() - 2, whole.len() - 1] {
        let rest = frames(&read(&house, &id, Some(&seen.to_string())).await.text);
        assert_eq!(rest[0].1["type"], "heartbeat");
        assert_eq!(rest[1..], whole[seen + 1..]);
    }
    assert_eq!(frames(&read(&house, &id, Some("none")).await.text), whole);
}

#[tokio::test]
async fn an_archived_log_is_read_as_it_was() {
    let house = House::new().await;
    let id = house.submit(json!({})).await;
    house.work().await;
    let whole = frames(&read(&house, &id, None).await.text);
    let request = house.get(Who::Observer, &format!("/api/requests/{id}/")).await.body;
    let run = request["metadata"]["runs"][0]["id"].as_str().unwrap().to_owned();
    let shown = house.get(Who::Observer, &format!("/api/runs/{run}/")).await.body;
    let of_run = frames(&read(&house, &run, None).await.text);
    house.archive_logs().await;
    assert_eq!(house.spine.store.events(id.parse().unwrap(), 0, 99).await.unwrap(), []);
    assert_eq!(frames(&read(&house, &id, None).await.text), whole);
    for seen in [1, whole.len() - 2, whole.len() - 1] {
        assert_eq!(frames(&read(&house, &id, Some(&seen.to_string())).await.text)[1..], whole[seen + 1..]);
    }
    assert_eq!(frames(&read(&house, &run, None).await.text), of_run);
    assert_eq!(house.get(Who::Observer, &format!("/api/requests/{id}/")).await.body, request);
    assert_eq!(house.get(Who::Observer, &format!("/api/runs/{run}/")).await.body, shown);

    let again = format!("/api/requests/{id}/execute/");
    house.post(Who::Maintainer, &again, json!({})).await.has_status(202);
    house.work().await;
    let more = frames(&read(&house, &id, None).await.text);
    assert_eq!(more[..whole.len()], whole);
    assert!(more.iter().skip(1).map(|(seq, _)| seq.unwrap()).eq(1..more.len() as u64));
    assert!(more.len() > whole.len());
}

#[tokio::test]
async fn a_log_whose_archive_is_missing_is_an_error_and_no_empty_log() {
    let house = House::new().await;
    let id = house.submit(json!({})).await;
    house.work().await;
    let request = id.parse().unwrap();
    // As many as two archives hold.
    let line = |n| samples::log(request, format!("line {n}"));
    house.spine.store.append((0..1200).map(line).collect()).await.unwrap();
    house.archive_logs().await;
    let archives = house.spine.store.archives(request).await.unwrap();
    let files = &house.spine.artifacts;
    let first = files.get(&archives[0].key).await.unwrap().unwrap();
    files.delete(&archives[0].key).await.unwrap();
    read(&house, &id, None).await.has_status(503);
    house.get(Who::Observer, &format!("/api/requests/{id}/")).await.has_status(503);

    files.put(&archives[0].key, first).await.unwrap();
    files.delete(&archives[1].key).await.unwrap();
    let stream = Request::get(format!("/api/runs/{id}/logs/stream")).header("x-api-key", house.key(Who::Observer));
    let answer = house.app.clone().oneshot(stream.body(Body::empty()).unwrap()).await.unwrap();
    let mut body = answer.into_body().into_data_stream();
    let mut n_events = 0;
    let broke_off = loop {
        match body.next().await.expect("it breaks off, and does not end in order") {
            Ok(bytes) => n_events += String::from_utf8_lossy(&bytes).matches("id: ").count(),
            Err(error) => break error,
        }
    };
    assert_eq!(n_events as u64, archives[0].last, "{broke_off}");
}

#[tokio::test]
async fn a_stream_ends_when_a_run_fails_or_is_cancelled() {
    let house = House::new().await;
    house.spine.broker.fails_to_mirror(GitError::Empty { repository: "acme/loader".into() });
    let failed = house.submit(json!({})).await;
    house.work().await;
    let answer = read(&house, &failed, None).await;
    let last = frames(&answer.text).pop().unwrap().1;
    assert_eq!((&last["type"], &last["stage"]), (&json!("error"), &json!("failed")));

    let cancelled = house.submit(json!({})).await;
    house.post(Who::Maintainer, &format!("/api/requests/{cancelled}/cancel/"), json!({})).await.has_status(202);
    assert_eq!(last_type(&read(&house, &cancelled, None).await), "cancelled");
}

#[tokio::test]
async fn a_live_stream_follows_the_run_to_its_end() {
    let house = House::new().await;
    let (go, gone) = tokio::sync::watch::channel(false);
    house.spine.agent.play(move |_, reporter, _| {
        let mut gone = gone.clone();
        async move {
            for line in 0..600 {
                reporter.emit(EventKind::log(format!("line {line}"))).await.unwrap();
            }
            gone.wait_for(|go| *go).await.unwrap();
            Err(RunFailure::new(FailureCause::Agent, "The agent gave up"))
        }
        .boxed()
    });
    let id = house.submit(json!({})).await;
    house.hire();
    let reader = read(&house, &id, None);
    let (answer, ()) = tokio::join!(reader, async {
        // A live stream that is silent for a while is not over.
        tokio::time::sleep(Duration::from_millis(600)).await;
        go.send(true).unwrap();
    });
    assert_eq!(answer.header("x-run-log"), "live");
    let frames = frames(&answer.text);
    let lines = frames.iter().filter(|(_, event)| event["type"] == "log").count();
    assert_eq!(lines, 600);
    let last = &frames.last().unwrap().1;
    assert_eq!((&last["type"], &last["message"]), (&json!("error"), &json!("The agent gave up")));
    let seqs: Vec<_> = frames.iter().skip(1).map(|(seq, _)| seq.unwrap()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn later_runs_are_part_of_a_requests_stream_and_not_of_an_earlier_runs() {
    let house = House::new().await;
    let id = house.submit(json!({})).await;
    let first = house.get(Who::Observer, "/api/runs/").await.body[0]["id"].as_str().unwrap().to_owned();
    house.post(Who::Reviewer, "/api/chat/", json!({"request_id": id, "message": "more"})).await.has_status(202);
    house.hire();
    let (all, one) = tokio::join!(read(&house, &id, None), read(&house, &first, None));
    let ends = |text: &str| frames(text).iter().filter(|(_, event)| event["type"] == "completed").count();
    assert_eq!(ends(&all.text), 2);
    assert_eq!(ends(&one.text), 1);
    assert_eq!(last_type(&one), "completed");
    assert!(frames(&one.text)[1..].iter().all(|(_, event)| event["run_id"] == first));
    let replayed = read(&house, &first, None).await;
    assert_eq!(frames(&replayed.text), frames(&one.text));
    let seq = frames(&one.text).last().unwrap().0.unwrap().to_string();
    assert_eq!(frames(&read(&house, &first, Some(&seq)).await.text).len(), 1);
}

#[tokio::test]
async fn publication_and_review_are_followed_too() {
    let house = House::new().await;
    let id = house.submit(json!({})).await;
    house.work().await;
    let seen = frames(&read(&house, &id, None).await.text).last().unwrap().0.unwrap().to_string();
    house.post(Who::Reviewer, &format!("/api/requests/{id}/approve/"), json!({})).await.has_status(202);
    house.hire();
    let answer = read(&house, &id, Some(&seen)).await;
    let messages: Vec<_> = frames(&answer.text).into_iter().map(|(_, event)| event["message"].to_string()).collect();
    assert!(messages.iter().any(|message| message.contains("Merge request opened")), "{messages:?}");
    assert_eq!(house.get(Who::Observer, &format!("/api/requests/{id}/")).await.body["state"], "REVIEWED");
}

#[tokio::test]
async fn a_follower_stays_until_the_server_shuts_down() {
    let (stop, stopped) = Cancellation::pair();
    let keep_alive = Duration::from_millis(50);
    let house = House::with(|state| state.with_shutdown(stopped).with_keep_alive(keep_alive)).await;
    let id = house.submit(json!({})).await;
    house.work().await;
    let mut body = follow(&house, &id).await;
    let mut text = String::new();
    while !text.contains(": keep-alive") {
        let chunk = tokio::time::timeout(Duration::from_secs(5), body.next()).await.expect("a comment comes");
        text.push_str(std::str::from_utf8(&chunk.unwrap().unwrap()).unwrap());
    }
    assert!(text.contains("\"completed\""));
    house.submit(json!({})).await;
    house.post(Who::Reviewer, "/api/chat/", json!({"request_id": id, "message": "one more thing"})).await;
    while !text.contains("one more thing") {
        let chunk = tokio::time::timeout(Duration::from_secs(5), body.next()).await.expect("an event comes");
        text.push_str(std::str::from_utf8(&chunk.unwrap().unwrap()).unwrap());
    }
    stop.cancel();
    let rest = tokio::time::timeout(Duration::from_secs(5), body.collect::<Vec<_>>()).await;
    rest.expect("the stream ends with the server");
}

#[tokio::test]
async fn a_stream_beside_one_that_rests_goes_on_with_what_another_server_began() {
    let house = House::new().await;
    let id = house.submit(json!({})).await;
    house.work().await;
    let mut resting = follow(&house, &id).await;
    let mut text = String::new();
    while !text.contains("\"completed\"") {
        text.push_str(std::str::from_utf8(&resting.next().await.unwrap().unwrap()).unwrap());
    }
    // Into the store alone, so no hint is heard here.
    let run = Run { request: id.parse().unwrap(), ..samples::run(&samples::request()) };
    let write = async |status, kind| {
        let event = NewEvent { request: run.request, run: Some(run.id), kind, at: samples::at(9) };
        let changes = Changes { runs: vec![Run { status, ..run.clone() }], events: vec![event], ..Changes::default() };
        house.spine.store.commit(changes).await.unwrap();
    };
    write(RunStatus::Queued, EventKind::status("queue", "Run queued")).await;
    let (answer, ()) = tokio::join!(read(&house, &id, None), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        write(RunStatus::Completed, EventKind::Completed { message: "Again".to_owned() }).await;
    });
    assert_eq!(answer.header("x-run-log"), "live");
    assert_eq!(frames(&answer.text).last().unwrap().1["message"], "Again", "{}", answer.text);
}

#[tokio::test]
async fn a_request_that_waits_for_its_plan_is_live() {
    let house = House::with(|state| state.with_keep_alive(Duration::from_millis(50))).await;
    let id = house.submit(json!({"start": "after_plan"})).await;
    let reader = read(&house, &id, None);
    let (answer, ()) = tokio::join!(reader, async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        house.post(Who::Maintainer, "/api/requests/plan/", json!({"request_id": id})).await.has_status(200);
        house.post(Who::Maintainer, "/api/requests/execute/", json!({"request_id": id})).await.has_status(202);
        house.work().await;
    });
    assert_eq!(last_type(&answer), "completed");
}

#[tokio::test]
async fn a_caller_that_takes_no_events_is_told_so() {
    let house = House::new().await;
    let id = house.submit(json!({})).await;
    let request = Request::get(format!("/api/runs/{id}/logs/stream")).header("x-api-key", house.key(Who::Observer));
    let request = request.header("accept", "application/json").body(Body::empty()).unwrap();
    house.send(request).await.is(406, json!({"detail": "Could not satisfy the request Accept header."}));
}

#[tokio::test]
async fn a_run_at_work_is_cancelled() {
    let house = House::new().await;
    house.spine.agent.play(|_, reporter, cancel| {
        async move {
            reporter.emit(EventKind::log("at work")).await.unwrap();
            cancel.cancelled().await;
            Err::<AgentOutcome, _>(RunFailure::new(FailureCause::Cancelled, "Stopped"))
        }
        .boxed()
    });
    let id = house.submit(json!({})).await;
    house.hire();
    let (answer, ()) = tokio::join!(read(&house, &id, None), async {
        let path = format!("/api/requests/{id}/");
        while house.get(Who::Observer, &path).await.body["state"] != "EXECUTING" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let answer = house.post(Who::Maintainer, &format!("{path}cancel/"), json!({})).await;
        answer.is(202, json!({"status": "cancelling", "state": "EXECUTING"}));
    });
    assert_eq!(last_type(&answer), "cancelled");
    assert_eq!(house.get(Who::Observer, &format!("/api/requests/{id}/")).await.body["state"], "CANCELLED");
}
