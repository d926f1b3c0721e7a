//! The typed client against a server on a port of its own.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use astraforge_core::{
    access::Role,
    command::Start,
    event::{EventKind, RunEvent},
    id::{RequestId, SandboxId},
    repository::Secret,
    request::{RequestState, approval::Binding},
    run::RunStatus,
};
use astraforge_http::{
    Client, ClientError,
    server::Server,
    wire::{
        api_key::NewApiKey,
        repository_link::{EnvironmentBody, NewRepositoryLink, RepositoryLinkPatch},
        request::{ExecuteBody, NewAttachmentBody, NewRequest, SpecBody},
        sandbox::exec::ExecBody,
    },
};
use axum::{
    Json, Router,
    body::{Bytes, to_bytes},
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
    routing::{any, post},
};
use futures::{FutureExt, StreamExt, TryStreamExt};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::house::{House, Who};

fn client(url: &str, key: &str) -> Client {
    // The second test of this process finds it installed.
    _ = rustls::crypto::ring::default_provider().install_default();
    Client::new(url, key).unwrap()
}

async fn house_and_client() -> (House, Client) {
    let house = House::new().await;
    let url = house.open().await;
    let client = client(&url, house.key(Who::Admin));
    (house, client)
}

#[tokio::test]
async fn every_route_has_its_method() {
    let (house, client) = house_and_client().await;
    assert_eq!(client.health().await.unwrap().status, "ok");
    assert_eq!(client.ready().await.unwrap().status, "ok");
    assert_eq!(client.schema().await.unwrap()["openapi"], "3.1.0");

    let attachment =
        NewAttachmentBody { name: "trace.txt".into(), content_type: "text/plain".into(), content: "boom".into() };
    let new = NewRequest {
        attachments: vec![attachment],
        start: Start::AfterPlan,
        ..NewRequest::new(house.spine.link.id, "Cache the loader results".parse().unwrap())
    };
    let request = client.submit(&new).await.unwrap();
    assert_eq!(request.payload.attachments[0].size, 4);
    assert_eq!(client.plan(request.id).await.unwrap().steps.len(), 1);
    let run = client.execute_plan(request.id).await.unwrap().run_id;
    let events: Vec<RunEvent> = client.logs(run, 0).try_collect().await.unwrap();
    assert!(events.last().unwrap().kind.ends_run());

    let change = client.diff(request.id).await.unwrap();
    let approved = client.approve(request.id, Some(change.digest.clone())).await.unwrap();
    assert_eq!(approved.approval.binding, Binding::Explicit);
    client.logs(request.id, events.last().unwrap().seq).try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(client.request(request.id).await.unwrap().state, RequestState::Reviewed);
    let listed = client.merge_requests().await.unwrap().remove(0);
    assert_eq!(client.merge_request(listed.id).await.unwrap(), listed);

    client.chat(request.id, "more".parse().unwrap()).await.unwrap();
    let spec = SpecBody { title: "Docs".into(), summary: "Write docs".into(), ..SpecBody::default() };
    client.execute(request.id, &ExecuteBody { spec: Some(spec) }).await.unwrap();
    client.logs(request.id, 0).try_collect::<Vec<_>>().await.unwrap();
    // The agent changes the same again: the digest is the one that was approved, and so is the approval.
    assert_eq!(client.approve_in_chat(request.id, None).await.unwrap(), approved);
    assert_eq!(client.runs().await.unwrap().len(), 3);
    let detail = client.run(run).await.unwrap();
    assert_eq!((detail.summary.status, detail.events), (RunStatus::Completed, client.run(run).await.unwrap().events));
    assert_eq!(client.requests().await.unwrap().len(), 1);
    assert_eq!(client.cancel_run(run).await.unwrap_err().status().unwrap(), 409);

    let link = NewRepositoryLink {
        access_token: Some(Secret::new("token-1234")),
        ..NewRepositoryLink::new("local", "team/tools")
    };
    let link = client.link_repository(&link).await.unwrap();
    assert_eq!(link.token_preview, "***1234");
    let environment = EnvironmentBody { test: Some("pytest".into()), ..EnvironmentBody::default() };
    let patch = RepositoryLinkPatch { access_token: Some(None), environment: Some(environment) };
    let changed = client.change_repository_link(link.id, &patch).await.unwrap();
    assert_eq!((changed.token_preview.as_str(), changed.environment.test.as_deref()), ("", Some("pytest")));
    assert_eq!(client.repository_link(link.id).await.unwrap(), changed);
    assert_eq!(client.repository_links().await.unwrap().len(), 2);
    client.unlink_repository(link.id).await.unwrap();
    assert_eq!(client.unlink_repository(link.id).await.unwrap_err().status().unwrap(), 404);

    let minted = client.make_api_key(&NewApiKey::new("ci", Role::Observer)).await.unwrap();
    assert!(client.api_keys().await.unwrap().iter().any(|key| key.id == minted.view.id));
    client.revoke_api_key(minted.view.id).await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_typed() {
    let (house, admin) = house_and_client().await;
    let unknown = RequestId::random();
    let error = admin.request(unknown).await.unwrap_err();
    assert_eq!(error.status().unwrap(), 404);
    assert_eq!(error.detail(), Some(format!("Request {unknown} not found").as_str()));
    let new = NewRequest { source: Some(" ".into()), ..NewRequest::new(house.spine.link.id, "x".parse().unwrap()) };
    let error = admin.submit(&new).await.unwrap_err();
    assert_eq!(error.field("source"), ["This field may not be blank."]);
    assert!(matches!(Client::new("nowhere", "k"), Err(ClientError::BaseUrl { .. })));
    assert!(matches!(Client::new("http://127.0.0.1:1", "a\nb"), Err(ClientError::ApiKey)));
    assert!(!format!("{admin:?}").contains(house.key(Who::Admin)));
}

#[tokio::test]
async fn a_run_is_cancelled_by_its_request() {
    let (house, client) = house_and_client().await;
    house.spine.agent.play(|_, _, cancel| {
        async move {
            cancel.cancelled().await;
            Err(astraforge_core::run::RunFailure::new(astraforge_core::run::FailureCause::Cancelled, "Stopped"))
        }
        .boxed()
    });
    let request = client.submit(&NewRequest::new(house.spine.link.id, "x".parse().unwrap())).await.unwrap();
    client.cancel_request(request.id).await.unwrap();
    let events: Vec<_> = client.logs(request.id, 0).try_collect().await.unwrap();
    assert!(matches!(events.last().unwrap().kind, EventKind::Cancelled { .. }));
}

/// A connection between client and server that breaks after so many bytes of answer, again and again.
async fn flaky(target: String, bytes: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    let target = target.strip_prefix("http://").unwrap().to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(relay(client, target.clone(), bytes));
        }
    });
    (url, connections)
}

async fn relay(client: TcpStream, target: String, bytes: usize) {
    let server = TcpStream::connect(target).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut answer = from_server.take(bytes as u64);
    let mut buffer = vec![0; 4096];
    while let Ok(n @ 1..) = answer.read(&mut buffer).await {
        if to_client.write_all(&buffer[..n]).await.is_err() {
            break;
        }
    }
    up.abort();
}

#[tokio::test]
async fn a_log_goes_on_where_the_connection_broke() {
    let house = House::new().await;
    let url = house.open().await;
    house.spine.agent.play(|_, reporter, _| {
        async move {
            for line in 0..40 {
                reporter.emit(EventKind::log(format!("line {line} {}", "x".repeat(40)))).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(astraforge_core::ports::executor::AgentOutcome::default())
        }
        .boxed()
    });
    let (flaky_url, connections) = flaky(url.clone(), 2500).await;
    let direct = client(&url, house.key(Who::Admin));
    let request = direct.submit(&NewRequest::new(house.spine.link.id, "x".parse().unwrap())).await.unwrap();
    let broken = client(&flaky_url, house.key(Who::Admin));
    let events: Vec<_> = broken.logs(request.id, 0).try_collect().await.unwrap();
    assert!(connections.load(Ordering::SeqCst) > 2, "the connection broke on the way");
    let stored: Vec<_> = direct.logs(request.id, 0).try_collect().await.unwrap();
    assert!(stored.len() > 40);
    assert_eq!(events, stored);
}

#[tokio::test]
async fn a_follower_sees_what_comes_later() {
    let (house, client) = house_and_client().await;
    let request = client.submit(&NewRequest::new(house.spine.link.id, "x".parse().unwrap())).await.unwrap();
    let mut log = client.follow_logs(request.id, 0);
    let mut ends = 0;
    while ends < 2 {
        let event = tokio::time::timeout(Duration::from_secs(10), log.next()).await.expect("an event comes");
        if event.unwrap().unwrap().kind.ends_run() {
            ends += 1;
            if ends == 1 {
                client.chat(request.id, "more".parse().unwrap()).await.unwrap();
            }
        }
    }
}

/// A connection between client and server whose first answers are lost, so many of them.
async fn losing(target: String, n_lost: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    let target = target.strip_prefix("http://").unwrap().to_owned();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let is_lost = counter.fetch_add(1, Ordering::SeqCst) < n_lost;
            let mut server = TcpStream::connect(&target).await.unwrap();
            tokio::spawn(async move {
                if !is_lost {
                    return drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                }
                let (mut from_client, _to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                let mut answer = [0; 1024];
                tokio::select! {
                    _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                    _ = from_server.read(&mut answer) => {}
                }
            });
        }
    });
    (url, connections)
}

#[tokio::test]
async fn a_call_whose_answer_is_lost_is_sent_again_and_carried_out_once() {
    let house = House::new().await;
    let url = house.open().await;
    let (losing_url, connections) = losing(url.clone(), 2).await;
    let client = client(&losing_url, house.key(Who::Admin));
    let request = client.submit(&NewRequest::new(house.spine.link.id, "x".parse().unwrap())).await.unwrap();
    assert_eq!(connections.load(Ordering::SeqCst), 3);
    assert_eq!(client.requests().await.unwrap().len(), 1);
    let (losing_url, _) = losing(url, 1).await;
    let client = self::client(&losing_url, house.key(Who::Admin));
    let minted = client.make_api_key(&NewApiKey::new("ci", Role::Observer)).await.unwrap();
    let keys = client.api_keys().await.unwrap();
    let made: Vec<_> = keys.iter().filter(|key| key.name == "ci").map(|key| key.id).collect();
    assert_eq!(made, [minted.view.id]);
    let (losing_url, _) = losing(house.open().await, 1).await;
    let client = self::client(&losing_url, minted.key.reveal());
    assert_eq!(client.request(request.id).await.unwrap().id, request.id, "it is the key that was made");
}

/// A client of a server that answers as it is told.
async fn client_of(app: Router) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { Server::new(listener, app).run().await });
    client(&url, "k")
}

#[tokio::test]
async fn an_earlier_try_that_is_still_at_work_is_waited_for_under_the_same_key() {
    let keys = Arc::new(Mutex::new(Vec::new()));
    let seen = keys.clone();
    let cancel = post(move |headers: HeaderMap| async move {
        let mut seen = seen.lock().unwrap();
        seen.push(headers["idempotency-key"].clone());
        match seen.len() {
            1 => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"detail": "Away.", "code": "node_unreachable"}))),
            2..=3 => (StatusCode::CONFLICT, Json(json!({"detail": "Wait.", "code": "idempotency_call_at_work"}))),
            _ => (StatusCode::ACCEPTED, Json(json!({"status": "cancelled", "state": "CANCELLED"}))),
        }
    });
    let client = client_of(Router::new().route("/api/requests/{id}/cancel/", cancel)).await;
    for n_calls in [4, 5] {
        client.cancel_request(RequestId::random()).await.unwrap();
        assert_eq!(keys.lock().unwrap().len(), n_calls);
    }
    let keys = keys.lock().unwrap();
    assert!(keys[..4].iter().all(|key| *key == keys[0]) && keys[4] != keys[0], "each call has a key: {keys:?}");
}

#[tokio::test]
async fn a_failure_that_the_server_tells_of_is_not_sent_again_and_one_of_a_proxy_is() {
    let own = Json(json!({"detail": "The store failed to write."}));
    for (n_tries, answer) in [(1, own.into_response()), (3, "<html>no upstream</html>".into_response())] {
        let (status, body) = (StatusCode::SERVICE_UNAVAILABLE, to_bytes(answer.into_body(), 1024).await.unwrap());
        let n_calls = Arc::new(AtomicUsize::new(0));
        let counter = n_calls.clone();
        let cancel = post(move || async move {
            counter.fetch_add(1, Ordering::SeqCst);
            (status, body)
        });
        let client = client_of(Router::new().route("/api/requests/{id}/cancel/", cancel)).await;
        let refused = client.cancel_request(RequestId::random()).await.unwrap_err();
        assert_eq!(refused.status().unwrap(), 503);
        assert_eq!(n_calls.load(Ordering::SeqCst), n_tries, "{refused}");
    }
}

#[tokio::test]
async fn too_many_calls_are_waited_out() {
    let n_calls = Arc::new(AtomicUsize::new(0));
    let counter = n_calls.clone();
    let cancel = post(move || async move {
        match counter.fetch_add(1, Ordering::SeqCst) {
            0..3 => {
                let told = Json(json!({"detail": "Slow down."}));
                (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")], told).into_response()
            }
            _ => (StatusCode::ACCEPTED, Json(json!({"status": "cancelled", "state": "CANCELLED"}))).into_response(),
        }
    });
    let client = client_of(Router::new().route("/api/requests/{id}/cancel/", cancel)).await;
    let began = Instant::now();
    client.cancel_request(RequestId::random()).await.unwrap();
    assert_eq!(n_calls.load(Ordering::SeqCst), 4, "more often than what fails is tried");
    assert!(began.elapsed() >= Duration::from_secs(3));
}

#[tokio::test]
async fn a_body_that_comes_as_a_stream_is_sent_once_and_without_a_key() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    let answer = any(move |headers: HeaderMap, body: Bytes| async move {
        seen.lock().unwrap().push((headers.get("idempotency-key").cloned(), body));
        StatusCode::BAD_GATEWAY
    });
    let client = client_of(Router::new().route("/api/sandbox/sessions/{id}/{*rest}", answer)).await;
    let id = SandboxId::random();
    let pieces = futures::stream::iter(["an ", "archive"].map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece))));
    client.restore_archive(id, pieces).await.unwrap_err();
    let sent = std::mem::take(&mut *calls.lock().unwrap());
    assert_eq!(sent.len(), 1);
    assert!(sent[0].0.is_none() && sent[0].1 == "an archive", "{sent:?}");
    client.write_input(id, "7", "typed", false).await.unwrap_err();
    let calls = calls.lock().unwrap();
    assert_eq!(calls.len(), 3);
    assert!(calls[0].0.is_some() && calls.iter().all(|call| *call == calls[0]), "{calls:?}");
}

#[tokio::test]
async fn calls_are_tried_a_few_times_but_commands_that_are_waited_for_once() {
    let (url, connections) = flaky("http://127.0.0.1:1".to_owned(), 0).await;
    let client = client(&url, "k");
    assert!(matches!(client.runs().await, Err(ClientError::Transport { .. })));
    assert_eq!(connections.swap(0, Ordering::SeqCst), 3);
    client.plan(RequestId::random()).await.unwrap_err();
    assert_eq!(connections.swap(0, Ordering::SeqCst), 3);
    client.exec(SandboxId::random(), &ExecBody::shell("true")).await.unwrap_err();
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}
