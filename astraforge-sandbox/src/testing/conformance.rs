//! The rules that every driver keeps, one function each.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "these functions are tests")]

use std::{sync::Arc, time::Duration};

use astraforge_core::{
    egress::Egress,
    id::SandboxId,
    ports::{
        guest_service::{GuestService, GuestStream, ServiceBinding},
        machines::{Machine, Machines},
        sessions::{Session, SessionError, Sessions},
    },
    session::{Command, ExecEvent, ExecOutput, Exit, SandboxSpec, Signal},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt,
    io::{AsyncReadExt, AsyncWriteExt},
};
use tokio::time::{Instant, sleep, timeout};

mod archives;
mod egress;
mod files;
mod limits;
mod processes;
mod watching;

pub use self::{archives::*, egress::*, files::*, limits::*, processes::*, watching::*};
use crate::{
    driver::{DynSandboxDriver, Enforcement},
    sandboxes::Sandboxes,
};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const MIB: usize = 1024 * 1024;

/// One sandbox, removed at the end of each rule.
struct Fixture {
    sandboxes: Sandboxes,
    session: Arc<dyn Session>,
}

impl Fixture {
    async fn new(driver: DynSandboxDriver) -> Self {
        Self::with(driver, SandboxSpec::default(), Vec::new()).await
    }

    async fn with(driver: DynSandboxDriver, spec: SandboxSpec, services: Vec<ServiceBinding>) -> Self {
        let sandboxes = Sandboxes::new(driver);
        let session = sandboxes.create(SandboxId::random(), spec, services).await.unwrap();
        Self { sandboxes, session }
    }

    async fn machine(&self) -> Arc<dyn Machine> {
        self.sandboxes.find(self.session.id(), Egress::Off).await.unwrap()
    }

    async fn run(&self, command: Command) -> ExecOutput {
        let command = if command.cwd.as_os_str() == "/workspace" { command.with_cwd("/tmp") } else { command };
        let run = async { self.session.exec(command).await.unwrap().collect(4 * MIB).await.unwrap() };
        timeout(PATIENCE, run).await.expect("the command ends")
    }

    async fn shell(&self, line: &str) -> ExecOutput {
        self.run(Command::shell(line)).await
    }

    /// A path that no other sandbox uses, for drivers whose sandboxes share a filesystem.
    fn path(&self, name: &str) -> String {
        format!("/tmp/astraforge-{}/{name}", self.session.id())
    }

    /// Makes the folder of [`path`](Self::path).
    async fn make_folder(&self) {
        assert!(self.shell(&format!("mkdir -p {}", self.path(""))).await.exit.success());
    }

    /// Waits for a command to have written its process id to `name`, and returns it.
    async fn pid_in(&self, name: &str) -> String {
        let path = self.path(name);
        let wait = async {
            loop {
                match self.session.read_file(&path, 100).await {
                    Ok(bytes) if bytes.ends_with(b"\n") => return String::from_utf8_lossy(&bytes).trim().to_owned(),
                    _ => sleep(Duration::from_millis(10)).await,
                }
            }
        };
        timeout(PATIENCE, wait).await.expect("the process starts")
    }

    /// Asserts that process `pid` is gone, by now or very soon.
    async fn assert_gone(&self, pid: &str) {
        assert!(self.is_gone(pid).await, "process {pid} lives on");
    }

    async fn is_gone(&self, pid: &str) -> bool {
        !self.shell(&format!("kill -0 {pid} 2>/dev/null")).await.exit.success()
    }

    async fn end(self) {
        self.shell(&format!("rm -rf {}", self.path(""))).await;
        self.sandboxes.destroy(self.session.id()).await.unwrap();
    }
}

/// A shell line that leaves a descendant which has left its session, ignores signals and holds stdout.
fn stray(pid_file: &str) -> String {
    format!("(setsid sh -c 'trap \"\" TERM HUP INT; echo $$ > {pid_file}; while :; do sleep 1; done' &); ")
}

/// The number a program ends with is the number that is reported.
pub async fn exit_codes_are_reported(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    for code in [0, 1, 77, 124, 137, 255] {
        assert_eq!(sandbox.shell(&format!("exit {code}")).await.exit, Exit::Exited { code });
    }
    sandbox.end().await;
}

/// A program that a signal ended is not one that chose the same number.
pub async fn death_by_signal_is_told_from_exit(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    for signal in [9, 15, 6] {
        assert_eq!(sandbox.shell(&format!("kill -{signal} $$")).await.exit, Exit::Signaled { signal });
    }
    assert_eq!(sandbox.shell("exit 143").await.exit, Exit::Exited { code: 143 });
    sandbox.end().await;
}

/// Any bytes arrive, on the stream that they were written to.
pub async fn streams_are_separate_and_byte_exact(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    let output = sandbox.shell(r"printf '\000\377\303' ; printf 'err\n\200' >&2; printf '\244'").await;
    assert_eq!(output.stdout, b"\x00\xff\xc3\xa4");
    assert_eq!(output.stderr, b"err\n\x80");
    assert_eq!(output.exit, Exit::Exited { code: 0 });
    sandbox.end().await;
}

/// Input of any size arrives whole, and its end is seen.
pub async fn stdin_arrives_whole_and_ends(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    assert_eq!(sandbox.shell("cat").await.stdout, b"");
    let input: Vec<u8> = (0..3 * MIB).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let output = sandbox.run(Command::new(["cat"]).with_stdin(input.clone())).await;
    assert!(output.stdout == input, "{} of {} bytes", output.stdout.len(), input.len());
    sandbox.end().await;
}

/// A command need not read what it is given, and can be signalled all the same.
pub async fn stdin_that_nobody_reads_holds_up_nothing(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    let input = Bytes::from(vec![b'x'; 5 * MIB]);
    assert!(sandbox.run(Command::new(["true"]).with_stdin(input.clone())).await.exit.success());
    assert!(sandbox.run(Command::shell("exec 0<&-; echo hi").with_stdin(input.clone())).await.exit.success());
    let sleeper = Command::new(["sleep", "60"]).with_stdin(input).with_cwd("/tmp");
    let execution = sandbox.session.exec(sleeper).await.unwrap();
    execution.control.signal(Signal::Terminate).await.unwrap();
    let output = timeout(PATIENCE, execution.collect(MIB)).await.unwrap().unwrap();
    assert_eq!(output.exit, Exit::Signaled { signal: 15 });
    sandbox.end().await;
}

/// The command's variables lie above the sandbox's, and those above the defaults.
pub async fn the_environment_is_layered(driver: DynSandboxDriver) {
    let spec = SandboxSpec::default().with_env("BOTH", "sandbox").with_env("LOWER", "sandbox");
    let sandbox = Fixture::with(driver, spec, Vec::new()).await;
    let print = Command::shell(r#"printf '%s,%s,%s,%s' "$BOTH" "$LOWER" "$HOME" "$PWD""#);
    let output = sandbox.run(print.with_env("BOTH", "command")).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "command,sandbox,/home/agent,/tmp");
    assert!(sandbox.run(Command::new(["env"])).await.stdout.windows(5).any(|w| w == b"PATH="));
    sandbox.end().await;
}

/// What cannot be started is an error with a reason, not an exit code.
pub async fn what_cannot_start_says_why(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    let check = async |command: Command, expected: &str| match sandbox.session.exec(command).await {
        Err(SessionError::Spawn { reason, .. }) => assert!(reason.contains(expected), "{reason}"),
        other => panic!("expected a spawn error, not {other:?}"),
    };
    check(Command::new(["nonsense"]).with_cwd("/tmp"), "no such program in PATH").await;
    check(Command::new(["/nonsense"]).with_cwd("/tmp"), "no such file").await;
    check(Command::new(["/etc/passwd"]).with_cwd("/tmp"), "not executable").await;
    check(Command::new(["true"]).with_cwd("/nonsense"), "working directory `/nonsense`").await;
    check(Command::new(["true", "a\0b"]).with_cwd("/tmp"), "NUL").await;
    check(Command::new([""; 0]).with_cwd("/tmp"), "no program").await;
    let long = "x".repeat(5 * MIB);
    check(Command::new(["true", &long]).with_cwd("/tmp"), "longer than").await;
    assert!(sandbox.shell("true").await.exit.success(), "the sandbox works on");
    sandbox.end().await;
}

/// When the time is up nothing of the command is left, not even what ignores signals or is stopped.
pub async fn a_timeout_ends_the_whole_tree(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    let (stray_file, stopped_file) = (sandbox.path("stray"), sandbox.path("stopped"));
    let line = format!(
        "{} (sh -c 'echo $$ > {stopped_file}; kill -STOP $$' &); trap '' TERM; while :; do sleep 1; done",
        stray(&stray_file)
    );
    let start = Instant::now();
    let output = sandbox.run(Command::shell(line).with_timeout(Duration::from_secs(1))).await;
    assert_eq!(output.exit, Exit::TimedOut);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    for name in ["stray", "stopped"] {
        sandbox.assert_gone(&sandbox.pid_in(name).await).await;
    }
    sandbox.end().await;
}

/// What a command leaves behind is gone when the command is reported to have ended.
pub async fn orphans_end_with_their_command(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    let file = sandbox.path("pid");
    let output = sandbox.shell(&format!("{} while ! [ -s {file} ]; do sleep 0.01; done; exit 7", stray(&file))).await;
    assert_eq!(output.exit, Exit::Exited { code: 7 });
    sandbox.assert_gone(&sandbox.pid_in("pid").await).await;
    sandbox.end().await;
}

/// The last output is there, and the command over, although a descendant still holds its stdout.
pub async fn a_held_stdout_does_not_hold_the_command(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    let start = Instant::now();
    let output = sandbox.shell("sleep 60 & echo last words").await;
    assert_eq!((output.stdout.as_slice(), output.exit), (b"last words\n".as_slice(), Exit::Exited { code: 0 }));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    sandbox.end().await;
}

/// Who no longer listens has the command's tree killed.
pub async fn dropping_an_execution_ends_its_tree(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    let line = format!("{} echo $$ > {}; sleep 60", stray(&sandbox.path("stray")), sandbox.path("main"));
    let execution = sandbox.session.exec(Command::shell(line).with_cwd("/tmp")).await.unwrap();
    let control = Arc::clone(&execution.control);
    let (main, stray) = (sandbox.pid_in("main").await, sandbox.pid_in("stray").await);
    assert!(!sandbox.is_gone(&main).await && !sandbox.is_gone(&stray).await, "both run");
    drop(execution);
    let gone = async {
        while !(sandbox.is_gone(&main).await && sandbox.is_gone(&stray).await) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the tree is killed");
    control.signal(Signal::Kill).await.expect("an ended command can be signalled");
    sandbox.end().await;
}

/// Signals arrive: those that ask can be answered, the one that kills takes the tree.
pub async fn signals_reach_the_command(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    let check = async |line: &str, signal: Signal, expected: Exit| {
        let mut execution = sandbox.session.exec(Command::shell(line).with_cwd("/tmp")).await.unwrap();
        let first = timeout(PATIENCE, execution.events.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(first, ExecEvent::Stdout(Bytes::from_static(b"ready\n")));
        execution.control.signal(signal).await.unwrap();
        let output = timeout(PATIENCE, execution.collect(MIB)).await.unwrap().unwrap();
        assert_eq!(output.exit, expected, "{line}");
    };
    let patient = "while :; do sleep 0.05; done";
    let graceful = format!("trap 'exit 3' TERM; echo ready; {patient}");
    check(&graceful, Signal::Terminate, Exit::Exited { code: 3 }).await;
    check(&format!("trap 'exit 4' INT; echo ready; {patient}"), Signal::Interrupt, Exit::Exited { code: 4 }).await;
    check("echo ready; exec sleep 60", Signal::Terminate, Exit::Signaled { signal: 15 }).await;
    check(&graceful, Signal::Kill, Exit::Signaled { signal: 9 }).await;
    sandbox.end().await;
}

/// The process that watches over a command runs as the agent; killing it must not free what it watched.
pub async fn the_supervisor_can_be_killed_without_freeing_anyone(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    let file = sandbox.path("pid");
    let line = format!("{} while ! [ -s {file} ]; do sleep 0.01; done; kill -9 $PPID; sleep 60", stray(&file));
    assert_eq!(sandbox.shell(&line).await.exit, Exit::Signaled { signal: 9 });
    sandbox.assert_gone(&sandbox.pid_in("pid").await).await;
    assert!(sandbox.shell("true").await.exit.success(), "the sandbox works on");
    sandbox.end().await;
}

/// Stopping the process that watches over a command gains the command no time.
pub async fn a_stopped_supervisor_does_not_hold_the_command(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    let output = sandbox.run(Command::shell("kill -STOP $PPID; sleep 60").with_timeout(Duration::from_secs(2))).await;
    assert!(!output.exit.success(), "{:?}", output.exit);
    assert!(sandbox.shell("true").await.exit.success(), "the sandbox works on");
    sandbox.end().await;
}

/// Not one byte is lost, and the exit code is kept, however slowly the output is read.
pub async fn a_flood_of_output_arrives_whole_whatever_the_readers_pace(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    let flood = Command::shell("head -c 50000000 /dev/zero; printf end; exit 9").with_cwd("/tmp");
    let mut execution = sandbox.session.exec(flood).await.unwrap();
    sleep(Duration::from_millis(300)).await;
    let (mut n_bytes, mut last, mut exit) = (0, 0, None);
    while let Some(event) = timeout(PATIENCE, execution.events.next()).await.unwrap() {
        match event.unwrap() {
            ExecEvent::Stdout(bytes) => {
                n_bytes += bytes.len();
                last = bytes[bytes.len() - 1];
            }
            other @ (ExecEvent::Stderr(_) | ExecEvent::Lost(_)) => panic!("{other:?}"),
            ExecEvent::Exited(ended) => exit = Some(ended),
        }
        if n_bytes < MIB {
            sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!((n_bytes, last, exit), (50_000_003, b'd', Some(Exit::Exited { code: 9 })));
    sandbox.end().await;
}

/// Commands do not wait for one another.
pub async fn many_commands_run_at_once(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    let start = Instant::now();
    let lines: Vec<String> = (0..40).map(|i| format!("sleep 1; echo {i}; exit {i}")).collect();
    let outputs = futures::future::join_all(lines.iter().map(|line| sandbox.shell(line))).await;
    for (i, output) in (0..).zip(outputs) {
        assert_eq!(output.exit, Exit::Exited { code: i });
        assert_eq!(output.stdout, format!("{i}\n").into_bytes());
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    sandbox.end().await;
}

/// A fork bomb hits the limit on processes, ends when its time is up, and leaves a sandbox that works.
pub async fn a_fork_bomb_is_ended(driver: DynSandboxDriver) {
    if driver.capabilities().processes != Enforcement::Hard {
        eprintln!("skipped: this driver cannot limit the number of processes here");
        return;
    }
    let sandbox = Fixture::new(driver).await;
    let bomb = Command::shell("bomb() { bomb | bomb & }; bomb; sleep 60").with_timeout(Duration::from_secs(2));
    let output = sandbox.run(bomb).await;
    assert!(!output.exit.success(), "{:?}", output.exit);
    assert!(sandbox.shell("true").await.exit.success(), "the sandbox works on");
    sandbox.end().await;
}

/// A file comes back as it was written, with its mode, in folders made for it.
pub async fn files_are_written_whole_and_read_back(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    let path = sandbox.path("some/new folder/ünï\n-code");
    let contents = Bytes::from((0..MIB).map(|i| (i >> 3) as u8).collect::<Vec<u8>>());
    sandbox.session.write_file(&path, contents.clone(), 0o754).await.unwrap();
    assert!(sandbox.session.read_file(&path, MIB as u64).await.unwrap() == contents);
    let stat = Command::new(["stat", "-c", "%a %s", &path]);
    assert_eq!(sandbox.run(stat).await.stdout, format!("754 {MIB}\n").into_bytes());
    sandbox.session.write_file(&path, Bytes::new(), 0o600).await.unwrap();
    assert_eq!(sandbox.session.read_file(&path, 0).await.unwrap(), Bytes::new());
    let listing = sandbox.shell(&format!("find '{}' -mindepth 1 | wc -l", sandbox.path("some/new folder"))).await;
    assert_eq!(listing.stdout, b"2\n", "one name of two lines, and nothing temporary");
    sandbox.end().await;
}

/// What is no regular file, or too large, is an error that names the cause, at once.
pub async fn what_is_no_readable_file_is_refused_without_waiting(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    sandbox.make_folder().await;
    let setup = format!(
        "cd {} && mkfifo fifo && ln -s loop loop && ln -s nowhere dangling && printf 12345 > five && truncate -s 1099511627776 sparse",
        sandbox.path("")
    );
    assert!(sandbox.shell(&setup).await.exit.success());
    let check = async |path: &str, expected: &str| {
        let read = sandbox.session.read_file(path, 4);
        let error = timeout(PATIENCE, read).await.expect("no waiting").expect_err(path);
        assert!(error.to_string().contains(expected), "{path}: {error}");
    };
    check(&sandbox.path("fifo"), "not a regular file").await;
    check("/dev/null", "not a regular file").await;
    check(&sandbox.path(""), "folder").await;
    check(&sandbox.path("loop"), "cannot read").await;
    check(&sandbox.path("dangling"), "no such file").await;
    check(&sandbox.path("none"), "no such file").await;
    check(&sandbox.path("five"), "larger than 4 bytes").await;
    check(&sandbox.path("sparse"), "larger than 4 bytes").await;
    check("tmp", "not absolute").await;
    check("", "empty").await;
    check("/tmp/a\0b", "NUL").await;
    sandbox.end().await;
}

/// What cannot be written is an error, and what was there before stays.
pub async fn what_cannot_be_written_is_refused(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    let file = sandbox.path("file");
    sandbox.session.write_file(&file, Bytes::from_static(b"old"), 0o644).await.unwrap();
    let check = async |path: &str, expected: &str| {
        // More than fits on the way: a refused host must not wait for ever with the rest.
        let write = sandbox.session.write_file(path, Bytes::from(vec![0; 2 * MIB]), 0o644);
        let error = timeout(PATIENCE, write).await.expect("no waiting").expect_err(path);
        assert!(error.to_string().contains(expected), "{path}: {error}");
    };
    check("relative", "not absolute").await;
    check("", "empty").await;
    check("/", "cannot write").await;
    check(&sandbox.path(""), "cannot write").await;
    check(&sandbox.path("file/below"), "cannot write").await;
    check(&sandbox.path(&"n".repeat(256)), "cannot write").await;
    check("/proc/self/new", "cannot write").await;
    assert_eq!(sandbox.session.read_file(&file, 10).await.unwrap(), Bytes::from_static(b"old"));
    let left = sandbox.shell(&format!("ls -A {}", sandbox.path(""))).await;
    assert_eq!(left.stdout, b"file\n", "nothing temporary is left");
    sandbox.end().await;
}

/// Answers each connection with its port, what it read, and the end.
#[derive(Debug)]
struct Echo(u16);

#[async_trait]
impl GuestService for Echo {
    async fn serve(&self, mut stream: GuestStream) {
        let mut line = [0; 6];
        if stream.read_exact(&mut line).await.is_ok() {
            let answer = format!("{}:{}", self.0, String::from_utf8_lossy(&line));
            drop(stream.write_all(answer.as_bytes()).await);
            drop(stream.close().await);
        }
    }
}

/// Connections to the sandbox's own 127.0.0.2 reach the service bound to the port, each its own.
pub async fn services_are_reached_from_inside(driver: DynSandboxDriver) {
    let ports = free_ports();
    let services = ports.map(|port| ServiceBinding { port, service: Arc::new(Echo(port)) }).to_vec();
    let sandbox = Fixture::with(driver, SandboxSpec::default(), services).await;
    for port in ports {
        let line = format!("exec 3<>/dev/tcp/127.0.0.2/{port}; echo hello >&3; cat <&3");
        let call = || sandbox.run(Command::new(["bash", "-c", &line]));
        for output in futures::future::join_all((0..8).map(|_| call())).await {
            let answer = format!("{port}:hello\n");
            assert_eq!(String::from_utf8_lossy(&output.stdout), answer, "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    sandbox.end().await;
}

/// Ports that nobody listens on, for drivers whose sandboxes share the host's network.
fn free_ports() -> [u16; 2] {
    let listeners = [0; 2].map(|_| std::net::TcpListener::bind("127.0.0.2:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Calls under way end when the sandbox does.
pub async fn a_dead_sandbox_fails_its_calls(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    let sleeper = sandbox.session.exec(Command::new(["sleep", "60"]).with_cwd("/tmp")).await.unwrap();
    sandbox.sandboxes.destroy(sandbox.session.id()).await.unwrap();
    let lost = timeout(PATIENCE, sleeper.collect(MIB)).await.expect("an end").unwrap_err();
    assert!(matches!(lost, SessionError::Lost), "{lost:?}");
    let refused = timeout(PATIENCE, sandbox.session.exec(Command::new(["true"]))).await.expect("an answer");
    assert!(matches!(refused, Err(SessionError::Lost)), "{refused:?}");
    assert!(sandbox.sandboxes.get(sandbox.session.id()).is_none());
}

/// Removing what is not there is no error.
pub async fn destroy_is_idempotent(driver: DynSandboxDriver) {
    let id = SandboxId::random();
    driver.destroy(id).await.expect("an unknown id is Ok");
    driver.create(id, &SandboxSpec::default(), &[]).await.unwrap();
    driver.destroy(id).await.unwrap();
    driver.destroy(id).await.expect("a removed id is Ok");
}

/// Of two sandboxes with one id the second is refused, and the first lives on.
pub async fn an_id_is_taken_once(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(driver).await;
    let again = sandbox.sandboxes.create(sandbox.session.id(), SandboxSpec::default(), Vec::new()).await;
    assert!(matches!(again, Err(SessionError::AlreadyExists { .. })), "{again:?}");
    assert!(sandbox.shell("true").await.exit.success(), "the first lives on");
    sandbox.end().await;
}

/// A server that starts finds what an earlier one left, and takes it over with everything in it.
pub async fn what_lives_is_listed_and_can_be_adopted(driver: DynSandboxDriver) {
    let sandbox = Fixture::new(Arc::clone(&driver)).await;
    let (id, path) = (sandbox.session.id(), sandbox.path("kept"));
    sandbox.session.write_file(&path, Bytes::from_static(b"kept"), 0o600).await.unwrap();
    let next_server = Sandboxes::new(driver);
    assert!(next_server.list().await.unwrap().contains(&id));
    let adopted = next_server.attach(id, Vec::new()).await.unwrap();
    assert_eq!(adopted.read_file(&path, 10).await.unwrap(), Bytes::from_static(b"kept"));
    sandbox.end().await;
    assert!(!next_server.list().await.unwrap().contains(&id));
}

/// Whenever the caller loses interest in a sandbox in the making, none is left.
pub async fn a_dropped_creation_leaves_nothing(driver: DynSandboxDriver) {
    let sandboxes = Sandboxes::new(driver);
    let mut ids = Vec::new();
    for interest in [0, 1, 5, 20, 100] {
        let id = SandboxId::random();
        let create = sandboxes.create(id, SandboxSpec::default(), Vec::new());
        match timeout(Duration::from_millis(interest), create).await {
            Ok(made) => sandboxes.destroy(made.unwrap().id()).await.unwrap(),
            Err(_) => ids.push(id),
        }
    }
    let none_left = async {
        // Nothing at all at two looks: a creation may not have shown itself yet at the first.
        for _ in 0..2 {
            while sandboxes.list().await.unwrap().iter().any(|id| ids.contains(id)) {
                sleep(Duration::from_millis(20)).await;
            }
            sleep(Duration::from_millis(500)).await;
        }
    };
    timeout(PATIENCE, none_left).await.expect("what nobody wants is removed");
}
