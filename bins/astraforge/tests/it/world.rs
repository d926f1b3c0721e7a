//! A server with a scripted model and a repository, as a process of its own.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use astraforge_core::{
    event::{EventKind, RunEvent},
    id::RequestId,
    request::RequestState,
    run::RunStatus,
};
use astraforge_http::{
    Client,
    wire::{
        repository_link::{EnvironmentBody, NewRepositoryLink},
        request::{NewRequest, RequestView},
        run::RunRecord,
    },
};
use futures::StreamExt;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Everything one test needs; ends with it.
pub(crate) struct World {
    pub(crate) scratch: TempDir,
    pub(crate) options: Vec<String>,
    server: Option<Child>,
    url: String,
    api_key: String,
}

/// A step of a scenario: when `n_calls` tool outputs are in the history, this is the answer.
pub(crate) fn step(n_calls: usize, answer: Value) -> Value {
    let when = if n_calls == 0 { json!({ "no_output_yet": true }) } else { json!({ "calls_made": n_calls }) };
    json!({ "when": when, "answer": answer })
}

/// An answer that runs a shell line in the workspace.
pub(crate) fn shell(line: &str) -> Value {
    let arguments = json!({ "cmd": line, "yield_time_ms": 30_000 });
    json!([{ "function_call": { "name": "exec_command", "arguments": arguments } }])
}

/// An answer in words.
pub(crate) fn say(text: &str) -> Value {
    json!([{ "message": text }])
}

/// A scenario whose agent runs one shell line, and then says that it is done.
pub(crate) fn one_command(line: &str) -> Vec<Value> {
    vec![step(0, shell(line)), step(1, say("Done."))]
}

impl World {
    /// A server that plays `steps`, and a repository `demo` with one file.
    pub(crate) fn new(steps: Vec<Value>) -> Self {
        let mut world = Self::without_server(steps);
        world.make_repository("demo", |clone| fs::write(clone.join("README.md"), "# demo\n").unwrap());
        world.start();
        world
    }

    /// The same, before anything runs.
    pub(crate) fn without_server(steps: Vec<Value>) -> Self {
        let scratch = TempDir::new().unwrap();
        let scenario = json!({ "name": "test", "steps": steps });
        fs::write(scratch.path().join("scenario.json"), scenario.to_string()).unwrap();
        fs::create_dir(scratch.path().join("repositories")).unwrap();
        let options = database().map_or_else(Vec::new, |url| vec![format!("--database-url={url}")]);
        Self { scratch, options, server: None, url: String::new(), api_key: String::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The program, set up like the server.
    pub(crate) fn astraforge(&self) -> Command {
        let scenario = self.path("scenario.json");
        self.astraforge_with(&["--scenario", scenario.to_str().unwrap(), "--codex", codex().to_str().unwrap()])
    }

    /// The program with these options, and the parts that every use of it needs.
    pub(crate) fn astraforge_with(&self, options: &[&str]) -> Command {
        let mut command = self.node(env!("CARGO_BIN_EXE_astraforge"), "data");
        command.args(options).args(&self.options);
        command
    }

    /// A program that is a node, with the data folder of that name.
    pub(crate) fn node(&self, program: &str, data: &str) -> Command {
        let mut command = self.program(program);
        command.arg("--data").arg(self.path(data)).arg("--repositories").arg(self.path("repositories"));
        command.arg("--guest").arg(built("ASTRAFORGE_GUEST", "guest/astraforge-guest", "guest"));
        command
    }

    /// A program that knows nothing of whoever runs the tests.
    pub(crate) fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.scratch.path());
        command
    }

    /// Where its server answers.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The first key of its server.
    pub(crate) fn api_key(&self) -> &str {
        &self.api_key
    }

    /// Asks this server from now on, with this key.
    pub(crate) fn is_served_at(&mut self, url: &str, api_key: &str) {
        (self.url, self.api_key) = (url.to_owned(), api_key.to_owned());
    }

    fn spawn(&self) -> Child {
        let mut command = self.astraforge();
        command.args(["up", "--json", "--listen", "127.0.0.1:0"]).process_group(0);
        let log = fs::File::options().create(true).append(true).open(self.path("server.log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap()
    }

    /// Starts the server, and kills it after a moment, wherever it is then.
    pub(crate) fn start_and_kill(&self, after: Duration) {
        let mut child = self.spawn();
        std::thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts the server.
    pub(crate) fn start(&mut self) {
        let mut child = self.spawn();
        let mut greeting = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut greeting).unwrap();
        self.server = Some(child);
        let greeting: Value =
            serde_json::from_str(&greeting).unwrap_or_else(|_| panic!("no greeting:\n{}", self.server_log()));
        self.url = greeting["url"].as_str().unwrap().to_owned();
        if let Some(key) = greeting["api_key"].as_str() {
            self.api_key = key.to_owned();
        }
    }

    /// Kills the server as a crash would: no signal that it could handle.
    pub(crate) fn kill(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// Tells the server to stop, and waits until it has.
    pub(crate) fn stop(&mut self) {
        let mut server = self.server.take().unwrap();
        let told = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap();
        assert!(told.success() && server.wait().unwrap().success());
    }

    pub(crate) fn client(&self) -> Client {
        // Every test installs it; the second time does nothing.
        _ = rustls::crypto::ring::default_provider().install_default();
        Client::new(&self.url, &self.api_key).unwrap()
    }

    /// Makes the bare repository `name`, with what `fill` puts into its first commit.
    pub(crate) fn make_repository(&self, name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
        let (clone, bare) = (self.path(&format!("clone-{name}")), self.bare(name));
        fs::create_dir_all(&clone).unwrap();
        git(&clone, &["init", "--quiet", "--initial-branch=main"]);
        fill(&clone);
        git(&clone, &["add", "--all"]);
        git(&clone, &["commit", "--quiet", "--message", "first"]);
        git(self.scratch.path(), &["clone", "--quiet", "--bare", clone.to_str().unwrap(), bare.to_str().unwrap()]);
        clone
    }

    pub(crate) fn bare(&self, name: &str) -> PathBuf {
        self.path(&format!("repositories/{name}.git"))
    }

    /// Submits a prompt for repository `demo`.
    pub(crate) async fn submit(&self, prompt: &str) -> RequestId {
        self.submit_for("demo", prompt, EnvironmentBody::default()).await
    }

    pub(crate) async fn submit_for(&self, repository: &str, prompt: &str, environment: EnvironmentBody) -> RequestId {
        let client = self.client();
        let mut link = NewRepositoryLink::new("local", repository);
        link.environment = Some(environment);
        let link = client.link_repository(&link).await.unwrap();
        client.submit(&NewRequest::new(link.id, prompt.parse().unwrap())).await.unwrap().id
    }

    /// Reads the log of a request to its end.
    pub(crate) async fn log(&self, request: RequestId) -> Vec<RunEvent> {
        let reading = async {
            let mut events = self.client().logs(request, 0);
            let mut log = Vec::new();
            while let Some(event) = events.next().await {
                log.push(event.unwrap());
            }
            log
        };
        let Ok(log) = tokio::time::timeout(Duration::from_secs(120), reading).await else {
            panic!("the run did not end:\n{}", self.server_log())
        };
        log
    }

    /// The log of a request whose runs have not ended.
    pub(crate) async fn events_so_far(&self, request: RequestId) -> Vec<RunEvent> {
        let request = self.client().request(request).await.unwrap();
        request.metadata.runs.unwrap_or_default().into_iter().flat_map(|run| run.events).collect()
    }

    /// Waits for the end of the request's runs, and returns the request.
    pub(crate) async fn finished(&self, request: RequestId) -> RequestView {
        self.log(request).await;
        self.client().request(request).await.unwrap()
    }

    /// Runs a prompt to its end; it must have worked.
    pub(crate) async fn patch_ready(&self, prompt: &str) -> RequestView {
        let request = self.submit(prompt).await;
        let request = self.finished(request).await;
        assert_eq!(request.state, RequestState::PatchReady, "{:?}", last_run(&request).error);
        request
    }

    /// Runs a prompt to its end; it must have failed. Returns why.
    pub(crate) async fn failure(&self, prompt: &str, environment: EnvironmentBody) -> String {
        let request = self.submit_for("demo", prompt, environment).await;
        let request = self.finished(request).await;
        let run = last_run(&request);
        assert_eq!((request.state, run.status), (RequestState::Failed, RunStatus::Failed), "{run:?}");
        run.error.clone().unwrap()
    }

    /// Waits until the merge request of a request is opened and reviewed.
    pub(crate) async fn reviewed(&self, request: RequestId) {
        for _ in 0..400 {
            if self.client().request(request).await.unwrap().state == RequestState::Reviewed {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the merge request was not opened and reviewed:\n{}", self.server_log());
    }

    /// What servers of this world have said.
    pub(crate) fn server_log(&self) -> String {
        fs::read_to_string(self.path("server.log")).unwrap_or_default()
    }

    /// The processes of this machine that belong to sandboxes of this world.
    pub(crate) fn sandbox_processes(&self) -> Vec<String> {
        self.sandbox_processes_of("data")
    }

    /// Those of the node with that data folder.
    fn sandbox_processes_of(&self, data: &str) -> Vec<String> {
        let mark = self.path(&format!("{data}/sandboxes"));
        let lines = processes();
        lines.into_iter().filter(|line| line.contains(mark.to_str().unwrap())).collect()
    }

    /// Asserts that no sandbox is left: no folder, no process.
    pub(crate) fn assert_no_sandbox(&self) {
        self.assert_no_sandbox_of("data");
    }

    /// Asserts the same of the node with that data folder.
    pub(crate) fn assert_no_sandbox_of(&self, data: &str) {
        let patience = Instant::now() + Duration::from_secs(20);
        let left = || {
            let folders = fs::read_dir(self.path(&format!("{data}/sandboxes"))).map(|entries| {
                let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
                names.filter(|name| name.len() == 36).collect::<Vec<_>>()
            });
            [folders.unwrap_or_default(), self.sandbox_processes_of(data)].concat()
        };
        while !left().is_empty() {
            assert!(Instant::now() < patience, "left: {:?}", left());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let pid = server.id().to_string();
            _ = Command::new("kill").args(["-TERM", &pid]).status();
            let patience = Instant::now() + Duration::from_secs(20);
            while Instant::now() < patience && matches!(server.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ = server.kill();
            _ = server.wait();
        }
    }
}

/// The newest run of a request.
pub(crate) fn last_run(request: &RequestView) -> &RunRecord {
    request.metadata.runs.as_ref().unwrap().last().unwrap()
}

/// All text of a log.
pub(crate) fn text(log: &[RunEvent]) -> String {
    let text = std::cell::RefCell::new(String::new());
    for event in log {
        event.kind.clone().map_text(|part| text.borrow_mut().push_str(&format!("{part}\n")));
    }
    text.into_inner()
}

/// Tells whether a log has a status event with this text.
pub(crate) fn has_status(log: &[RunEvent], words: &str) -> bool {
    log.iter().any(|event| matches!(&event.kind, EventKind::Status { message, .. } if message.contains(words)))
}

/// Runs git as on a machine where nobody has set it up, and returns what it says.
pub(crate) fn git(folder: &Path, words: &[&str]) -> String {
    let mut git = Command::new("git");
    git.arg("-C").arg(folder).args(words);
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{who}_NAME"), "Ada").env(format!("GIT_{who}_EMAIL"), "ada@example.com");
    }
    let output = git.output().unwrap();
    assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The pinned Codex CLI.
pub(crate) fn codex() -> PathBuf {
    built("ASTRAFORGE_TEST_CODEX", "tools/codex-0.169.0/node_modules", "test --only codex")
}

/// Finds something that `cargo xtask` builds or installs below the target folder.
fn built(variable: &str, place: &str, task: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let program = Path::new(env!("CARGO_BIN_EXE_astraforge"));
    let found = program.ancestors().map(|folder| folder.join(place)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{place} is not below the target folder; make it with: cargo xtask {task}"))
}

/// The command lines of all processes.
fn processes() -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).collect()
}

/// A database of its own where the tests have a PostgreSQL server; elsewhere each world has a file in its data folder.
pub(crate) fn database() -> Option<String> {
    let server = std::env::var("ASTRAFORGE_TEST_POSTGRES").ok()?;
    let name = format!("world_{}", uuid::Uuid::new_v4().simple());
    let create = Command::new("psql").arg(&server).args(["-q", "-c", &format!("CREATE DATABASE {name}")]).status();
    assert!(create.unwrap().success());
    let (address, _) = server.rsplit_once('/').unwrap();
    Some(format!("{address}/{name}"))
}
