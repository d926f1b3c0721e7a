//! An installation: APIs, workers and a proxy as programs of their own, on one PostgreSQL database and one Redis.
//!
//! Its tests need servers, so they are run by `cargo xtask test --only services`, and the long ones by
//! `cargo xtask chaos service`.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::Duration,
};

use astraforge_core::{request::RequestState, run::RunStatus};
use astraforge_http::{
    Client,
    wire::{
        repository_link::NewRepositoryLink,
        request::NewRequest,
        sandbox::{NewSession, NewSnapshotBody, exec::ExecBody, process::NewProcess},
    },
};
use serde_json::{Value, json};

use crate::world::{World, codex, database, git, has_status, last_run, one_command, say, shell, step, text};

mod chaos;

/// After how many seconds a worker of a test counts as dead.
const LEASE: u32 = 3;

/// Everything that runs of an installation; ends with it.
struct Installation {
    world: World,
    database: String,
    redis: String,
    proxy_port: u16,
    programs: BTreeMap<&'static str, Program>,
    api_key: String,
}

/// One program of it.
struct Program {
    child: Child,
    /// Where it answers, unless it is the proxy.
    url: String,
}

impl Installation {
    /// An installation of which nothing runs yet, with a model that plays `steps`, and a repository `demo`.
    fn new(steps: Vec<Value>) -> Self {
        let world = World::without_server(steps);
        world.make_repository("demo", |clone| fs::write(clone.join("README.md"), "# demo\n").unwrap());
        let servers = "this test needs servers: cargo xtask test --only services";
        let redis = std::env::var("ASTRAFORGE_TEST_REDIS").unwrap_or_else(|_| panic!("{servers}"));
        Self {
            world,
            database: database().unwrap_or_else(|| panic!("{servers}")),
            redis,
            proxy_port: free_port(),
            programs: BTreeMap::new(),
            api_key: String::new(),
        }
    }

    /// Starts a program by its name: `proxy`, `api-N` or `worker-N`.
    fn start(&mut self, name: &'static str) {
        let mut url = String::new();
        let mut command = match name.split_once('-') {
            Some(("api", _)) => {
                self.node(env!("CARGO_BIN_EXE_astraforge-api"), name, &["--json", "--listen=127.0.0.1:0"])
            }
            Some(("worker", _)) => {
                url = format!("http://127.0.0.1:{}", free_port());
                let health = format!("--health-listen={}", url.trim_start_matches("http://"));
                let lease = format!("--lease={LEASE}");
                self.node(env!("CARGO_BIN_EXE_astraforge-worker"), name, &[&lease, &health])
            }
            _ => {
                let mut proxy = self.world.program(env!("CARGO_BIN_EXE_astraforge-proxy"));
                proxy.arg(format!("--listen=127.0.0.1:{}", self.proxy_port));
                proxy.arg("--scenario").arg(self.world.path("scenario.json"));
                proxy
            }
        };
        command.env("LLM_PROXY_TOKEN", "t".repeat(32)).process_group(0);
        let log = fs::File::options().create(true).append(true).open(self.world.path("server.log")).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        if name.starts_with("worker") {
            // Once it answers it works, and hears signals.
            while TcpStream::connect(url.trim_start_matches("http://")).is_err() {
                assert!(child.try_wait().unwrap().is_none(), "{name} has ended:\n{}", self.world.server_log());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        if name.starts_with("api") {
            let mut greeting = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut greeting).unwrap();
            let greeting: Value = serde_json::from_str(&greeting)
                .unwrap_or_else(|_| panic!("no greeting of {name}:\n{}", self.world.server_log()));
            greeting["url"].as_str().unwrap().clone_into(&mut url);
            if let Some(key) = greeting["api_key"].as_str() {
                key.clone_into(&mut self.api_key);
            }
            self.world.is_served_at(&url, &self.api_key);
        }
        self.programs.insert(name, Program { child, url });
    }

    fn node(&self, program: &str, name: &str, options: &[&str]) -> Command {
        let mut node = self.world.node(program, &format!("data-{name}"));
        node.arg("--codex").arg(codex()).args(options);
        node.env("DATABASE_URL", &self.database).env("REDIS_URL", &self.redis);
        // 32 bytes of zero, which all nodes share.
        node.env("ASTRAFORGE_SECRET_KEY", format!("{}=", "A".repeat(43)));
        node.env("ASTRAFORGE_FILES", self.world.path("files"))
            .env("ASTRAFORGE_PUBLISHED", self.world.path("published"));
        node.env("LLM_PROXY_URL", format!("http://127.0.0.1:{}", self.proxy_port));
        node
    }

    /// Sends a signal to a program.
    fn signal(&self, name: &str, signal: &str) {
        let pid = self.programs[name].child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success(), "{name}");
    }

    /// Kills a program as a crash would.
    fn kill(&mut self, name: &str) {
        let mut program = self.programs.remove(name).unwrap();
        program.child.kill().unwrap();
        program.child.wait().unwrap();
    }

    /// Stops a program in order.
    fn stop(&mut self, name: &str) {
        self.signal(name, "-TERM");
        self.wait(name);
    }

    /// Waits for the end of a program that was told to stop.
    fn wait(&mut self, name: &str) {
        let mut program = self.programs.remove(name).unwrap();
        let ended = program.child.wait().unwrap();
        assert!(ended.success(), "{name}: {ended}\n{}", self.world.server_log());
    }

    /// A client of the API of that name.
    fn client(&self, name: &str) -> Client {
        _ = rustls::crypto::ring::default_provider().install_default();
        Client::new(&self.programs[name].url, &self.api_key).unwrap()
    }

    /// Runs a statement in its database, and returns what it answers.
    fn sql(&self, statement: &str) -> String {
        let answer =
            Command::new("psql").arg(&self.database).args(["-q", "-A", "-t", "-c", statement]).output().unwrap();
        assert!(answer.status.success(), "{statement}: {}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8(answer.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        for program in self.programs.values_mut() {
            // Of no use to a process that is halted, otherwise in order.
            for signal in ["-CONT", "-TERM"] {
                _ = Command::new("kill").args([signal, &program.child.id().to_string()]).status();
            }
        }
        for program in self.programs.values_mut() {
            _ = program.child.wait();
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An agent that makes a file, and another one once it is told to go on, if it remembers.
fn two_turns() -> Vec<Value> {
    let second = |calls: Value, answer: Value| {
        let mut when = json!({ "prompt_matches": "second", "text_matches": "answer-one" });
        when.as_object_mut().unwrap().extend(calls.as_object().unwrap().clone());
        json!({ "when": when, "answer": answer })
    };
    vec![
        second(json!({ "no_output_yet": true }), shell("echo two > two")),
        second(json!({ "calls_made": 1 }), say("answer-two")),
        step(0, shell("echo one > one")),
        step(1, say("answer-one")),
    ]
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test --only services"]
async fn two_workers_with_nothing_in_common_but_the_installation_do_one_request_in_turn() {
    let mut it = Installation::new(two_turns());
    for name in ["proxy", "api-1", "api-2", "worker-1"] {
        it.start(name);
    }
    let request = it.world.submit("the first").await;
    let found = it.world.finished(request).await;
    assert_eq!(found.state, RequestState::PatchReady, "{:?}", last_run(&found).error);
    it.stop("worker-1");
    it.start("worker-2");
    it.client("api-1").chat(request, "the second".parse().unwrap()).await.unwrap();
    let found = it.world.finished(request).await;
    assert_eq!(found.state, RequestState::PatchReady, "{:?}\n{}", last_run(&found).error, it.world.server_log());
    assert!(has_status(&it.world.log(request).await, "Restored Codex history"));
    let change = it.client("api-1").diff(request).await.unwrap();
    let mut paths: Vec<_> = change.files.iter().map(|file| file.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["one", "two"]);
    // Whoever publishes it has none of the runs' quarantines.
    it.stop("worker-2");
    it.start("worker-3");
    it.client("api-2").approve(request, Some(change.digest)).await.unwrap();
    it.world.reviewed(request).await;
    let published = git(&it.world.bare("demo"), &["ls-tree", "--name-only", &format!("astraforge/{request}")]);
    assert_eq!(published, "README.md\none\ntwo");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test --only services"]
async fn a_run_that_a_killed_worker_was_at_is_begun_anew_by_another() {
    let mut it = Installation::new(one_command("echo made > made; sleep 3"));
    for name in ["proxy", "api-1", "worker-1"] {
        it.start(name);
    }
    let request = it.world.submit("Take your time").await;
    while !text(&it.world.events_so_far(request).await).contains("sleep 3") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    it.start("worker-2");
    it.kill("worker-1");
    let found = it.world.finished(request).await;
    assert_eq!((found.state, last_run(&found).status), (RequestState::PatchReady, RunStatus::Completed));
    it.start("worker-1");
    it.world.assert_no_sandbox_of("data-worker-1");
    assert_eq!(it.sql("SELECT count(*) FROM jobs WHERE state <> 'ended'"), "0");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test --only services"]
async fn a_worker_that_is_told_to_stop_sees_its_run_through_and_begins_no_other() {
    let mut it = Installation::new(one_command("echo made > made; sleep 2"));
    for name in ["proxy", "api-1", "worker-1"] {
        it.start(name);
    }
    let client = it.client("api-1");
    let link = client.link_repository(&NewRepositoryLink::new("local", "demo")).await.unwrap().id;
    let request = client.submit(&NewRequest::new(link, "Make it".parse().unwrap())).await.unwrap().id;
    while !text(&it.world.events_so_far(request).await).contains("echo made") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    it.signal("worker-1", "-TERM");
    let next = client.submit(&NewRequest::new(link, "And another".parse().unwrap())).await.unwrap().id;
    it.wait("worker-1");
    assert_eq!(client.request(request).await.unwrap().state, RequestState::PatchReady, "{}", it.world.server_log());
    assert_eq!(client.request(next).await.unwrap().state, RequestState::Received);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test --only services"]
async fn the_programs_say_what_they_need() {
    let it = Installation::new(Vec::new());
    let check = |program: &str, set: &[(&str, &str)], told: &str| {
        let mut command = it.world.program(program);
        let answer = command.envs(set.iter().copied()).output().unwrap();
        let said = String::from_utf8(answer.stderr).unwrap();
        assert!(!answer.status.success() && said.contains(told), "{program}: {said}");
    };
    check(env!("CARGO_BIN_EXE_astraforge-api"), &[], "set DATABASE_URL");
    check(env!("CARGO_BIN_EXE_astraforge-worker"), &[], "set DATABASE_URL");
    let worker = env!("CARGO_BIN_EXE_astraforge-worker");
    check(worker, &[("DATABASE_URL", &it.database), ("ASTRAFORGE_SECRET_KEY", "short")], "ASTRAFORGE_SECRET_KEY");
    check(worker, &[("DATABASE_URL", &it.database), ("LLM_PROXY_URL", "http://127.0.0.1:1")], "LLM_PROXY_TOKEN");
    let proxy = env!("CARGO_BIN_EXE_astraforge-proxy");
    check(proxy, &[], "LLM_PROXY_TOKEN");
    check(proxy, &[("LLM_PROXY_TOKEN", &"t".repeat(32))], "OPENAI_API_KEY");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test --only services"]
async fn a_sandbox_is_used_through_whichever_api_is_asked() {
    let mut it = Installation::new(Vec::new());
    for name in ["api-1", "api-2"] {
        it.start(name);
    }
    let (one, other) = (it.client("api-1"), it.client("api-2"));
    let id = one.create_sandbox(&NewSession::default()).await.unwrap().id;
    let stays = other.create_sandbox(&NewSession::default()).await.unwrap().id;
    let exec = async |client: &Client, line: &str| client.exec(id, &ExecBody::shell(line)).await;
    // What is known of other servers is a few seconds old at most.
    let mut found = exec(&other, "echo made > made; hostname").await;
    for _ in 0..100 {
        if found.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        found = exec(&other, "echo made > made; hostname").await;
    }
    let there = found.unwrap();
    assert_eq!(there.stdout, exec(&one, "hostname").await.unwrap().stdout, "{there:?}");
    let contents = vec![7; 3 << 20];
    assert_eq!(other.write_file(id, "large", contents.clone()).await.unwrap().exit_code, 0);
    assert_eq!(other.read_file(id, "large").await.unwrap(), contents);
    assert_eq!(other.read_file(id, "none").await.unwrap_err().code(), Some("not_found"));
    let process = NewProcess { tag: Some("p".to_owned()), ..NewProcess::shell("echo streamed") };
    other.start_process(id, &process).await.unwrap();
    other.take_snapshot(id, &NewSnapshotBody::default()).await.unwrap();
    let refused = Client::new(&it.programs["api-2"].url, "wrong").unwrap().sandbox(id).await.unwrap_err();
    assert_eq!(refused.status().unwrap().as_u16(), 401);

    // One that dies takes its machines' users with it, and they are told; what rows tell is told all the same.
    it.kill("api-1");
    let refused = exec(&other, "true").await.unwrap_err();
    assert_eq!((refused.status().unwrap().as_u16(), refused.code()), (503, Some("node_unreachable")), "{refused}");
    assert_eq!(other.sandbox(id).await.unwrap().status.as_str(), "ready");
    assert_eq!(other.snapshots(id).await.unwrap().snapshots.len(), 1);
    assert_eq!(other.sandboxes().await.unwrap().len(), 2);

    // It is back, and so is its machine.
    it.start("api-1");
    let mut found = other.read_file(id, "made").await;
    for _ in 0..200 {
        if found.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        found = other.read_file(id, "made").await;
    }
    assert_eq!(found.unwrap(), "made\n");
    other.stop_sandbox(id).await.unwrap();
    it.stop("api-1");
    let back = it.client("api-2").exec(id, &ExecBody::shell("cat made")).await.unwrap();
    assert_eq!(back.stdout, "made\n", "its snapshot lies where both see it");
    it.start("api-1");
    // Clients of the contract say in a body only which sandbox they mean.
    let again = NewSession { id: Some(id), ..NewSession::default() };
    let mut found = it.client("api-1").create_sandbox(&again).await;
    for _ in 0..100 {
        if found.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        found = it.client("api-1").create_sandbox(&again).await;
    }
    assert_eq!(found.unwrap().id, id);
    let other = it.client("api-2");
    for sandbox in [id, stays] {
        other.delete_sandbox(sandbox).await.unwrap();
    }
    for name in ["api-1", "api-2"] {
        let folder = it.world.path(&format!("data-{name}/session-sandboxes"));
        let left: Vec<_> = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert!(left.iter().all(|name| name.len() != 36), "{name}: {left:?}");
    }
}
