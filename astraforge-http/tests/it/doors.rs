//! Who comes in, what every answer carries, and what is refused before any handler.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use astraforge_core::{
    access::Role,
    id::{RequestId, RunId},
    ports::{clock::Clock, store::Store},
    testing::samples,
};
use axum::{body::Body, http::Request};
use serde_json::json;

use crate::house::{Answer, House, Who};

#[tokio::test]
async fn nobody_comes_in_without_a_key() {
    let house = House::new().await;
    let answer = house.get(Who::Nobody, "/api/requests/").await;
    answer.is(401, json!({"detail": "Authentication credentials were not provided."}));
    assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"astraforge\"");

    let wrong = Request::get("/api/requests/").header("x-api-key", "afk_wrong").body(Body::empty()).unwrap();
    let answer = house.send(wrong).await;
    answer.is(401, json!({"detail": "Invalid API key"}));
    assert!(answer.headers.contains_key("www-authenticate"));
}

#[tokio::test]
async fn a_key_is_taken_as_a_bearer_token_too() {
    let house = House::new().await;
    let bearer = format!("Bearer {}", house.key(Who::Observer));
    let request = Request::get("/api/requests/").header("authorization", bearer).body(Body::empty()).unwrap();
    house.send(request).await.is(200, json!([]));
}

#[tokio::test]
async fn every_route_with_rows_wants_a_key() {
    let house = House::new().await;
    let document = astraforge_http::server::openapi();
    let mut checked = 0;
    for (path, item) in &document.paths.paths {
        let path = path.replace("{id}", &RequestId::random().to_string()).replace("{run_id}", "x");
        let operations = [("GET", &item.get), ("POST", &item.post), ("PATCH", &item.patch), ("DELETE", &item.delete)];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            let open = operation.security.is_some();
            let status = house.call(Who::Nobody, method, &path, None).await.status;
            assert_eq!(status == 401, !open, "{method} {path}: {status}");
            checked += 1;
        }
    }
    assert!(checked > 25, "{checked}");
}

#[tokio::test]
async fn lacking_permission_is_forbidden() {
    let house = House::new().await;
    let detail = "your role `observer` does not allow this; it needs at least `maintainer`";
    house.post(Who::Observer, "/api/requests/", json!({})).await.is(403, json!({ "detail": detail }));
    for (who, method, path) in [
        (Who::Observer, "POST", "/api/repository-links/"),
        (Who::Reviewer, "POST", "/api/requests/"),
        (Who::Maintainer, "GET", "/api/api-keys/"),
        (Who::Maintainer, "POST", "/api/api-keys/"),
    ] {
        let body = json!({"name": "x", "provider": "local", "repository": "x"});
        house.call(who, method, path, Some(body)).await.has_status(403);
    }
    let id = house.submit(json!({})).await;
    for path in ["execute/", "cancel/", "approve/"] {
        house.call(Who::Observer, "POST", &format!("/api/requests/{id}/{path}"), None).await.has_status(403);
    }
    house.post(Who::Observer, "/api/chat/", json!({"request_id": id, "message": "hi"})).await.has_status(403);
}

#[tokio::test]
async fn a_stranger_finds_nothing_of_another_tenant() {
    let house = House::new().await;
    let id = house.submit(json!({})).await;
    house.work().await;
    house.post(Who::Reviewer, &format!("/api/chat/{id}/approve/"), json!({})).await.has_status(202);
    house.work().await;
    let run = house.get(Who::Observer, "/api/runs/").await.body[0]["id"].as_str().unwrap().to_owned();
    let mr = house.get(Who::Observer, "/api/merge-requests/").await.body[0]["id"].as_str().unwrap().to_owned();
    let link = house.spine.link.id;
    let key = house.get(Who::Admin, "/api/api-keys/").await.body[0]["id"].as_str().unwrap().to_owned();

    for list in ["requests", "runs", "merge-requests", "repository-links"] {
        house.get(Who::Stranger, &format!("/api/{list}/")).await.is(200, json!([]));
    }
    let request_gone = json!({"detail": format!("Request {id} not found")});
    for (method, path) in [
        ("GET", format!("/api/requests/{id}/")),
        ("POST", format!("/api/requests/{id}/execute/")),
        ("POST", format!("/api/requests/{id}/cancel/")),
        ("POST", format!("/api/requests/{id}/approve/")),
        ("GET", format!("/api/requests/{id}/diff/")),
        ("POST", format!("/api/chat/{id}/approve/")),
        ("GET", format!("/api/runs/{id}/logs/stream")),
    ] {
        house.call(Who::Stranger, method, &path, None).await.is(404, request_gone.clone());
    }
    for path in ["/api/requests/plan/", "/api/requests/execute/", "/api/chat/"] {
        let body = json!({"request_id": id, "message": "hi"});
        house.post(Who::Stranger, path, body).await.is(404, request_gone.clone());
    }
    let not_found = |what: &str| json!({ "detail": what });
    let no_link = "No RepositoryLink matches the given query.";
    for (method, path, detail) in [
        ("GET", format!("/api/runs/{run}/"), "Run not found"),
        ("POST", format!("/api/runs/{run}/cancel/"), "Run not found"),
        ("GET", format!("/api/merge-requests/{mr}/"), "Merge request not found"),
        ("GET", format!("/api/repository-links/{link}/"), no_link),
        ("PATCH", format!("/api/repository-links/{link}/"), no_link),
        ("DELETE", format!("/api/repository-links/{link}/"), no_link),
        ("DELETE", format!("/api/api-keys/{key}/"), "API key not found"),
    ] {
        house.call(Who::Stranger, method, &path, None).await.is(404, not_found(detail));
    }
    house.get(Who::Stranger, &format!("/api/runs/{run}/logs/stream")).await.has_status(404);
    assert!(house.spine.store.link(&samples::tenant(), link).await.unwrap().is_some());
}

#[tokio::test]
async fn malformed_ids_name_nothing() {
    let house = House::new().await;
    for (path, detail) in [
        ("/api/requests/x/", "Request x not found"),
        ("/api/runs/x/", "Run not found"),
        ("/api/runs/x/logs/stream", "Request x not found"),
        ("/api/merge-requests/x/", "Merge request not found"),
        ("/api/repository-links/x/", "Not found."),
        ("/api/requests/%ff/", "Request  not found"),
    ] {
        house.get(Who::Observer, path).await.is(404, json!({ "detail": detail }));
    }
    house.post(Who::Reviewer, "/api/chat/anything/approve/", json!({})).await.has_status(404);
}

#[tokio::test]
async fn a_path_is_served_with_and_without_its_slash() {
    let house = House::new().await;
    let id = house.submit(json!({})).await;
    house.work().await;
    for path in ["/api/requests", "/api/requests/", "/api/runs", "/api/schema", "/healthz", "/healthz/", "/readyz"] {
        house.get(Who::Observer, path).await.has_status(200);
    }
    for path in [format!("/api/requests/{id}"), format!("/api/runs/{id}/logs/stream/")] {
        house.get(Who::Observer, &path).await.has_status(200);
    }
    house.post(Who::Maintainer, "/api/requests", json!({})).await.has_status(400);
}

#[tokio::test]
async fn the_root_says_where_the_lists_are() {
    let house = House::new().await;
    for path in ["/api/", "/api"] {
        let request =
            Request::get(path).header("host", "forge.example:8001").header("x-api-key", house.key(Who::Observer));
        let answer = house.send(request.body(Body::empty()).unwrap()).await;
        let lists = answer.has_status(200).as_object().unwrap();
        assert_eq!(lists["merge-requests"], "http://forge.example:8001/api/merge-requests/");
        assert_eq!(lists.len(), 7, "{lists:?}");
        for (name, address) in lists.iter().filter(|(name, _)| !matches!(name.as_str(), "chat" | "sandbox/sessions")) {
            let path = address.as_str().unwrap().strip_prefix("http://forge.example:8001").unwrap();
            assert!(house.get(Who::Admin, path).await.has_status(200).is_array(), "{name}");
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_in_json() {
    let house = House::new().await;
    for path in ["/api/nothing/", "/api/requests/a/b/c/"] {
        house.get(Who::Observer, path).await.is(404, json!({"detail": "Not found."}));
    }
    let answer = house.call(Who::Observer, "PUT", "/api/requests/", None).await;
    answer.is(405, json!({"detail": "Method \"PUT\" not allowed."}));
    assert_eq!(answer.header("allow"), "GET,HEAD,POST");
    house.get(Who::Observer, "/api/chat/").await.has_status(405);
    house.get(Who::Observer, "/api/requests/plan/").await.has_status(405);
}

#[tokio::test]
async fn every_answer_carries_the_security_headers_and_an_id() {
    let house = House::new().await;
    for path in ["/api/requests/", "/api/nothing/", "/api/docs/"] {
        let answer = house.get(Who::Nobody, path).await;
        assert_eq!(answer.header("x-frame-options"), "DENY");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "same-origin");
        assert_eq!(answer.header("cross-origin-opener-policy"), "same-origin");
        assert_eq!(answer.header("vary"), "Cookie, origin");
        assert!(answer.header("x-request-id").parse::<RequestId>().is_ok());
    }
    let own = Request::get("/api/schema/").header("x-request-id", "trace-7").body(Body::empty()).unwrap();
    assert_eq!(house.send(own).await.header("x-request-id"), "trace-7");
    let odd = Request::get("/api/schema/").header("x-request-id", "a b").body(Body::empty()).unwrap();
    assert_ne!(house.send(odd).await.header("x-request-id"), "a b");
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_refused_in_json() {
    let house = House::with(|state| state.with_body_limit(1000)).await;
    let send = async |content_type: &str, body: &str| {
        let request = Request::post("/api/chat/").header("x-api-key", house.key(Who::Admin));
        let request = request.header("content-type", content_type).body(Body::from(body.to_owned()));
        house.send(request.unwrap()).await
    };
    let answer = send("application/json", "{nope").await;
    answer.has_status(400);
    assert!(answer.body["detail"].as_str().unwrap().starts_with("JSON parse error - "), "{}", answer.text);
    let list = "Invalid data. Expected a dictionary, but got list.";
    send("application/json", "[]").await.is(400, json!({"non_field_errors": [list]}));
    let form = "Unsupported media type \"application/x-www-form-urlencoded\" in request.";
    send("application/x-www-form-urlencoded", "a=b").await.is(415, json!({ "detail": form }));
    send("application/json; charset=utf-8", "{}").await.has_status(400);
    let too_large = "The body is larger than the 1000 bytes that this server takes.";
    send("application/json", &"x".repeat(1001)).await.is(413, json!({ "detail": too_large }));

    // A body without a declared length is counted while it comes.
    let chunks = futures::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>("x".repeat(100))));
    let request = Request::post("/api/chat/").header("x-api-key", house.key(Who::Admin));
    let request = request.header("content-type", "application/json").body(Body::from_stream(chunks)).unwrap();
    house.send(request).await.is(413, json!({ "detail": too_large }));
}

#[tokio::test]
async fn uses_of_a_key_are_noted_once_a_minute() {
    let house = House::new().await;
    let last_used = async || {
        let keys = house.spine.store.api_keys(&samples::tenant()).await.unwrap();
        keys.into_iter().find(|key| key.role == Role::Observer).unwrap().last_used_at
    };
    assert_eq!(last_used().await, None);
    house.get(Who::Observer, "/api/runs/").await;
    let first = last_used().await.unwrap();
    house.spine.clock.advance(Duration::from_secs(59));
    house.get(Who::Observer, "/api/runs/").await;
    assert_eq!(last_used().await, Some(first));
    house.spine.clock.advance(Duration::from_secs(1));
    house.get(Who::Observer, "/api/runs/").await;
    assert!(last_used().await.unwrap() > first);
}

#[tokio::test]
async fn keys_are_made_shown_once_and_revoked() {
    let house = House::new().await;
    let made = house.post(Who::Admin, "/api/api-keys/", json!({"name": " ci ", "role": "observer"})).await;
    made.has_status(201);
    let (id, key) = (made.body["id"].as_str().unwrap(), made.body["key"].as_str().unwrap());
    assert_eq!(made.header("location"), format!("/api/api-keys/{id}/"));
    assert_eq!((&made.body["name"], &made.body["role"]), (&json!("ci"), &json!("observer")));
    assert!(key.starts_with("afk_") && key.len() == 47);

    let list = house.get(Who::Admin, "/api/api-keys/").await;
    assert!(!list.text.contains(key) && !list.text.contains("hash"));
    let with_key = || Request::get("/api/runs/").header("x-api-key", key).body(Body::empty()).unwrap();
    house.send(with_key()).await.has_status(200);
    house.call(Who::Admin, "DELETE", &format!("/api/api-keys/{id}/"), None).await.has_status(204);
    house.send(with_key()).await.is(401, json!({"detail": "Invalid API key"}));

    house.post(Who::Admin, "/api/api-keys/", json!({})).await.is(400, json!({"name": ["This field is required."]}));
    let root = json!({"name": "x", "role": "root"});
    let not_a_role = json!({"role": ["\"root\" is not a valid choice."]});
    house.post(Who::Admin, "/api/api-keys/", root).await.is(400, not_a_role);
}

/// Makes a key as the admin does, and returns it.
async fn made(house: &House, extra: serde_json::Value) -> (String, serde_json::Value) {
    let mut body = json!({"name": "ci", "role": "maintainer"});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let made = house.post(Who::Admin, "/api/api-keys/", body).await;
    made.has_status(201);
    (made.body["key"].as_str().unwrap().to_owned(), made.body)
}

/// Calls with a key, and with a body if it is a POST.
async fn with_key(house: &House, key: &str, method: &str, path: &str, body: serde_json::Value) -> Answer {
    let request = Request::builder().method(method).uri(path).header("x-api-key", key);
    let request = request.header("content-type", "application/json");
    house.send(request.body(Body::from(body.to_string())).unwrap()).await
}

#[tokio::test]
async fn a_key_may_be_for_a_part_of_what_its_role_allows() {
    let house = House::new().await;
    let (key, shown) = made(&house, json!({"scopes": ["read", "cancel"]})).await;
    assert_eq!(shown["scopes"], json!(["read", "cancel"]));
    assert!(shown["prefix"].as_str().is_some_and(|prefix| prefix.len() == 12 && key.starts_with(prefix)));
    with_key(&house, &key, "GET", "/api/requests/", json!({})).await.has_status(200);
    let refused = with_key(&house, &key, "POST", "/api/requests/", json!({"prompt": "x"})).await;
    refused.is(403, json!({"detail": "your key is not for this; it needs the scope `submit`"}));

    let (_, shown) = made(&house, json!({})).await;
    assert_eq!((&shown["scopes"], &shown["expires_at"]), (&json!(null), &json!(null)));
    for (scopes, mistake) in [
        (json!([]), json!(["A key that is for nothing opens nothing; name something, or leave this field out."])),
        (json!(["read", "root"]), json!({"1": ["\"root\" is not a valid choice."]})),
        (json!("read"), json!(["Expected a list of items but got type \"str\"."])),
    ] {
        let refused = house.post(Who::Admin, "/api/api-keys/", json!({"name": "x", "scopes": scopes})).await;
        refused.is(400, json!({ "scopes": mistake }));
    }
}

#[tokio::test]
async fn a_key_for_keys_makes_none_that_is_for_more() {
    let house = House::new().await;
    let (key, _) = made(&house, json!({"role": "admin", "scopes": ["manage_keys", "read"]})).await;
    let mistake = json!({"scopes": ["Your own key is for less than that; it can make keys for: read manage_keys"]});
    for scopes in [json!({}), json!({"scopes": ["read", "submit"]})] {
        let mut body = json!({"name": "x", "role": "admin"});
        body.as_object_mut().unwrap().extend(scopes.as_object().unwrap().clone());
        with_key(&house, &key, "POST", "/api/api-keys/", body).await.is(400, mistake.clone());
    }
    let body = json!({"name": "x", "scopes": ["read"]});
    with_key(&house, &key, "POST", "/api/api-keys/", body).await.has_status(201);
}

#[tokio::test]
async fn a_key_ends_when_its_time_has_come() {
    let house = House::new().await;
    let end = house.spine.clock.now() + chrono::TimeDelta::minutes(10);
    let (key, _) = made(&house, json!({"expires_at": end.to_rfc3339()})).await;
    house.spine.clock.advance(Duration::from_secs(599));
    with_key(&house, &key, "GET", "/api/requests/", json!({})).await.has_status(200);
    house.spine.clock.advance(Duration::from_secs(1));
    let over = with_key(&house, &key, "GET", "/api/requests/", json!({})).await;
    assert_eq!(over.has_status(401)["code"], "key_expired");
    assert!(over.headers.contains_key("www-authenticate"));

    let past = house.post(Who::Admin, "/api/api-keys/", json!({"name": "x", "expires_at": end.to_rfc3339()})).await;
    assert!(past.has_status(400)["expires_at"][0].as_str().unwrap().contains("is over already"));
    let odd = house.post(Who::Admin, "/api/api-keys/", json!({"name": "x", "expires_at": "tomorrow"})).await;
    assert!(odd.has_status(400)["expires_at"][0].as_str().unwrap().contains("2030-01-31T12:00:00Z"));
}

#[tokio::test]
async fn a_key_that_ends_makes_none_that_outlives_it() {
    let house = House::new().await;
    let end = house.spine.clock.now() + chrono::TimeDelta::minutes(10);
    let (key, shown) = made(&house, json!({"role": "admin", "expires_at": end.to_rfc3339()})).await;
    let usual = with_key(&house, &key, "POST", "/api/api-keys/", json!({"name": "x"})).await;
    assert_eq!(usual.has_status(201)["expires_at"], shown["expires_at"], "it ends as soon, unless it says sooner");
    let later = json!({"name": "x", "expires_at": (end + chrono::TimeDelta::seconds(1)).to_rfc3339()});
    let refused = with_key(&house, &key, "POST", "/api/api-keys/", later).await;
    assert!(refused.has_status(400)["expires_at"][0].as_str().unwrap().contains("outlives"));
}

#[tokio::test]
async fn the_last_admin_key_cannot_be_revoked() {
    let house = House::new().await;
    let keys = house.get(Who::Admin, "/api/api-keys/").await.body;
    let admin = keys.as_array().unwrap().iter().find(|key| key["role"] == "admin").unwrap();
    let path = format!("/api/api-keys/{}/", admin["id"].as_str().unwrap());
    house.call(Who::Admin, "DELETE", &path, None).await.has_status(409);
    // One that is for something else, or ends soon, does not stand in for it.
    made(&house, json!({"role": "admin", "scopes": ["manage_keys"]})).await;
    let soon = house.spine.clock.now() + chrono::TimeDelta::minutes(10);
    made(&house, json!({"role": "admin", "expires_at": soon.to_rfc3339()})).await;
    house.call(Who::Admin, "DELETE", &path, None).await.has_status(409);
    house.post(Who::Admin, "/api/api-keys/", json!({"name": "second", "role": "admin"})).await.has_status(201);
    house.call(Who::Admin, "DELETE", &path, None).await.has_status(204);
    house.get(Who::Admin, "/api/api-keys/").await.has_status(401);
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_answered() {
    let house = House::with(|state| state.with_timeout(Duration::ZERO)).await;
    // A body that never comes.
    let request = Request::post("/api/chat/").header("x-api-key", house.key(Who::Admin));
    let request = request.header("content-type", "application/json");
    let body = Body::from_stream(futures::stream::pending::<Result<&str, std::io::Error>>());
    let answer = house.send(request.body(body).unwrap()).await;
    assert!(answer.has_status(503)["detail"].as_str().unwrap().contains("did not finish"));
}

#[tokio::test]
async fn a_panic_is_answered_in_json() {
    use astraforge_core::{BoxError, command::GeneratePlan, forge::Forge, forge::Settings, request::Plan};
    let house = House::new().await;
    let broken = tower::util::BoxCloneSyncService::new(tower::service_fn(|_: GeneratePlan| async {
        if true {
            panic!("a layer of an embedder's own");
        }
        Err::<Plan, BoxError>("unreachable".into())
    }));
    let forge = Forge::builder(house.spine.ports(Settings::default())).with_plan(broken).build();
    let app = astraforge_http::router(astraforge_http::AppState::builder(forge).build());
    let house = House { app, ..house };
    let answer = house.post(Who::Admin, "/api/requests/plan/", json!({"request_id": RunId::random()})).await;
    answer.is(500, json!({"detail": "Something of ours broke; the server's log has details."}));
    assert!(answer.headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn what_lies_outside_the_api_is_the_embedders() {
    let house = House::new().await;
    let app = house.app.clone().fallback(|| async { "the embedder's own page" });
    let house = House { app, ..house };
    assert_eq!(house.get(Who::Nobody, "/").await.text, "the embedder's own page");
    assert_eq!(house.get(Who::Nobody, "/apis").await.text, "the embedder's own page");
    house.get(Who::Nobody, "/api/nothing").await.is(404, json!({"detail": "Not found."}));
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_has_paths_and_ids_but_no_keys_prompts_or_tokens() {
    let house = House::new().await;
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::TRACE);
    let guard = tracing::subscriber::set_default(subscriber.with_writer(move || writer.clone()).finish());
    let prompt = json!({"prompt": "the-secret-prompt", "project_id": house.spine.link.id});
    let answer = house.post(Who::Maintainer, "/api/requests/?also=the-secret-query", prompt).await;
    answer.has_status(201);
    let link = json!({"provider": "local", "repository": "x", "access_token": "the-secret-token"});
    house.post(Who::Maintainer, "/api/repository-links/", link).await.has_status(201);
    drop(guard);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("/api/requests/") && text.contains("status=201") && text.contains("Maintainer"), "{text}");
    assert!(text.contains(answer.header("x-request-id")), "{text}");
    assert!(!text.contains("the-secret") && !text.contains(house.key(Who::Maintainer)), "{text}");
}
