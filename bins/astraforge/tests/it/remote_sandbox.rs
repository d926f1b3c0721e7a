//! A real sandbox of another server, from Rust: behind the ports that a local one has.

use std::time::Duration;

use astraforge_core::{
    id::SandboxId,
    ports::{
        machines::Machine,
        sessions::{Execution, Session, SessionError},
    },
    process::ProcessName,
    session::{Command, ExecEvent, Exit, PtySize, Signal},
};
use astraforge_http::{Client, client::RemoteSandbox, wire::sandbox::NewSession};
use bytes::Bytes;
use futures::StreamExt;

use crate::{
    relay::Relay,
    world::{World, one_command},
};

/// More than any of these commands writes.
const ALL: usize = 64 << 20;

/// A server with a sandbox, and the way to it.
struct Yard {
    world: World,
    relay: Relay,
    sandbox: RemoteSandbox,
}

impl Yard {
    /// A yard whose connections break after so many bytes.
    async fn new(bytes: u64) -> Self {
        let mut world = World::without_server(one_command("true"));
        world.start();
        let id = world.client().create_sandbox(&NewSession::default()).await.unwrap().id;
        let relay = Relay::new(world.url(), bytes);
        let sandbox = open(&world, &relay, id).await;
        Self { world, relay, sandbox }
    }

    /// Runs a line that must work, and returns what it writes.
    async fn shell(&self, line: &str) -> String {
        let output = self.sandbox.exec(Command::shell(line)).await.unwrap().collect(ALL).await.unwrap();
        assert!(output.exit.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until the process whose number is in `file` is gone.
    async fn sees_the_end_of(&self, file: &str) {
        self.shell(&format!(
            "for i in $(seq 600); do kill -0 $(cat {file}) 2>/dev/null || exit 0; sleep 0.05; done; exit 1"
        ))
        .await;
    }

    async fn clear(self) {
        self.world.client().delete_sandbox(self.sandbox.id()).await.unwrap();
    }
}

async fn open(world: &World, relay: &Relay, id: SandboxId) -> RemoteSandbox {
    _ = rustls::crypto::ring::default_provider().install_default();
    Client::new(relay.url(), world.api_key()).unwrap().open_sandbox(id).await.unwrap()
}

/// Reads standard output until it holds a word.
async fn see(execution: &mut Execution, word: &str) -> String {
    let mut text = String::new();
    let reading = async {
        while !text.contains(word) {
            match execution.events.next().await.unwrap().unwrap() {
                ExecEvent::Stdout(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
                other => panic!("{other:?} instead of {word:?} after {text:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reading).await.unwrap();
    text
}

#[tokio::test]
async fn commands_are_started_fed_steered_and_told_of() {
    let yard = Yard::new(u64::MAX).await;
    let sandbox = &yard.sandbox;
    let run = async |command: Command| sandbox.exec(command).await.unwrap().collect(ALL).await.unwrap();
    let both = run(Command::shell("printf '\\377\\000'; echo err >&2; exit 7")).await;
    assert_eq!(
        (both.stdout, both.stderr, both.exit),
        (b"\xff\0".to_vec(), b"err\n".to_vec(), Exit::Exited { code: 7 })
    );
    let input: Bytes = (0..1_000_000_u32).map(|n| n as u8).collect::<Vec<u8>>().into();
    assert!(run(Command::new(["cat"]).with_stdin(input.clone())).await.stdout == input, "what it reads first");
    let late = run(Command::new(["sleep", "100"]).with_timeout(Duration::from_secs(1))).await;
    assert_eq!(late.exit, Exit::TimedOut);
    let killed = run(Command::shell("kill -9 $$")).await;
    assert_eq!(killed.exit, Exit::Signaled { signal: 9 });
    let set = Command::shell("pwd; echo $A").with_cwd("/tmp").with_env("A", "b c");
    assert_eq!(run(set).await.stdout, b"/tmp\nb c\n");
    let missing = sandbox.exec(Command::new(["no-such-program"])).await.unwrap_err();
    assert!(matches!(&missing, SessionError::Spawn { program, .. } if program == "no-such-program"), "{missing:?}");

    let mut cat = sandbox.exec(Command::new(["cat"]).with_stdin("first ").with_open_stdin()).await.unwrap();
    cat.control.write_stdin("second".into()).await.unwrap();
    assert_eq!(see(&mut cat, "second").await, "first second");
    cat.control.close_stdin().await.unwrap();
    assert!(cat.collect(ALL).await.unwrap().exit.success());
    let deaf = sandbox.exec(Command::new(["sleep", "1000"])).await.unwrap();
    let refused = deaf.control.write_stdin("x".into()).await.unwrap_err();
    assert!(matches!(refused, SessionError::Unsupported { .. }), "{refused:?}");
    deaf.control.signal(Signal::Terminate).await.unwrap();
    assert_eq!(deaf.collect(ALL).await.unwrap().exit, Exit::Signaled { signal: 15 });

    let size = PtySize { rows: 30, columns: 100 };
    let mut shell = sandbox.exec(Command::new(["sh", "-i"]).with_pty(size)).await.unwrap();
    shell.control.write_stdin("stty size\n".into()).await.unwrap();
    see(&mut shell, "30 100").await;
    shell.control.resize(PtySize { rows: 40, columns: 120 }).await.unwrap();
    shell.control.write_stdin("until stty size | grep '40 120'; do :; done; exit 3\n".into()).await.unwrap();
    see(&mut shell, "\n40 120").await;
    assert_eq!(shell.collect(ALL).await.unwrap().exit, Exit::Exited { code: 3 });
    assert_eq!(sandbox.processes().await.unwrap(), [], "commands that are waited for are no processes that go on");
    yard.clear().await;
}

#[tokio::test]
async fn a_command_ends_with_its_execution_and_all_it_started() {
    let yard = Yard::new(u64::MAX).await;
    let line = "sleep 1000 & echo $! > child; echo $$ > pid; echo up; wait";
    let mut execution = yard.sandbox.exec(Command::shell(line)).await.unwrap();
    see(&mut execution, "up").await;
    drop(execution);
    yard.sees_the_end_of("pid").await;
    yard.sees_the_end_of("child").await;
    yard.clear().await;
}

#[tokio::test]
async fn output_goes_on_where_the_connection_broke_and_none_is_lost() {
    // Less than one stream holds, so that each of them breaks.
    let yard = Yard::new(300_000).await;
    let line = "head -c 3000000 /dev/urandom > f; sha256sum < f; head -c 1500000 f; tail -c 1500000 f >&2";
    let output = yard.sandbox.exec(Command::shell(line)).await.unwrap().collect(ALL).await.unwrap();
    assert!(yard.relay.n_connections() > 10, "it broke again and again");
    assert!(!output.truncated);
    let (sum, first) = output.stdout.split_at(68);
    std::fs::write(yard.world.path("whole"), [first, &output.stderr].concat()).unwrap();
    let here = std::process::Command::new("sha256sum").arg(yard.world.path("whole")).output().unwrap().stdout;
    assert_eq!((here.len() > 64, &here[..64]), (true, &sum[..64]));
    yard.clear().await;
}

#[tokio::test]
async fn a_process_is_followed_over_broken_connections_and_a_server_that_starts_anew() {
    // More than one event, and less than all of them.
    let mut yard = Yard::new(150_000).await;
    let line = "for i in $(seq 20000); do echo line $i; done; read go < /workspace/go; seq 3 >&2; exit 5";
    yard.shell("mkfifo go").await;
    let process = yard.sandbox.spawn(Command::shell(line), Some("job".parse().unwrap())).await.unwrap();
    let mut following = yard.sandbox.attach("job".parse().unwrap(), 0).await.unwrap();
    let before = see(&mut following, "line 20000\n").await;
    let expected: String = (1..=20_000).map(|n| format!("line {n}\n")).collect();
    assert!(before == expected, "nothing is doubled, nothing missing");
    assert!(yard.relay.n_connections() > 2);
    yard.world.kill();
    // A youngest process of that tag is another one from now on.
    yard.world.start();
    yard.relay.leads_to(yard.world.url());
    let other = Command::new(["sleep", "1000"]);
    let sandbox = open(&yard.world, &yard.relay, yard.sandbox.id()).await;
    sandbox.spawn(other, Some("job".parse().unwrap())).await.unwrap();
    yard.shell("echo > go").await;
    let rest = following.collect(ALL).await.unwrap();
    assert_eq!((rest.stderr.as_slice(), rest.exit), (b"1\n2\n3\n".as_slice(), Exit::Exited { code: 5 }));
    let ended = yard.sandbox.attach(ProcessName::Id(process.id), expected.len() as u64).await.unwrap();
    assert_eq!(ended.collect(ALL).await.unwrap().stderr, b"1\n2\n3\n", "it is read again from any byte on");
    let beyond = yard.sandbox.attach(ProcessName::Id(process.id), 1 << 40).await.unwrap_err();
    assert!(matches!(beyond, SessionError::Unsupported { .. }), "{beyond:?}");
    yard.clear().await;
}

#[tokio::test]
async fn output_that_is_no_longer_kept_is_told_as_lost() {
    let yard = Yard::new(u64::MAX).await;
    let process = yard.sandbox.spawn(Command::shell("head -c 20000000 /dev/zero"), None).await.unwrap();
    let name = ProcessName::Id(process.id);
    while yard.sandbox.processes().await.unwrap()[0].exit.is_none() {}
    let mut following = yard.sandbox.attach(name, 0).await.unwrap();
    let ExecEvent::Lost(n_lost) = following.events.next().await.unwrap().unwrap() else { panic!("nothing is lost") };
    let kept = following.collect(ALL).await.unwrap().stdout.len() as u64;
    assert_eq!(n_lost + kept, 20_000_000);
    yard.clear().await;
}

#[tokio::test]
async fn a_process_that_is_gone_with_its_sandbox_is_lost_and_wakes_nothing() {
    let yard = Yard::new(u64::MAX).await;
    let process = yard.sandbox.spawn(Command::shell("echo up; exec sleep 1000"), None).await.unwrap();
    let mut following = yard.sandbox.attach(ProcessName::Id(process.id), 0).await.unwrap();
    see(&mut following, "up\n").await;
    let client = yard.world.client();
    client.stop_sandbox(yard.sandbox.id()).await.unwrap();
    let told = following.events.next().await.unwrap();
    assert!(matches!(told, Err(SessionError::Lost)), "{told:?}");
    assert_eq!(client.sandbox(yard.sandbox.id()).await.unwrap().status.as_str(), "terminated", "nobody woke it");
    yard.clear().await;
}

#[tokio::test]
async fn a_command_ends_with_its_server_and_that_is_told() {
    let mut yard = Yard::new(u64::MAX).await;
    let mut execution = yard.sandbox.exec(Command::shell("echo $$ > pid; echo up; exec sleep 1000")).await.unwrap();
    see(&mut execution, "up\n").await;
    yard.world.kill();
    yard.world.start();
    yard.relay.leads_to(yard.world.url());
    let told = execution.events.next().await.unwrap();
    assert!(matches!(told, Err(SessionError::Lost)), "{told:?}");
    yard.sees_the_end_of("pid").await;
    yard.clear().await;
}
