//! The contract's tables of routes, a call a line: what is sent, and the status, headers and body that come back.
//!
//! Where we differ on purpose the line has our answer, and `docs/api-compatibility.md` a row with the reason.

use axum::{body::Body, http::Request};
use serde_json::{Value, json};

use crate::{
    access::{furnish, house},
    house::{Answer, House, Who},
    operations::Things,
};

/// What answers are.
const JSON: (&str, &str) = ("content-type", "application/json");
const EVENTS: (&str, &str) = ("content-type", "text/event-stream");

/// A house and what is in it.
struct Table {
    house: House,
    things: Things,
}

impl Table {
    async fn new() -> Self {
        let house = house().await;
        let things = furnish(&house).await;
        Self { house, things }
    }

    /// The ids of what is there, for those that stand in braces.
    fn filled(&self, text: &str) -> String {
        let Things { request, run, merge_request, link, key, sandbox, snapshot, artifact } = &self.things;
        [
            ("{request}", request),
            ("{run}", run),
            ("{mr}", merge_request),
            ("{link}", link),
            ("{key}", key),
            ("{sandbox}", sandbox),
            ("{snapshot}", snapshot),
            ("{artifact}", artifact),
        ]
        .into_iter()
        .fold(text.to_owned(), |text, (name, id)| text.replace(name, id))
    }

    async fn call(&self, who: Who, line: &str, body: &Value) -> Answer {
        let line = self.filled(line);
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path);
        if who != Who::Nobody {
            request = request.header("x-api-key", self.house.key(who));
        }
        let request = match body {
            Value::Null => request.body(Body::empty()),
            Value::String(raw) => request.header("content-type", "text/plain").body(Body::from(raw.clone())),
            body => request.header("content-type", "application/json").body(Body::from(self.filled(&body.to_string()))),
        };
        self.house.send(request.unwrap()).await
    }

    /// Sends a call, and compares the answer.
    async fn check(&self, who: Who, line: &str, body: Value, status: u16, headers: &[(&str, &str)], shape: Value) {
        let answer = self.call(who, line, &body).await;
        assert_eq!(answer.status, status, "{line}: {}", answer.text);
        for (name, value) in headers {
            assert!(answer.header(name).starts_with(value), "{line}: {name}: {}", answer.header(name));
        }
        let shape: Value = serde_json::from_str(&self.filled(&shape.to_string())).unwrap();
        if let Err(place) = fits(&answer.body, &shape) {
            panic!("{line}: {place}: {} is not {shape}", answer.body);
        }
    }
}

/// Compares a value with a shape: `<text>`, `<uuid>`, `<time>`, `<number>`, `<list>`, `<object>`, `<any>` stand for all of
/// their kind, everything else for itself. Fields that a shape does not name are additive.
fn fits(value: &Value, shape: &Value) -> Result<(), String> {
    let fits_kind = |kind: &str| match kind {
        "<any>" => true,
        "<text>" => value.is_string(),
        "<number>" => value.is_number(),
        "<list>" => value.is_array(),
        "<object>" => value.is_object(),
        "<uuid>" => value.as_str().is_some_and(|text| uuid::Uuid::try_parse(text).is_ok() && text.len() == 36),
        "<time>" => value.as_str().is_some_and(|text| {
            // With microseconds, as `Z` or as an offset.
            chrono::DateTime::parse_from_rfc3339(text).is_ok() && text.get(19..20) == Some(".")
        }),
        text => value == text,
    };
    match shape {
        Value::String(kind) if fits_kind(kind) => Ok(()),
        Value::Object(fields) => fields.iter().try_for_each(|(name, shape)| {
            let field = value.get(name).ok_or_else(|| format!("{name} is not there"))?;
            fits(field, shape).map_err(|place| format!("{name}.{place}"))
        }),
        Value::Array(items) => {
            let list = value.as_array().filter(|list| list.len() == items.len()).ok_or("another length")?;
            list.iter().zip(items).try_for_each(|(value, shape)| fits(value, shape))
        }
        shape if value == shape => Ok(()),
        shape => Err(format!("{value} is not {shape}")),
    }
}

macro_rules! rows {
    ($table:expr; $($who:ident $line:literal, $body:tt => $status:literal $(, $name:literal: $value:literal)* => $shape:tt;)*) => { $(
        $table.check(Who::$who, $line, json!($body), $status, &[$(($name, $value)),*], json!($shape)).await;
    )* };
}

fn detail(text: &str) -> Value {
    json!({ "detail": text })
}

#[tokio::test]
async fn conventions_of_all_routes() {
    let table = Table::new().await;
    rows! { table;
        // Both forms of a path, without a redirect.
        Admin "GET /api/requests", null => 200, "content-type": "application/json" => "<list>";
        Admin "GET /api/requests/", null => 200, "content-type": "application/json" => "<list>";
        Admin "GET /api/runs/{run}", null => 200 => {"id": "{run}"};
        Admin "POST /api/chat", {"request_id": "{request}", "message": "go on"} => 202 => {"status": "received"};
        Admin "POST /api/sandbox/sessions", {} => 201 => {"status": "ready"};
        Admin "GET /api/runs/{run}/logs/stream/", null => 200, "content-type": "text/event-stream" => null;
        Admin "GET /api/sandbox/sessions.json", null => 200 => "<list>";
        Admin "GET /api/requests/{request}.json", null => 200 => {"id": "{request}"};
        Admin "GET /api/runs.json", null => 200 => "<list>";
        Admin "HEAD /api/requests/", null => 200 => null;
        // Who calls.
        Nobody "GET /api/requests/", null => 401, "www-authenticate": "Bearer", "content-type": "application/json" => {"detail": "Authentication credentials were not provided."};
        Nobody "POST /api/sandbox/sessions/", {} => 401, "www-authenticate": "Bearer" => {"detail": "Authentication credentials were not provided."};
        Nobody "GET /api/runs/{run}/logs/stream", null => 401, "www-authenticate": "Bearer", "content-type": "application/json" => {"detail": "Authentication credentials were not provided."};
        Observer "POST /api/requests/", {} => 403, "content-type": "application/json" => {"detail": "<text>"};
        Observer "POST /api/sandbox/sessions/", {} => 403 => {"detail": "<text>"};
        Maintainer "GET /api/api-keys/", null => 403 => {"detail": "<text>"};
        // What is not there, and what cannot be done.
        Admin "GET /api/nothing/", null => 404, "content-type": "application/json" => {"detail": "Not found."};
        Nobody "GET /api/nothing/", null => 404, "content-type": "application/json" => {"detail": "Not found."};
        Admin "PUT /api/requests/", {} => 405, "allow": "GET,HEAD,POST", "content-type": "application/json" => {"detail": "Method \"PUT\" not allowed."};
        Admin "PATCH /api/sandbox/sessions/", {} => 405, "allow": "GET,HEAD,POST" => {"detail": "Method \"PATCH\" not allowed."};
        Admin "DELETE /api/requests/{request}/", null => 405, "allow": "GET,HEAD" => {"detail": "Method \"DELETE\" not allowed."};
        // What cannot be read.
        Admin "POST /api/chat/", "a=b" => 415, "content-type": "application/json" => {"detail": "Unsupported media type \"text/plain\" in request."};
        Admin "POST /api/chat/", [] => 400 => {"non_field_errors": ["Invalid data. Expected a dictionary, but got list."]};
        Admin "POST /api/chat/", {} => 400 => {"request_id": ["This field is required."], "message": ["This field is required."]};
        Admin "POST /api/chat/", {"request_id": "x", "message": "", "unknown": 1} => 400 => {"request_id": ["Must be a valid UUID."], "message": ["This field may not be blank."]};
        Admin "POST /api/chat/", {"request_id": null, "message": true} => 400 => {"request_id": ["This field may not be null."], "message": ["Not a valid string."]};
        Admin "POST /api/requests/{request}/execute/", {"spec": {"title": "x", "risks": [""]}} => 400 => {"spec": {"summary": ["This field is required."], "risks": {"0": ["This field may not be blank."]}}};
    }
    let wrong = Request::get("/api/runs/").header("x-api-key", "wrong").body(Body::empty()).unwrap();
    let answer = table.house.send(wrong).await;
    answer.is(401, detail("Invalid API key"));
    assert!(answer.header("www-authenticate").starts_with("Bearer"));
    let broken = Request::post("/api/chat/").header("x-api-key", table.house.key(Who::Admin));
    let answer = table.house.send(broken.header(JSON.0, JSON.1).body(Body::from("{nope")).unwrap()).await;
    assert!(answer.has_status(400)["detail"].as_str().unwrap().starts_with("JSON parse error - "), "{}", answer.text);
}

#[tokio::test]
async fn routes_of_requests() {
    let table = Table::new().await;
    rows! { table;
        Admin "GET /api/", null => 200 => {"requests": "<text>", "chat": "<text>", "api-keys": "<text>", "repository-links": "<text>", "runs": "<text>", "merge-requests": "<text>", "sandbox/sessions": "<text>"};
        Nobody "GET /api/", null => 401 => {"detail": "<text>"};
        Nobody "GET /api/schema/", null => 200 => {"openapi": "<text>", "info": {"title": "AstraForge API"}};
        Nobody "GET /api/docs/", null => 200, "content-type": "text/html" => null;

        Admin "GET /api/requests/", null => 200 => [{"id": "{request}", "state": "REVIEWED"}];
        Admin "POST /api/requests/", {"prompt": "Cache the loader results", "project_id": "{link}"} => 201 => {"id": "<uuid>", "tenant_id": "acme", "source": "direct_user", "sender": "", "project": {"id": "{link}", "provider": "local", "repository": "acme/loader"}, "state": "RECEIVED", "payload": {"title": "Cache the loader results", "description": "Cache the loader results", "context": {}, "attachments": []}, "artifacts": {}, "metadata": {"prompt": "Cache the loader results", "project": "<object>", "chat_messages": [{"role": "user", "message": "Cache the loader results", "created_at": "<time>"}]}};
        Admin "POST /api/requests/", {"prompt": "x", "project_id": "{request}"} => 400 => {"project_id": ["Select a project linked to your account."]};
        Admin "POST /api/requests/", {"prompt": "", "project_id": "x", "sender": "x"} => 400 => {"prompt": ["This field may not be blank."], "project_id": ["Must be a valid UUID."], "sender": ["Enter a valid email address."]};
        Stranger "POST /api/requests/", [] => 403 => {"detail": "Link a project before submitting requests."};
        Admin "GET /api/requests/{request}/", null => 200 => {"id": "{request}", "created_at": "<time>", "updated_at": "<time>", "metadata": {"runs": "<list>", "spec": "<object>", "mr": "<object>", "execution": "<object>", "last_commit": "<text>"}};
        Admin "GET /api/requests/{run}/", null => 404 => {"detail": "Request {run} not found"};
        Stranger "GET /api/requests/{request}/", null => 404 => {"detail": "Request {request} not found"};
        Admin "GET /api/requests/7/", null => 404, "content-type": "application/json" => {"detail": "Request 7 not found"};

        Admin "POST /api/requests/{request}/execute/", {} => 202 => {"status": "queued"};
        Admin "POST /api/requests/{request}/execute/", {"spec": {"title": "x", "summary": "y", "risks": ["z"]}} => 202 => {"status": "queued"};
        Admin "POST /api/requests/{request}/execute/", null => 202 => {"status": "queued"};
        Admin "POST /api/requests/{run}/execute/", {} => 404 => {"detail": "Request {run} not found"};
        Admin "POST /api/requests/7/execute/", {} => 404 => {"detail": "Request 7 not found"};

        // Reachable, unlike in the original.
        Admin "POST /api/requests/plan/", {"request_id": "{run}"} => 404 => {"detail": "Request {run} not found"};
        Admin "POST /api/requests/plan/", {} => 400 => {"request_id": ["This field is required."]};
        Admin "POST /api/requests/execute/", {"request_id": "{run}"} => 404 => {"detail": "Request {run} not found"};
        Admin "GET /api/requests/plan/", null => 405, "allow": "POST" => {"detail": "Method \"GET\" not allowed."};
    }
    let planned = table.house.submit(json!({"start": "after_plan"})).await;
    let body = json!({ "request_id": planned });
    let plan = json!({"steps": [{"description": "<text>", "completed": false, "risk": null}], "summary": "<text>"});
    table.check(Who::Admin, "POST /api/requests/plan/", body.clone(), 200, &[], plan).await;
    table.check(Who::Admin, "POST /api/requests/execute/", body, 202, &[], json!({"status": "queued"})).await;
}

#[tokio::test]
async fn routes_of_conversations_runs_and_merge_requests() {
    let table = Table::new().await;
    rows! { table;
        Admin "GET /api/runs/", null => 200 => [{"id": "{run}", "request_id": "{request}", "request_title": "Cache the loader results", "status": "completed", "started_at": "<time>", "finished_at": "<time>", "diff_size": "<number>"}];
        Admin "GET /api/runs/{run}/", null => 200 => {"id": "{run}", "request_id": "{request}", "status": "completed", "diff_size": "<number>", "events": "<list>", "diff": "<text>", "reports": "<object>", "artifacts": "<object>"};
        Admin "GET /api/runs/{request}/", null => 404 => {"detail": "Run not found"};
        Stranger "GET /api/runs/{run}/", null => 404 => {"detail": "Run not found"};
        Admin "GET /api/runs/anything/", null => 404 => {"detail": "Run not found"};
        Admin "GET /api/runs/{request}/logs/stream", null => 200, "content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no" => null;
        Admin "GET /api/runs/{run}/logs/stream", null => 200, "content-type": "text/event-stream" => null;
        Admin "GET /api/runs/{link}/logs/stream", null => 404, "content-type": "application/json" => {"detail": "Request {link} not found"};
        Stranger "GET /api/runs/{request}/logs/stream", null => 404 => {"detail": "Request {request} not found"};
        Admin "GET /api/runs/7/logs/stream", null => 404, "content-type": "application/json" => {"detail": "Request 7 not found"};

        Admin "GET /api/merge-requests/", null => 200 => [{"id": "{mr}", "request_id": "{request}", "request_title": "Cache the loader results", "title": "<text>", "description": "<text>", "target_branch": "<text>", "source_branch": "<text>", "status": "OPEN", "ref": "<text>", "diff": "<text>", "created_at": "<time>"}];
        Admin "GET /api/merge-requests/{mr}/", null => 200 => {"id": "{mr}", "request_id": "{request}"};
        Admin "GET /api/merge-requests/{run}/", null => 404 => {"detail": "Merge request not found"};
        Admin "GET /api/merge-requests/9c1f0b7a44de2231/", null => 404 => {"detail": "Merge request not found"};
        Admin "POST /api/merge-requests/", {} => 405, "allow": "GET,HEAD" => {"detail": "Method \"POST\" not allowed."};

        Admin "POST /api/chat/", {"request_id": "{request}", "message": " go on "} => 202 => {"status": "received"};
        Admin "POST /api/chat/", {"request_id": "{run}", "message": "x"} => 404 => {"detail": "Request {run} not found"};
        Stranger "POST /api/chat/", {"request_id": "{request}", "message": "x"} => 404 => {"detail": "Request {request} not found"};
        Admin "GET /api/chat/", null => 405, "allow": "POST" => {"detail": "Method \"GET\" not allowed."};
        Admin "POST /api/chat/{run}/approve/", null => 404 => {"detail": "Request {run} not found"};
        Admin "POST /api/chat/anything/approve/", null => 404 => {"detail": "Request anything not found"};
    }
    let request = table.house.submit(json!({})).await;
    table.house.work().await;
    let approve = format!("POST /api/chat/{request}/approve/");
    table.check(Who::Reviewer, &approve, json!({}), 202, &[], json!({"status": "queued"})).await;
}

#[tokio::test]
async fn a_log_ends_when_nothing_more_is_queued_unless_its_reader_stays() {
    let table = Table::new().await;
    let log = table.call(Who::Admin, "GET /api/runs/{request}/logs/stream", &json!(null)).await;
    assert_eq!((log.status.as_u16(), log.header(EVENTS.0)), (200, EVENTS.1));
    let first = log.text.split("\n\n").next().unwrap();
    let handshake = format!(
        "event: message\ndata: {{\"request_id\": \"{}\", \"type\": \"heartbeat\", \"message\": \"stream_ready\"}}",
        table.things.request
    );
    let data =
        |frame: &str| serde_json::from_str::<Value>(frame.lines().nth(1).unwrap().strip_prefix("data:").unwrap());
    assert_eq!(data(first).unwrap(), data(&handshake).unwrap());
    assert!(
        log.text.contains("\"type\":\"completed\"") || log.text.contains("\"type\": \"completed\""),
        "{}",
        log.text
    );
    let stay = table.filled("/api/runs/{request}/logs/stream?follow=1");
    let request = Request::get(stay).header("x-api-key", table.house.key(Who::Admin)).body(Body::empty()).unwrap();
    let staying = tokio::time::timeout(std::time::Duration::from_millis(300), table.house.send(request));
    assert!(staying.await.is_err(), "it stays open");
}

#[tokio::test]
async fn routes_of_links_keys_and_people() {
    let table = Table::new().await;
    rows! { table;
        Admin "GET /api/repository-links/", null => 200 => [{"id": "{link}", "provider": "local", "repository": "acme/loader", "token_preview": "<any>", "created_at": "<time>", "updated_at": "<time>"}];
        Admin "POST /api/repository-links/", {"provider": "local", "repository": " new ", "access_token": "secret-9f3c"} => 201 => {"id": "<uuid>", "provider": "local", "repository": "new", "token_preview": "***9f3c", "created_at": "<time>"};
        Admin "POST /api/repository-links/", {"provider": "local", "repository": "new"} => 400 => {"repository": ["local repository \"new\" is linked already."]};
        Admin "POST /api/repository-links/", {"provider": "bitbucket"} => 400 => {"provider": "<list>"};
        Admin "POST /api/repository-links/", {"provider": "local", "repository": " "} => 400 => {"repository": ["This field may not be blank."]};
        Admin "POST /api/repository-links/", {} => 400 => {"provider": ["This field is required."], "repository": ["This field is required."]};
        Admin "GET /api/repository-links/{link}/", null => 200 => {"id": "{link}"};
        Admin "DELETE /api/repository-links/{run}/", null => 404 => {"detail": "No RepositoryLink matches the given query."};
        Stranger "DELETE /api/repository-links/{link}/", null => 404 => {"detail": "No RepositoryLink matches the given query."};
        Admin "DELETE /api/repository-links/7/", null => 404 => {"detail": "Not found."};
        Admin "DELETE /api/repository-links/{link}/", null => 204 => null;
        Admin "DELETE /api/repository-links/{link}/", null => 404 => {"detail": "No RepositoryLink matches the given query."};

        Admin "GET /api/api-keys/", null => 200 => "<list>";
        Admin "POST /api/api-keys/", {"name": "ci"} => 201 => {"id": "<uuid>", "name": "ci", "created_at": "<time>", "last_used_at": null, "is_active": true, "key": "<text>"};
        Admin "POST /api/api-keys/", {} => 400 => {"name": ["This field is required."]};
        Admin "DELETE /api/api-keys/{run}/", null => 404 => {"detail": "API key not found"};
        Admin "DELETE /api/api-keys/7/", null => 404 => {"detail": "API key not found"};
        Admin "DELETE /api/api-keys/{key}/", null => 204 => null;
        Admin "GET /api/api-keys/{key}/", null => 405, "allow": "DELETE" => {"detail": "Method \"GET\" not allowed."};

        Nobody "GET /api/auth/csrf/", null => 204, "set-cookie": "csrftoken=" => null;
        Nobody "GET /api/auth/me/", null => 401 => {"detail": "Authentication credentials were not provided."};
        Nobody "POST /api/auth/logout/", {} => 401 => {"detail": "Authentication credentials were not provided."};
        Admin "GET /api/auth/me/", null => 200 => {"username": "Admin", "email": ""};
        Admin "POST /api/auth/logout/", {} => 204 => null;
    }
}

#[tokio::test]
async fn routes_of_sandboxes() {
    let table = Table::new().await;
    let no_session = detail("No SandboxSession matches the given query.");
    rows! { table;
        Admin "GET /api/sandbox/sessions/", null => 200 => [{"id": "{sandbox}", "status": "ready"}];
        Admin "POST /api/sandbox/sessions/", {} => 201, "location": "" => {"id": "<uuid>", "mode": "<text>", "status": "ready", "ref": "<text>", "control_endpoint": "<text>", "workspace_path": "/workspace", "idle_timeout_sec": 300, "max_lifetime_sec": 3600, "last_activity_at": "<time>", "last_heartbeat_at": "<time>", "expires_at": "<time>", "error_message": "", "metadata": "<object>", "snapshot_ids": [], "artifacts_count": 0, "created_at": "<time>", "updated_at": "<time>"};
        Admin "POST /api/sandbox/sessions/", {"id": "{sandbox}", "unknown": 1} => 200 => {"id": "{sandbox}"};
        Admin "POST /api/sandbox/sessions/", {"mode": "toaster"} => 400 => {"mode": "<list>"};
        Admin "POST /api/sandbox/sessions/", {"image": "", "idle_timeout_sec": 59} => 400 => {"image": ["This field may not be blank."], "idle_timeout_sec": ["Ensure this value is greater than or equal to 60."]};
        Admin "POST /api/sandbox/sessions/", {"idle_timeout_sec": 400, "max_lifetime_sec": 300} => 400 => {"non_field_errors": ["idle_timeout_sec cannot exceed max_lifetime_sec"]};
        Admin "POST /api/sandbox/sessions/", {"restore_snapshot_id": "{run}"} => 404 => {"detail": "Snapshot not found"};
        Stranger "POST /api/sandbox/sessions/", {"id": "{sandbox}"} => 404 => {"detail": "No SandboxSession matches the given query."};
        Admin "GET /api/sandbox/sessions/{sandbox}/", null => 200 => {"id": "{sandbox}", "snapshot_ids": ["{snapshot}"], "artifacts_count": 1};
        Admin "GET /api/sandbox/sessions/7/", null => 404 => {"detail": "Not found."};
        Admin "POST /api/sandbox/sessions/{sandbox}/heartbeat/", {} => 200 => {"status": "ready", "last_heartbeat_at": "<time>"};
        Admin "POST /api/sandbox/sessions/{sandbox}/shell/", {} => 400 => {"command": ["This field is required."]};
        Admin "POST /api/sandbox/sessions/{sandbox}/exec/", {"command": 7} => 400 => {"command": ["Must be a string or list of strings"]};
        Admin "POST /api/sandbox/sessions/{sandbox}/exec/", {"command": "x", "timeout_sec": 0} => 400 => {"timeout_sec": ["Ensure this value is greater than or equal to 1."]};
        Admin "POST /api/sandbox/sessions/{sandbox}/upload/", {"path": "a", "content": "x"} => 200 => {"exit_code": 0, "stdout": "", "stderr": ""};
        Admin "POST /api/sandbox/sessions/{sandbox}/upload/", {} => 400 => {"path": ["This field is required."], "content": ["This field is required."]};
        Admin "POST /api/sandbox/sessions/{sandbox}/upload/", {"path": "a", "content": "!", "encoding": "base64"} => 400 => {"content": ["Invalid base64 content"]};
        Admin "POST /api/sandbox/sessions/{sandbox}/files/upload/?path=b", "bytes" => 200 => {"exit_code": 0, "stdout": "", "stderr": ""};
        Admin "POST /api/sandbox/sessions/{sandbox}/files/upload/", "bytes" => 400 => {"detail": "path is required"};
        Admin "GET /api/sandbox/sessions/{sandbox}/files/content/?path=a", null => 200, "content-type": "application/octet-stream", "content-disposition": "attachment; filename=\"a\"", "content-length": "1" => null;
        Admin "GET /api/sandbox/sessions/{sandbox}/files/content/", null => 400 => {"detail": "path is required"};
        Admin "GET /api/sandbox/sessions/{sandbox}/files/content/?path=nowhere", null => 400 => {"detail": "<text>"};
        Admin "POST /api/sandbox/sessions/{sandbox}/files/export/", {"path": "a", "filename": "", "content_type": ""} => 201 => {"id": "<uuid>", "filename": "a", "content_type": "application/octet-stream", "size_bytes": 1, "storage_path": "/workspace/a", "download_url": "<text>", "created_at": "<time>"};
        Admin "POST /api/sandbox/sessions/{sandbox}/files/export/", {"path": "nowhere"} => 400 => {"detail": "<text>"};
        Admin "GET /api/sandbox/sessions/{sandbox}/artifacts/", null => 200 => {"session_id": "{sandbox}", "artifacts": "<list>"};
        Admin "POST /api/sandbox/sessions/{sandbox}/snapshot/", {} => 201 => {"id": "<uuid>", "label": "", "include_paths": ["/workspace"], "exclude_paths": [], "created_at": "<time>"};
        Admin "POST /api/sandbox/sessions/{sandbox}/snapshots/", {"label": "x"} => 201 => {"id": "<uuid>", "label": "x"};
        Admin "GET /api/sandbox/sessions/{sandbox}/snapshots/", null => 200 => {"session_id": "{sandbox}", "snapshots": "<list>"};
        Admin "POST /api/sandbox/sessions/{sandbox}/input/mouse/", {"action": "scroll", "notches": 1} => 501 => {"detail": "<text>"};
        Admin "POST /api/sandbox/sessions/{sandbox}/input/keyboard/", {"text": "a"} => 501 => {"detail": "<text>"};
        Admin "GET /api/sandbox/sessions/{sandbox}/screenshot/", null => 501 => {"detail": "<text>"};
        Admin "GET /api/sandbox/sessions/{sandbox}/stream/view/", null => 501 => {"detail": "<text>"};
        Admin "POST /api/sandbox/sessions/{sandbox}/stop/", {} => 204 => null;
        Admin "POST /api/sandbox/sessions/{sandbox}/heartbeat/", {} => 200 => {"status": "terminated"};
        Admin "DELETE /api/sandbox/sessions/{sandbox}", null => 204 => null;
        Admin "DELETE /api/sandbox/sessions/{sandbox}/", null => 204 => null;
        Admin "GET /api/sandbox/sessions/{sandbox}/", null => 404 => {"detail": "No SandboxSession matches the given query."};

        Admin "POST /api/deepagent/conversations/", {} => 501, "content-type": "application/json" => {"detail": "<text>", "code": "not_supported"};
        Admin "POST /api/deepagent/conversations/{sandbox}/messages/", {} => 501, "content-type": "application/json" => {"detail": "<text>", "code": "not_supported"};
        Admin "GET /api/deepagent/conversations/", null => 405, "allow": "POST" => {"detail": "Method \"GET\" not allowed."};
    }
    for rest in ["", "artifacts/", "snapshots/", "files/content/?path=a", "screenshot/"] {
        let line = format!("GET /api/sandbox/sessions/{{run}}/{rest}");
        table.check(Who::Admin, &line, json!(null), 404, &[JSON], no_session.clone()).await;
    }
    for (rest, body) in [
        ("stop/", json!({})),
        ("heartbeat/", json!({})),
        ("shell/", json!({"command": "true"})),
        ("exec/", json!({"command": ["true"]})),
        ("upload/", json!({"path": "a", "content": "x"})),
        ("files/upload/?path=a", json!("bytes")),
        ("files/export/", json!({"path": "a"})),
        ("snapshot/", json!({})),
        ("snapshots/", json!({})),
    ] {
        let line = format!("POST /api/sandbox/sessions/{{run}}/{rest}");
        table.check(Who::Admin, &line, body, 404, &[JSON], no_session.clone()).await;
    }
}
