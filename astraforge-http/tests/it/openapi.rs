//! The OpenAPI document.

use astraforge_core::event::EventKind;
use astraforge_http::server::Need;
use serde_json::{Value, json};

use crate::house::{House, Who};

fn document() -> Value {
    serde_json::to_value(astraforge_http::server::openapi()).unwrap()
}

#[test]
fn the_committed_document_is_the_served_one() {
    let committed: Value = serde_json::from_str(include_str!("../../openapi.json")).unwrap();
    let renew = "cargo run -p astraforge-http --example openapi > astraforge-http/openapi.json";
    assert!(document() == committed, "the API has changed; look at it, then renew the committed document:\n{renew}");
}

#[test]
fn the_document_is_openapi_3_1_and_complete() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let schemes = &document["components"]["securitySchemes"];
    assert_eq!(schemes["api_key"]["name"], "X-Api-Key");
    assert_eq!(schemes["bearer"]["scheme"], "bearer");
    assert_eq!(schemes["token"]["bearerFormat"], "JWT");
    let mut ids = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let here = format!("{method} {path}");
            assert!(operation["summary"].is_string(), "{here} has no summary");
            ids.push(operation["operationId"].as_str().unwrap().to_owned());
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(parameter["description"].is_string(), "{here}: {parameter}");
                let is_in_path = path.contains(&format!("{{{}}}", parameter["name"].as_str().unwrap()));
                assert_eq!(parameter["in"] == "path", is_in_path, "{here}: {parameter}");
            }
            for (status, answer) in operation["responses"].as_object().unwrap() {
                assert!(answer["description"].as_str().is_some_and(|text| !text.is_empty()), "{here} {status}");
            }
        }
    }
    assert_eq!(ids.len(), 100, "{ids:?}");
    let n = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), n, "each operation has an id of its own");
}

#[test]
fn keys_of_calls_and_limits_are_described_on_all_routes_that_have_them() {
    let (mut with_key, mut without_limit) = (0, Vec::new());
    for (path, item) in document()["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let named = |parameter: &Value| parameter["name"] == "Idempotency-Key";
            let has_key = operation["parameters"].as_array().is_some_and(|all| all.iter().any(named));
            let is_open = operation["security"] == json!([{}]);
            assert_eq!(has_key, method != "get" && !is_open, "{method} {path}");
            if has_key {
                with_key += 1;
                let conflict = operation["responses"]["409"]["description"].as_str().unwrap();
                assert!(conflict.contains("`idempotency_key_reused`"), "{method} {path}: {conflict}");
            }
            if operation["responses"]["429"]["headers"]["Retry-After"].is_null() {
                without_limit.push(path.clone());
            }
        }
    }
    assert!(with_key > 30, "{with_key}");
    without_limit.sort();
    let link = "/api/sandbox/artifacts/{id}/download/";
    let open = [
        "/api/auth/csrf/",
        "/api/auth/methods/",
        "/api/docs/",
        link,
        "/api/schema/",
        "/healthz",
        "/metrics",
        "/readyz",
    ];
    assert_eq!(without_limit, open);
}

#[test]
fn two_schemas_of_one_name_do_not_hide_each_other() {
    let document = document();
    let has = |schema: &str, field: &str| {
        assert!(document["components"]["schemas"][schema]["properties"][field].is_object(), "{schema}.{field}");
    };
    has("UsageView", "input_tokens");
    has("SandboxUsage", "cpu_seconds");
    has("ExecutionView", "diff");
    has("SandboxExecution", "id");
}

#[test]
fn every_reference_leads_somewhere_and_every_field_is_explained() {
    let document = document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 30);
    for reference in references {
        let name = reference.strip_prefix("#/components/schemas/").unwrap();
        assert!(schemas.contains_key(name), "{reference}");
    }
    for (name, schema) in schemas {
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            // A field of another schema's type is explained beside the reference, or by that schema.
            let explained = property.to_string().contains("\"description\":\"") || property.get("$ref").is_some();
            assert!(explained, "{name}.{field}: {property}");
        }
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            references.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
            object.values().for_each(|value| collect(value, references));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
        _ => {}
    }
}

#[test]
fn every_event_fits_its_schema() {
    let document = document();
    let fields = document["components"]["schemas"]["RunEvent"]["properties"].as_object().unwrap();
    let text = || "x".to_owned();
    let error = EventKind::Error { stage: Some(text()), message: text(), output: Some(text()), exit_code: Some(1) };
    for kind in [
        EventKind::UserPrompt { message: text() },
        EventKind::status("clone", "x"),
        EventKind::Command { command: text(), cwd: Some(text()) },
        EventKind::log("x"),
        error,
        EventKind::assistant_message("x"),
        EventKind::Completed { message: text() },
        EventKind::Cancelled { message: text() },
    ] {
        for field in serde_json::to_value(kind).unwrap().as_object().unwrap().keys() {
            assert!(fields.contains_key(field), "{field}");
        }
    }
}

#[tokio::test]
async fn the_document_and_its_page_are_open_to_all() {
    let house = House::new().await;
    house.get(Who::Nobody, "/api/schema/").await.is(200, document());
    let page = house.get(Who::Nobody, "/api/docs/").await;
    page.has_status(200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    house.get(Who::Nobody, "/healthz").await.is(200, json!({"status": "ok"}));
    house.get(Who::Nobody, "/readyz").await.is(200, json!({"status": "ok"}));
}

#[tokio::test]
async fn readiness_tells_of_the_parts_of_a_server() {
    let wrong = || Err("it is away".to_owned());
    let house = House::with(move |state| {
        state.with_part("bus", Need::Helps, wrong).with_part("sandboxes", Need::Needed, || Ok(()))
    })
    .await;
    let degraded = json!({"status": "degraded", "trouble": {"bus": "it is away"}});
    house.get(Who::Nobody, "/readyz").await.is(200, degraded);
    let house = House::with(move |state| state.with_part("sandboxes", Need::Needed, wrong)).await;
    let unready = json!({"status": "sandboxes: it is away", "trouble": {"sandboxes": "it is away"}});
    house.get(Who::Nobody, "/readyz").await.is(503, unready);
}
