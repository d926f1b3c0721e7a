//! With a key: OpenAI's own protocol, spoken to a server on this machine.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use astraforge_adapters::models::ScriptedUpstream;
use astraforge_core::ports::model::{Endpoint, ModelCall, ModelUpstream};
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, Response},
    routing::post,
};
use serde_json::{Value, json};

use crate::world::{World, codex, say, shell, step};

const KEY: &str = "sk-test-0123456789abcdefghijklmnop";

/// What stands for OpenAI, and the keys it was shown.
#[derive(Clone)]
struct Provider {
    model: ScriptedUpstream,
    keys: Arc<Mutex<Vec<String>>>,
}

async fn responses(State(provider): State<Provider>, headers: HeaderMap, body: axum::body::Bytes) -> Response<Body> {
    let key = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    provider.keys.lock().unwrap().push(key);
    let call = ModelCall { endpoint: Endpoint::Responses, headers: Vec::new(), body };
    let answer = provider.model.call(call).await.unwrap();
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    response.body(Body::from_stream(answer.body)).unwrap()
}

async fn provider(steps: &[Value]) -> (String, Provider) {
    let scenario = json!({ "name": "provider", "steps": steps }).to_string();
    let provider = Provider { model: ScriptedUpstream::from_json(&scenario).unwrap(), keys: Arc::default() };
    let app = Router::new().route("/v1/responses", post(responses)).with_state(provider.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, provider)
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.flat_map(|it| if it.path().is_dir() { files(&it.path()) } else { vec![it.path()] }).collect()
}

#[tokio::test]
async fn a_key_is_all_that_a_run_on_ones_own_clone_needs() {
    let finding = json!({ "findings": [{ "file": "made", "line": 1, "severity": "warning", "message": "say more" }] });
    let (url, provider) = provider(&[
        json!({ "when": { "text_matches": "findings" }, "answer": say(&finding.to_string()) }),
        step(0, shell("echo made > made; env | grep -c sk-test; cat /proc/*/environ | grep -ac sk-test")),
        step(1, say("Done.")),
    ])
    .await;
    let world = World::without_server(Vec::new());
    let clone = world.make_repository("origin", |clone| fs::write(clone.join("README.md"), "# mine\n").unwrap());

    let mut command = tokio::process::Command::from(world.astraforge_with(&[
        "--openai-base-url",
        &url,
        "--codex",
        codex().to_str().unwrap(),
    ]));
    command.env("OPENAI_API_KEY", KEY).args(["run", "--yes", "--repo"]).arg(&clone).arg("Make it");
    let output = command.output().await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("Reviewed by rules, model: ") && told.contains("say more"), "{told}");

    let keys = provider.keys.lock().unwrap().clone();
    assert!(keys.len() >= 3 && keys.iter().all(|key| key == &format!("Bearer {KEY}")), "{keys:?}");
    assert!(!told.contains(KEY), "{told}");
    for file in files(&world.path("data")) {
        let bytes = fs::read(&file).unwrap_or_default();
        assert!(!bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes()), "the key is in {}", file.display());
    }
}

#[tokio::test]
async fn without_a_model_a_run_says_what_is_missing() {
    let world = World::without_server(Vec::new());
    let clone = world.make_repository("origin", |clone| fs::write(clone.join("README.md"), "# mine\n").unwrap());
    let mut command = world.astraforge_with(&["--codex", codex().to_str().unwrap()]);
    let output = command.args(["run", "--yes", "--repo"]).arg(&clone).arg("Make it").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("OPENAI_API_KEY"), "{error}");
}

#[tokio::test]
async fn without_codex_a_run_says_how_to_install_it_and_what_was_done_stays_visible() {
    let world = World::without_server(vec![step(0, say("never asked"))]);
    let clone = world.make_repository("origin", |clone| fs::write(clone.join("README.md"), "# mine\n").unwrap());
    let missing = ["--scenario", "scenario.json", "--codex", "/nowhere/codex"];
    let mut command = world.astraforge_with(&missing);
    let output =
        command.current_dir(world.scratch.path()).args(["run", "--repo"]).arg(&clone).arg("x").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("npm install -g @openai/codex"), "{error}");
    let mut command = world.astraforge_with(&missing);
    let listed = command.current_dir(world.scratch.path()).args(["requests", "--json"]).output().unwrap();
    assert!(listed.status.success() && String::from_utf8_lossy(&listed.stdout).contains("FAILED"), "{listed:?}");
}
