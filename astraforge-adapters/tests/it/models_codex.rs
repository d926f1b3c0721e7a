//! The demonstration's scenario, played to the real Codex CLI.
//!
//! Set `ASTRAFORGE_TEST_CODEX` to the path of a `codex` binary to run these; without it they are skipped aloud.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a failing test is what these are for")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use astraforge_adapters::models::ScriptedUpstream;
use astraforge_core::ports::model::{Endpoint, ModelCall, ModelUpstream as _};
use tokio::process::Command;

use crate::models_server::Server;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/demo")
}

fn codex() -> Option<PathBuf> {
    let path = std::env::var_os("ASTRAFORGE_TEST_CODEX").map(PathBuf::from);
    match &path {
        None => eprintln!("SKIPPED: set ASTRAFORGE_TEST_CODEX to a codex binary to run this test"),
        Some(path) => assert!(path.exists(), "ASTRAFORGE_TEST_CODEX names {}, which is not there", path.display()),
    }
    path
}

/// What a run left behind.
struct Ran {
    folder: tempfile::TempDir,
    events: String,
    last_message: String,
    n_calls: u64,
}

impl Ran {
    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.path().join("workspace").join(file)).unwrap()
    }
}

/// Runs Codex in a copy of the demonstration's repository, after `edit` changed it.
async fn run(codex: &Path, prompt: &str, edit: impl FnOnce(&Path)) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    let (home, workspace) = (folder.path().join("home"), folder.path().join("workspace"));
    fs::create_dir(&home).unwrap();
    copy(&demo().join("repository"), &workspace);
    edit(&workspace);

    let upstream = ScriptedUpstream::from_path(demo().join("scenario.json")).unwrap();
    let player = upstream.clone();
    let server = Server::start(move |request| {
        let player = player.clone();
        async move {
            let call = ModelCall { endpoint: Endpoint::Responses, headers: vec![], body: request.body };
            Some(player.call(call).await.unwrap())
        }
    })
    .await;
    fs::write(home.join("models.json"), CATALOGUE).unwrap();
    fs::write(home.join("config.toml"), config(&home, &server.url)).unwrap();

    let last = folder.path().join("last.txt");
    let child = Command::new(codex)
        .args([
            "exec",
            "--json",
            "--strict-config",
            "--skip-git-repo-check",
            "--dangerously-bypass-approvals-and-sandbox",
        ])
        .arg("-C")
        .arg(&workspace)
        .arg("-o")
        .args([last.as_os_str(), prompt.as_ref()])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", &home)
        .env("CODEX_HOME", &home)
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), child).await.unwrap().unwrap();
    let events = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{events}\n{}", String::from_utf8_lossy(&output.stderr));
    Ran { last_message: fs::read_to_string(last).unwrap(), folder, events, n_calls: upstream.n_calls() }
}

const CATALOGUE: &str = r#"{"models":[{"slug":"run-model","display_name":"Run model","supported_reasoning_levels":[],
    "shell_type":"unified_exec","visibility":"list","supported_in_api":true,"priority":1,"support_verbosity":false,
    "truncation_policy":{"mode":"tokens","limit":10000},"experimental_supported_tools":[],
    "apply_patch_tool_type":"freeform","base_instructions":"You are a coding agent."}]}"#;

fn config(home: &Path, url: &str) -> String {
    format!(
        r#"
model = "run-model"
model_provider = "runproxy"
model_catalog_json = "{}/models.json"
approval_policy = "never"
sandbox_mode = "danger-full-access"
web_search = "disabled"
check_for_update_on_startup = false
allow_login_shell = false
[model_providers.runproxy]
name = "Run proxy"
base_url = "{url}/v1"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
[features]
plugins = false
goals = false
unbounded_connection_retries = false
[analytics]
enabled = false
[agents]
enabled = false
[skills.bundled]
enabled = false
"#,
        home.display()
    )
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        if from.is_dir() { copy(&from, &to) } else { fs::copy(from, to).map(drop).unwrap() }
    }
}

#[tokio::test]
async fn codex_fixes_the_failing_test_of_the_demonstration() {
    let Some(codex) = codex() else { return };
    let ran = run(&codex, "A test fails. Find out why and fix it.", |_| {}).await;
    assert!(ran.last_message.contains("all 4 tests pass"), "{}\n{}", ran.last_message, ran.events);
    assert_eq!(ran.n_calls, 6);
    assert!(ran.read("src/duration.js").contains("rest >= unit.seconds"));
    assert!(ran.events.contains("file_change"), "{}", ran.events);
}

#[tokio::test]
async fn codex_says_so_when_the_tests_still_fail() {
    let Some(codex) = codex() else { return };
    let break_more = |workspace: &Path| {
        let test = workspace.join("test/duration.test.js");
        let text = fs::read_to_string(&test).unwrap() + "\ntest('two is three', () => assert.equal(2, 3));\n";
        fs::write(test, text).unwrap();
    };
    let ran = run(&codex, "Fix the failing test.", break_more).await;
    assert!(ran.last_message.contains("not fixed: 1 of the tests"), "{}\n{}", ran.last_message, ran.events);
}

#[tokio::test]
async fn codex_leaves_a_sound_repository_alone() {
    let Some(codex) = codex() else { return };
    let fix = |workspace: &Path| {
        let source = workspace.join("src/duration.js");
        let text = fs::read_to_string(&source).unwrap().replace("rest > unit", "rest >= unit");
        fs::write(source, text).unwrap();
    };
    let ran = run(&codex, "Fix the failing test.", fix).await;
    assert!(ran.last_message.contains("All 4 tests pass already"), "{}\n{}", ran.last_message, ran.events);
    assert_eq!(ran.n_calls, 2);
}
