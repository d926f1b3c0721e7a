//! Runs from end to end, with real git, real processes, and a script in the place of Codex.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use astraforge_codex::{CodexProgram, CodexRunner, LlmProxy, RunSettings, StubExecutor, runner::CodexRunnerBuilder};
use astraforge_core::{
    cancel::{Cancellation, Canceller},
    event::EventKind,
    id::RequestId,
    journal::{Journal, Reporter},
    ports::{
        executor::{AgentExecutor, AgentOutcome, Assignment, Thread},
        guest_service::{GuestService, GuestStream},
        model::{ModelAnswer, ModelCall, ModelUpstream, UpstreamError},
        store::Store,
    },
    redact::Redactor,
    repository::RepositoryEnvironment,
    request::Attachment,
    run::{FailureCause, RunFailure},
    testing::{MemoryStore, MemoryWakeups, TestClock, samples},
};
use async_trait::async_trait;
use bytes::Bytes;
use tower::timeout::TimeoutLayer;

use crate::host::HostSessions;

const THREAD: &str = "01a202c7-80e7-7583-8b7f-a3c333797037";

#[derive(Debug)]
struct Unreached;

#[async_trait]
impl GuestService for Unreached {
    async fn serve(&self, _: GuestStream) {}
}

#[async_trait]
impl ModelUpstream for Unreached {
    fn name(&self) -> &str {
        "unreached"
    }

    async fn call(&self, _: ModelCall) -> Result<ModelAnswer, UpstreamError> {
        Err(UpstreamError::NotConfigured { upstream: "unreached".into(), reason: "no test asks it".into() })
    }
}

/// A repository, sessions, and an assignment.
struct World {
    dir: tempfile::TempDir,
    sessions: Arc<HostSessions>,
    store: Arc<MemoryStore>,
    reporter: Reporter,
    request: RequestId,
    assignment: Assignment,
    canceller: Arc<Canceller>,
    cancel: Cancellation,
}

fn git(folder: &Path, args: &[&str]) -> String {
    let output = std::process::Command::new("git")
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", "/nonexistent")
        .args([
            "-c",
            "user.name=T",
            "-c",
            "user.email=t@t",
            "-c",
            "init.defaultBranch=main",
            "-c",
            "protocol.file.allow=always",
        ])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::create_dir_all(source.join("src")).unwrap();
        std::fs::write(source.join("README.md"), "# demo\n").unwrap();
        std::fs::write(source.join("src/main.py"), "print('hi')\n").unwrap();
        std::fs::write(source.join(".gitignore"), "*.pyc\n").unwrap();
        git(&source, &["init", "-q"]);
        git(&source, &["add", "-A"]);
        git(&source, &["commit", "-q", "-m", "begin"]);
        git(dir.path(), &["clone", "-q", "--bare", "source", "quarantine.git"]);
        let start_commit = git(&source, &["rev-parse", "HEAD"]);
        git(&dir.path().join("quarantine.git"), &["branch", "astraforge/work", &start_commit]);

        let request = samples::request();
        let store = Arc::new(MemoryStore::holding([&request]));
        let journal = Journal::new(
            store.clone(),
            Arc::new(MemoryWakeups::default()),
            Arc::new(TestClock::new()),
            Redactor::default(),
        );
        let run = samples::run(&request);
        let assignment = Assignment {
            request: request.id,
            run: run.id,
            tenant: request.tenant.clone(),
            prompt: "-v say hello".to_owned(),
            environment: RepositoryEnvironment::default(),
            repository: Arc::new(Unreached),
            base_branch: "main".to_owned(),
            start_commit,
            work_branch: "astraforge/work".to_owned(),
            resume: None,
            attachments: Vec::new(),
        };
        let (canceller, cancel) = Cancellation::pair();
        let sessions = Arc::new(HostSessions::new(&dir.path().join("sandboxes"), &dir.path().join("quarantine.git")));
        Self {
            sessions,
            store,
            reporter: journal.reporter(request.id, run.id),
            request: request.id,
            assignment,
            canceller,
            cancel,
            dir,
        }
    }

    fn with_setup(mut self, line: &str) -> Self {
        self.assignment.environment.setup = Some(line.to_owned());
        self
    }

    /// Runs the stub agent.
    async fn stub(&self) -> Result<AgentOutcome, RunFailure> {
        self.execute(&StubExecutor::new(self.sessions.clone(), RunSettings::default())).await
    }

    /// Runs a shell script in the place of Codex. `$OUT` is the file for the last message.
    async fn codex(&self, script: &str) -> Result<AgentOutcome, RunFailure> {
        self.execute(&self.runner(script)).await
    }

    fn runner(&self, script: &str) -> CodexRunner {
        self.builder(script).build()
    }

    fn builder(&self, script: &str) -> CodexRunnerBuilder {
        let folder = self.dir.path().join("opt");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("codex"), "\x7fELF for the finder").unwrap();
        let program = CodexProgram::find(Some(&folder), [""; 0]).unwrap();
        let prologue = "#!/bin/sh\nif [ \"$1\" = --version ]; then echo codex-cli 0.169.0; exit; fi\n\
            ARGS=\"$*\"; while [ $# -gt 0 ]; do [ \"$1\" = -o ] && OUT=$2; shift; done; PROMPT=$(cat)\n\
            say() { printf '{\"type\":\"item.completed\",\"item\":{\"type\":\"agent_message\",\"text\":\"%s\"}}\\n' \"$1\"; }\n";
        std::fs::write(folder.join("codex"), format!("{prologue}{script}\n")).unwrap();
        std::fs::set_permissions(folder.join("codex"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let proxy = LlmProxy::builder(Arc::new(Unreached)).build();
        CodexRunner::builder(self.sessions.clone(), proxy, program)
    }

    async fn execute(&self, executor: &dyn AgentExecutor) -> Result<AgentOutcome, RunFailure> {
        let outcome = executor.execute(self.assignment.clone(), self.reporter.clone(), self.cancel.clone()).await;
        assert_eq!(self.sessions.live(), 0, "the sandbox is gone");
        outcome
    }

    fn quarantine(&self) -> PathBuf {
        self.dir.path().join("quarantine.git")
    }

    /// What the pushed commit changes, as `git diff --name-status` says it.
    fn changes(&self, outcome: &AgentOutcome) -> Vec<String> {
        let head = outcome.head_commit.as_deref().unwrap();
        let quarantine = self.quarantine();
        assert_eq!(git(&quarantine, &["rev-parse", "astraforge/work"]), head);
        assert_eq!(git(&quarantine, &["rev-parse", &format!("{head}^")]), self.assignment.start_commit);
        git(&quarantine, &["diff", "--name-status", &self.assignment.start_commit, head])
            .lines()
            .map(|l| l.replace('\t', " "))
            .collect()
    }

    async fn events(&self) -> Vec<EventKind> {
        self.store.events(self.request, 0, u32::MAX).await.unwrap().into_iter().map(|event| event.kind).collect()
    }

    async fn log(&self) -> String {
        let line = |event: &EventKind| match event {
            EventKind::Status { stage, message } => format!("{stage}: {message}"),
            EventKind::Command { command, .. } => format!("$ {command}"),
            EventKind::Log { message } => format!("  {message}"),
            event => serde_json::to_string(event).unwrap(),
        };
        self.events().await.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

#[tokio::test]
async fn a_run_ends_as_one_commit_on_the_work_branch() {
    let mut world = World::new();
    world.assignment.environment.test = Some("cat README.md; exit 3".into());
    let outcome = world.codex("echo more >> README.md; echo new > new.txt; rm src/main.py; echo Done. > $OUT; echo '{\"type\":\"turn.completed\"}'").await.unwrap();
    assert_eq!(world.changes(&outcome), ["M README.md", "A new.txt", "D src/main.py"]);
    assert_eq!((outcome.final_message.as_deref(), outcome.exit_code), (Some("Done."), Some(0)));
    let tests = outcome.tests.unwrap();
    assert_eq!((tests.exit_code, tests.output_tail.as_str()), (3, "# demo\nmore"));
    let head = outcome.head_commit.unwrap();
    let said = git(&world.quarantine(), &["log", "-1", "--format=%an <%ae> %s", &head]);
    assert_eq!(said, format!("AstraForge Bot <bot@astraforge.local> AstraForge request {}", world.request));
}

#[tokio::test]
async fn the_log_tells_every_step_and_no_secret() {
    let world = World::new();
    world.codex("echo \"token is $ASTRAFORGE_RUN_TOKEN\" >&2; echo x > x; echo Done. > $OUT").await.unwrap();
    let log = world.log().await;
    let steps = [
        "provisioning: Provisioned workspace",
        "clone: Repository clone initiated from git://127.0.0.2:9418/repository",
        "workspace: Checked out feature branch astraforge/work",
        "proxy: LLM proxy available at http://127.0.0.2:8080/v1",
        "codex: Starting Codex CLI session",
        "$ /opt/codex/codex exec --json -C /workspace --dangerously-bypass-approvals-and-sandbox --skip-git-repo-check -o /home/agent/.codex/last-message.txt -",
        "token is [redacted]",
        "codex: Captured final Codex response",
        "diff: Collected workspace diff",
        "git: Pushed branch astraforge/work to origin",
    ];
    let mut rest = log.as_str();
    for step in steps {
        let Some(at) = rest.find(step) else { panic!("`{step}` is missing or out of order in:\n{log}") };
        rest = &rest[at + step.len()..];
    }
    assert!(!log.contains("afr_"), "{log}");
    let (spec, mut ports) = world.sessions.made().remove(0);
    ports.sort_unstable();
    assert_eq!(ports, [8080, 9418]);
    assert!(!format!("{spec:?}").contains("afr_"));
}

#[tokio::test]
async fn a_run_may_reach_the_hosts_of_its_link_and_no_others() {
    let mut world = World::new();
    world.stub().await.unwrap();
    world.assignment.environment.egress = vec!["packages.example.com".parse().unwrap()];
    world.stub().await.unwrap();
    let egress: Vec<String> = world.sessions.made().iter().map(|(spec, _)| spec.egress.to_string()).collect();
    assert_eq!(egress, ["allow:", "allow:packages.example.com"]);
}

#[tokio::test]
async fn a_run_that_changes_nothing_has_no_commit() {
    let world = World::new();
    let outcome = world.codex("touch a.pyc; say 'Nothing to do.'").await.unwrap();
    assert_eq!((outcome.head_commit, outcome.final_message.as_deref()), (None, Some("Nothing to do.")));
    assert!(world.log().await.contains("git: Working tree clean; skipping commit and push"));
}

#[track_caller]
fn check_failure(outcome: Result<AgentOutcome, RunFailure>, cause: FailureCause, words: &[&str]) {
    let failure = outcome.unwrap_err();
    assert_eq!(failure.cause, cause, "{failure}");
    for words in words {
        assert!(failure.message.contains(words), "`{words}` is missing in: {failure}");
    }
}

#[tokio::test]
async fn exit_code_0_without_an_answer_is_a_failure() {
    let world = World::new();
    check_failure(
        world.codex("echo x > x; echo '{\"type\":\"turn.completed\"}'").await,
        FailureCause::NoAnswer,
        &["without an answer"],
    );
    assert_eq!(git(&world.quarantine(), &["rev-parse", "astraforge/work"]), world.assignment.start_commit);
}

#[tokio::test]
async fn a_turn_that_failed_is_told_in_words() {
    let script =
        r#"echo '{"type":"turn.failed","error":{"message":"{\"error\":{\"message\":\"quota spent\"}}"}}'; exit 1"#;
    check_failure(World::new().codex(script).await, FailureCause::Model, &["quota spent"]);
}

#[tokio::test]
async fn a_codex_that_breaks_shows_its_last_words() {
    check_failure(World::new().codex("echo boom >&2; exit 101").await, FailureCause::Agent, &["exit code 101", "boom"]);
    check_failure(World::new().codex("kill -9 $$").await, FailureCause::Agent, &["signal 9"]);
}

#[tokio::test]
async fn a_codex_that_is_gone_is_named() {
    let world = World::new();
    let runner = world.runner("");
    std::fs::remove_file(world.dir.path().join("opt/codex")).unwrap();
    check_failure(world.execute(&runner).await, FailureCause::MissingProgram, &["/opt/codex/codex", "Install"]);
}

#[tokio::test]
async fn a_repository_that_can_not_be_read_is_named() {
    let mut world = World::new();
    world.assignment.start_commit = "0123456789012345678901234567890123456789".to_owned();
    check_failure(world.stub().await, FailureCause::Repository, &["checked out", "0123456789"]);
    std::fs::remove_dir_all(world.quarantine()).unwrap();
    check_failure(world.stub().await, FailureCause::Repository, &["could not be cloned", "does not exist"]);
}

#[tokio::test]
async fn a_setup_that_fails_ends_the_run_with_its_output() {
    let world = World::new().with_setup("echo no compiler; exit 4");
    check_failure(world.stub().await, FailureCause::Setup, &["exit code 4", "no compiler"]);
    let mut world = World::new().with_setup("sleep 60");
    world.assignment.environment.timeout_seconds = Some(600);
    let executor =
        StubExecutor::new(world.sessions.clone(), RunSettings::default().with_setup_timeout(Duration::from_secs(1)));
    check_failure(world.execute(&executor).await, FailureCause::Setup, &["longer than 1 s"]);
}

#[tokio::test]
async fn a_sandbox_that_can_not_be_had_is_explained() {
    let mut world = World::new();
    Arc::get_mut(&mut world.sessions).unwrap().broken = true;
    check_failure(world.stub().await, FailureCause::Sandbox, &["user namespaces are forbidden"]);
}

#[tokio::test]
async fn a_cancelled_run_ends_soon_and_kills_what_does_not_listen() {
    let world = World::new();
    let at_work = world.dir.path().join("at-work");
    let line = format!("trap 'echo interrupted >&2; exit 1' INT; : > {}; sleep 60 & wait", at_work.display());
    let (outcome, asked) = tokio::join!(world.codex(&line), async {
        made(&at_work).await;
        world.canceller.cancel();
        Instant::now()
    });
    check_failure(outcome, FailureCause::Cancelled, &["cancelled"]);
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert!(world.log().await.contains("  interrupted"), "it was asked first");
}

#[tokio::test]
async fn a_run_whose_time_is_up_is_killed_if_it_must_be() {
    let mut world = World::new();
    world.assignment.environment.timeout_seconds = Some(1);
    let begun = Instant::now();
    check_failure(
        world.codex("trap '' INT; while :; do sleep 1; done").await,
        FailureCause::TimedOut,
        &["1 s", "timeout_seconds"],
    );
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_run_that_is_dropped_leaves_no_sandbox() {
    let world = World::new();
    let at_work = world.dir.path().join("at-work");
    let runner = world.runner(&format!(": > {}; sleep 60", at_work.display()));
    tokio::select! {
        outcome = runner.execute(world.assignment.clone(), world.reporter.clone(), world.cancel.clone()) => {
            panic!("it ended: {outcome:?}");
        }
        () = made(&at_work) => assert_eq!(world.sessions.live(), 1),
    }
    eventually(|| world.sessions.live() == 0).await;
}

/// Waits until a program has made that file.
async fn made(path: &Path) {
    eventually(|| path.exists()).await;
}

/// Waits until it is so; a minute is longer than anything here takes on a busy machine.
async fn eventually(is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap();
}

/// Runs an agent that does what `line` says and then writes a file; that file is always part of the change.
async fn work_of(line: &str) -> (World, AgentOutcome) {
    let world = World::new();
    let outcome = world.codex(&format!("({line}) >&2; echo z > zz; say Done.")).await;
    let outcome = outcome.unwrap_or_else(|failure| panic!("{line}: {failure}"));
    (world, outcome)
}

async fn check_hostile(line: &str, expected: &[&str]) {
    let (world, outcome) = work_of(line).await;
    assert_eq!(world.changes(&outcome), [expected, &["A zz"]].concat(), "{line}");
}

#[tokio::test]
async fn whatever_an_agent_does_to_its_git_the_change_is_the_same() {
    check_hostile("rm -rf .git", &[]).await;
    check_hostile("rm -rf .git && git init -q .", &[]).await;
    check_hostile("rm -rf .git && echo 'gitdir: /nonexistent' > .git", &[]).await;
    check_hostile("echo x >> README.md; git commit -qam mine; git tag v1", &["M README.md"]).await;
    check_hostile("git checkout -q --orphan other; git commit -qm 'no past'; echo y > y", &["A y"]).await;
    check_hostile("git update-index --assume-unchanged README.md; echo x >> README.md", &["M README.md"]).await;
    check_hostile("git config core.worktree /tmp; git config core.bare true; echo x >> README.md", &["M README.md"])
        .await;
    check_hostile("mkdir -p .git/info; echo '*' > .git/info/exclude; echo y > y", &["A y"]).await;
    check_hostile(
        "git config filter.evil.clean 'sh -c \"echo evil\"'; echo '* filter=evil' > .git/info/attributes; echo y > y",
        &["A y"],
    )
    .await;
    check_hostile("printf '#!/bin/sh\\nexit 1\\n' > .git/hooks-x; mkdir -p .git/hooks; cp .git/hooks-x .git/hooks/pre-commit; chmod +x .git/hooks/pre-commit; echo y > y", &["A y"]).await;
    check_hostile(
        "printf '[core]\\n\\tfsmonitor = touch /workspace/planted\\n[user]\\n\\tname = Mallory\\n' > $HOME/.gitconfig",
        &[],
    )
    .await;
}

#[tokio::test]
async fn repositories_within_the_workspace_are_left_out_and_named() {
    check_hostile("mkdir sub && cd sub && git init -q && echo z > z", &[]).await;
    let line = "mkdir -p 'a b/c' && cd 'a b/c' && git init -q && echo z > z && git add z && git -c user.name=x -c user.email=x commit -qm z; cd ../..; echo k > 'a b/kept'";
    let (world, outcome) = work_of(line).await;
    assert_eq!(world.changes(&outcome), ["A a b/kept", "A zz"]);
    assert!(world.log().await.contains("git: Left out folders that are git repositories of their own: `a b/c`"));
}

#[tokio::test]
async fn every_kind_of_file_is_brought_out_as_it_is() {
    let line = r"printf 'a\r\nb\r\n' > crlf.txt; printf '\000\001' > bin; ln -s /etc/passwd link; echo '#!/bin/sh' > run.sh; chmod +x run.sh; mkfifo pipe; echo x > $(printf 'new\nline')";
    let (world, outcome) = work_of(line).await;
    let head = outcome.head_commit.unwrap();
    let tree = git(&world.quarantine(), &["ls-tree", "-r", "--format=%(objectmode) %(objectsize) %(path)", &head]);
    for expected in
        ["100644 6 crlf.txt", "100644 2 bin", "120000 11 link", "100755 10 run.sh", "100644 2 \"new\\nline\""]
    {
        assert!(tree.contains(expected), "`{expected}` is missing in:\n{tree}");
    }
    assert!(!tree.contains("pipe"), "{tree}");
}

#[tokio::test]
async fn what_the_setup_command_left_is_not_the_agents_change() {
    let setup = "mkdir -p deps; echo d > deps/lib; echo d > deps/patched; echo s >> README.md; rm src/main.py; echo s > .gitignore";
    let mut world = World::new().with_setup(setup);
    world.assignment.environment.test = Some("cat deps/lib".into());
    let outcome = world.codex("echo a > deps/patched; echo a > mine; echo a >> .gitignore; say Done.").await.unwrap();
    assert_eq!(world.changes(&outcome), ["M .gitignore", "A deps/patched", "A mine"]);
    assert_eq!(outcome.tests.unwrap().output_tail, "d", "it is there for the tests all the same");
    let outcome = World::new().with_setup(setup).codex("say 'Nothing to do.'").await.unwrap();
    assert_eq!(outcome.head_commit, None);
}

#[tokio::test]
async fn the_stub_agent_changes_a_file_and_says_that_it_asked_no_model() {
    let world = World::new();
    let outcome = world.stub().await.unwrap();
    assert_eq!(world.changes(&outcome), ["A astraforge-stub.txt"]);
    assert!(outcome.final_message.unwrap().starts_with("stub agent: no model was asked"));
    assert!(world.log().await.contains("stub: stub agent: no model was asked"));
}

#[tokio::test]
async fn an_emptied_workspace_is_a_change_too() {
    let world = World::new();
    let outcome = world.codex("rm -rf ./* .gitignore; say gone").await.unwrap();
    assert_eq!(world.changes(&outcome), ["D .gitignore", "D README.md", "D src/main.py"]);
}

#[tokio::test]
async fn attachments_are_named_in_the_prompt_and_stay_out_of_the_change() {
    let mut world = World::new();
    let attachment = |name: &str| Attachment { name: name.to_owned(), ..samples::attachment(world.request) };
    let attachments = vec![
        (attachment("spec.txt"), Bytes::from_static(b"do it")),
        (attachment("../spec.txt"), Bytes::from_static(b"again")),
    ];
    world.assignment.attachments = attachments;
    let outcome = world
        .codex("say \"$(printf %s \"$PROMPT\" | tr '\\n' ' ')\"; cat $HOME/attachments/2-spec.txt > copy")
        .await
        .unwrap();
    assert_eq!(
        outcome.final_message.as_deref(),
        Some(
            "-v say hello  Files that came with this request, outside of the repository: - /home/agent/attachments/spec.txt - /home/agent/attachments/2-spec.txt"
        )
    );
    assert_eq!(world.changes(&outcome), ["A copy"]);
}

#[tokio::test]
async fn a_conversation_is_kept_and_gone_on_with() {
    let mut world = World::new();
    let script = format!(
        "echo '{{\"type\":\"thread.started\",\"thread_id\":\"{THREAD}\"}}'; mkdir -p $CODEX_HOME/sessions/2026/11/22; \
         F=$(find $CODEX_HOME/sessions -name '*{THREAD}.jsonl'); \
         echo \"turn\" >> ${{F:-$CODEX_HOME/sessions/2026/11/22/rollout-2026-11-22T10-42-12-{THREAD}.jsonl}}; say \"$ARGS\""
    );
    let first = world.codex(&script).await.unwrap();
    assert_eq!(first.thread, Some(Thread { id: THREAD.to_owned(), rollout: Bytes::from_static(b"turn\n") }));
    world.assignment.resume = first.thread;
    let second = world.codex(&script).await.unwrap();
    assert!(second.final_message.unwrap().ends_with(&format!("resume {THREAD} -")));
    assert_eq!(second.thread.unwrap().rollout, Bytes::from_static(b"turn\nturn\n"));
    assert!(world.log().await.contains("workspace: Restored Codex history from previous run"));
}

#[tokio::test]
async fn a_flood_of_output_fills_neither_memory_nor_the_log() {
    let world = World::new().with_setup("head -c 30000000 /dev/zero | tr '\\0' 'x'; yes flooded | head -n 500000");
    world.stub().await.unwrap();
    let events = world.events().await;
    let bytes: usize = events.iter().map(|event| serde_json::to_string(event).unwrap().len()).sum();
    assert!(bytes < 8 << 20, "{bytes} bytes");
    let cut = events.iter().filter(
        |event| matches!(event, EventKind::Status { message, .. } if message.starts_with("The log of this run is cut")),
    );
    assert_eq!(cut.count(), 1);
    assert!(world.log().await.contains("git: Pushed branch"), "the runner's own steps are told all the same");
}

#[tokio::test]
async fn layers_of_ones_own_stand_around_runs() {
    let world = World::new();
    let runner = world.builder("sleep 60").with_layer(TimeoutLayer::new(Duration::from_millis(700))).build();
    let outcome = runner.execute(world.assignment.clone(), world.reporter.clone(), world.cancel.clone()).await;
    check_failure(outcome, FailureCause::Internal, &["timed out"]);
}
