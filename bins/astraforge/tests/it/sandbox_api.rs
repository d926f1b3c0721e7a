//! Sandboxes over HTTP, on real machines: the native driver behind a real server.

use std::{path::Path, process::Command, time::Duration};

use astraforge_core::id::SandboxId;
use astraforge_http::{
    Client,
    client::GrepQuery,
    wire::sandbox::{
        NewSession, NewSnapshotBody,
        exec::{CommandBody, Encoding, ExecBody},
        files::{EditBody, MoveBody, RemoveBody},
        process::NewProcess,
    },
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::world::{World, one_command};

/// A server, and one sandbox that goes with it.
struct Yard {
    world: World,
    client: Client,
    id: SandboxId,
}

impl Yard {
    async fn new() -> Self {
        let mut world = World::without_server(one_command("true"));
        world.start();
        let client = world.client();
        let id = client.create_sandbox(&NewSession::default()).await.unwrap().id;
        Self { world, client, id }
    }

    /// Runs a line that must work, and returns what it writes.
    async fn shell(&self, line: &str) -> String {
        let view = self.client.exec(self.id, &ExecBody::shell(line)).await.unwrap();
        assert_eq!(view.exit_code, 0, "{line}: {view:?}");
        view.stdout
    }

    /// Deletes what would outlive the server.
    async fn clear(&self) {
        for sandbox in self.client.sandboxes().await.unwrap() {
            self.client.delete_sandbox(sandbox.id).await.unwrap();
        }
    }
}

#[tokio::test]
async fn commands_tell_all_that_they_do() {
    let yard = Yard::new().await;
    let exec = async |body: &ExecBody| yard.client.exec(yard.id, body).await.unwrap();
    let both = exec(&ExecBody::shell("printf 'out\\r\\n'; printf err >&2; exit 7")).await;
    assert_eq!((both.exit_code, both.stdout.as_str(), both.stderr.as_str()), (7, "out\r\n", "err"));
    let quiet = ExecBody { capture_stdout: false, ..ExecBody::shell("echo out; echo err >&2") };
    let quiet = exec(&quiet).await;
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", "err\n"));
    let bytes = ExecBody { encoding: Encoding::Base64, ..ExecBody::shell("printf '\\377\\000a'") };
    assert_eq!(BASE64_STANDARD.decode(exec(&bytes).await.stdout).unwrap(), b"\xff\0a");
    assert_eq!(exec(&ExecBody::shell("printf '\\377a'")).await.stdout, "\u{fffd}a");
    let words = CommandBody::Words(vec!["printf".to_owned(), "%s|".to_owned(), "a b".to_owned(), "$HOME".to_owned()]);
    assert_eq!(exec(&ExecBody::new(words)).await.stdout, "a b|$HOME|");
    let mut fed =
        ExecBody { stdin: "fed\0".to_owned(), cwd: Some("sub".to_owned()), ..ExecBody::shell("pwd; cat; echo $A") };
    fed.env.insert("A".to_owned(), "set".to_owned());
    yard.shell("mkdir sub").await;
    assert_eq!(exec(&fed).await.stdout, "/workspace/sub\nfed\0set\n");
    let late = ExecBody { timeout_sec: Some(1), ..ExecBody::shell("echo first; (sleep 60 &) ; sleep 60") };
    let late = exec(&late).await;
    assert_eq!((late.exit_code, late.cause.as_str(), late.stdout.as_str()), (124, "timed_out", "first\n"));
    let missing = exec(&ExecBody::new(CommandBody::Words(vec!["no-such-program".to_owned()]))).await;
    assert_eq!((missing.exit_code, missing.cause.as_str()), (127, "not_started"));
    assert!(missing.stderr.contains("no such program"), "{missing:?}");
    let large = exec(&ExecBody::shell("head -c 500000 /dev/zero | tr '\\0' x")).await;
    assert_eq!((large.stdout.len(), large.truncated), (500_000, false));
    yard.clear().await;
}

#[tokio::test]
async fn a_command_ends_with_the_caller_who_waits_for_it() {
    let yard = Yard::new().await;
    let body = ExecBody::shell("echo $$ > pid; exec sleep 1000");
    let waited = tokio::time::timeout(Duration::from_secs(2), yard.client.exec(yard.id, &body)).await;
    assert!(waited.is_err(), "it goes on for as long as somebody waits");
    yard.shell("test -s pid").await;
    let gone = "for i in $(seq 200); do kill -0 $(cat pid) 2>/dev/null || exit 0; sleep 0.05; done; exit 1";
    yard.shell(gone).await;
    yard.clear().await;
}

#[tokio::test]
async fn files_come_and_go_byte_for_byte() {
    let yard = Yard::new().await;
    let Yard { client, id, .. } = &yard;
    // Much more than either end holds in memory at once.
    let piece = Bytes::from((0..=255_u8).cycle().take(1 << 20).collect::<Vec<u8>>());
    let pieces = stream::iter((0..40).map(move |_| Ok::<_, std::io::Error>(piece.clone())));
    let view = client.upload_file(*id, "deep/er/large.bin", pieces).await.unwrap();
    assert_eq!((view.exit_code, view.size_bytes), (0, Some(40 << 20)), "{view:?}");
    let sums = yard.shell("sha256sum deep/er/large.bin | cut -d' ' -f1").await;
    let back = client.read_file(*id, "/workspace/deep/er/large.bin").await.unwrap();
    std::fs::write(yard.world.path("back"), &back).unwrap();
    let sum = Command::new("sha256sum").arg(yard.world.path("back")).output().unwrap();
    assert!(String::from_utf8(sum.stdout).unwrap().starts_with(sums.trim()));

    client.write_file(*id, "run", "#!/bin/sh\necho ran\n").await.unwrap();
    yard.shell("chmod 755 run").await;
    client.write_file(*id, "run", "#!/bin/sh\necho ran again\n").await.unwrap();
    assert_eq!(yard.shell("./run").await, "ran again\n", "a file that is written over keeps its permissions");
    for (path, code) in
        [("/etc/passwd", "outside_roots"), ("/workspace/../etc/x", "outside_roots"), ("deep", "is_directory")]
    {
        let view = client.write_file(*id, path, "x").await.unwrap();
        assert_eq!((view.exit_code, view.code.as_deref()), (1, Some(code)), "{path}: {view:?}");
        assert!(!view.stdout.is_empty() && view.stdout == view.stderr);
    }
    yard.shell("ln -s /etc/passwd link && ln -s run inner").await;
    let code = |error: astraforge_http::client::ClientError| error.code().map(str::to_owned);
    for (path, expected) in [("none", "not_found"), ("link", "outside_roots"), ("deep", "is_directory")] {
        let error = client.read_file(*id, path).await.unwrap_err();
        assert_eq!((error.status().unwrap().as_u16(), code(error).as_deref()), (400, Some(expected)), "{path}");
    }
    assert_eq!(
        client.read_file(*id, "inner").await.unwrap(),
        "#!/bin/sh\necho ran again\n",
        "a link within is followed"
    );
    let broken = stream::iter([Ok(Bytes::from("half")), Err(std::io::Error::other("the caller's disk"))]);
    assert!(client.upload_file(*id, "run", broken).await.is_err());
    assert_eq!(yard.shell("./run").await, "ran again\n", "half a file replaces nothing");
    yard.clear().await;
}

#[tokio::test]
async fn the_file_verbs_answer() {
    let yard = Yard::new().await;
    let Yard { client, id, .. } = &yard;
    client.write_file(*id, "src/a.txt", "one\ntwo\none\n").await.unwrap();
    client.make_dir(*id, "empty/within").await.unwrap();
    let listed = client.list_files(*id, "/workspace", 2).await.unwrap();
    let paths: Vec<_> = listed.entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths, ["/workspace/empty", "/workspace/empty/within", "/workspace/src", "/workspace/src/a.txt"]);
    let stat = client.stat_file(*id, "src/a.txt").await.unwrap();
    assert_eq!((stat.size, stat.mode.as_str()), (12, "644"));
    let window = client.read_text(*id, "src/a.txt", 1, 1).await.unwrap();
    assert_eq!((window.text.as_str(), window.first_line, window.total_lines), ("two\n", 2, 3));
    assert_eq!(client.glob_files(*id, "*.txt", "/workspace").await.unwrap().paths, ["/workspace/src/a.txt"]);
    let grep = GrepQuery { pattern: "^o".to_owned(), regex: true, ..GrepQuery::default() };
    let lines: Vec<_> = client.grep_files(*id, &grep).await.unwrap().matches.iter().map(|found| found.line).collect();
    assert_eq!(lines, [1, 3]);
    let counts = GrepQuery { counts: true, ..grep };
    assert_eq!(client.grep_files(*id, &counts).await.unwrap().counts[0].n_lines, 2);
    let mut edit =
        EditBody { path: "src/a.txt".to_owned(), old: "one".to_owned(), new: "1".to_owned(), replace_all: false };
    assert_eq!(client.edit_file(*id, &edit).await.unwrap_err().code(), Some("many_matches"));
    edit.replace_all = true;
    assert_eq!(client.edit_file(*id, &edit).await.unwrap().occurrences, 2);
    let moved = MoveBody { from: "src/a.txt".to_owned(), to: "empty/b.txt".to_owned(), replace: false };
    client.move_file(*id, &moved).await.unwrap();
    let remove = |recursive| RemoveBody { path: "empty".to_owned(), recursive };
    assert!(client.remove_file(*id, &remove(false)).await.is_err());
    assert_eq!(client.read_file(*id, "empty/b.txt").await.unwrap(), "1\ntwo\n1\n");
    client.remove_file(*id, &remove(true)).await.unwrap();
    assert_eq!(client.stat_file(*id, "empty").await.unwrap_err().code(), Some("not_found"));
    yard.clear().await;
}

#[tokio::test]
async fn a_process_goes_on_without_its_server_and_is_found_again() {
    let mut yard = Yard::new().await;
    let new = NewProcess {
        tag: Some("count".to_owned()),
        ..NewProcess::shell("for i in $(seq 50); do echo $i; sleep 0.1; done")
    };
    let process = yard.client.start_process(yard.id, &new).await.unwrap();
    let reads = NewProcess { open_stdin: true, tag: Some("cat".to_owned()), ..NewProcess::shell("cat > read") };
    yard.client.start_process(yard.id, &reads).await.unwrap();
    yard.shell("echo kept > kept").await;
    yard.world.kill();
    yard.world.start();
    yard.client = yard.world.client();
    let found = yard.client.processes(yard.id).await.unwrap();
    assert_eq!((found[0].id, found[0].command.as_str()), (process.id, process.command.as_str()));
    assert_eq!(yard.shell("cat kept").await, "kept\n");
    yard.client.write_input(yard.id, "cat", "said", true).await.unwrap();
    yard.shell("for i in $(seq 200); do grep -q said read && exit 0; sleep 0.05; done; exit 1").await;
    yard.client.signal_process(yard.id, "count", "kill").await.unwrap();
    let ended = async {
        while yard.client.processes(yard.id).await.unwrap()[0].exit_code != Some(137) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("it is killed");
    check_output_resumes(&yard).await;
    let unknown = yard.client.signal_process(yard.id, "nobody", "kill").await.unwrap_err();
    assert_eq!((unknown.status().unwrap().as_u16(), unknown.code()), (404, Some("no_such_process")));
    yard.clear().await;
}

/// Reads the output of a command as a stream, breaks off, and goes on where it was.
async fn check_output_resumes(yard: &Yard) {
    let new = NewProcess {
        tag: Some("lines".to_owned()),
        ..NewProcess::shell("echo one; sleep 0.3; echo two >&2; sleep 0.3; printf '\\377'")
    };
    yard.client.start_process(yard.id, &new).await.unwrap();
    let output = async |seen: Option<&str>| {
        let path = format!("{}/api/sandbox/sessions/{}/processes/lines/output/", yard.world.url(), yard.id);
        let call = reqwest::Client::new().get(path).header("x-api-key", yard.world.api_key());
        let call = seen.into_iter().fold(call, |call, seen| call.header("last-event-id", seen));
        call.send().await.unwrap().text().await.unwrap()
    };
    let whole = output(None).await;
    for part in [
        "\"type\":\"stdout\",\"data\":\"one\\n\"",
        "\"type\":\"stderr\",\"data\":\"two\\n\"",
        "\"encoding\":\"base64\"",
    ] {
        assert!(whole.contains(part), "{part} is not in\n{whole}");
    }
    assert!(whole.trim_end().ends_with("data: {\"type\":\"exited\",\"exit_code\":0,\"cause\":\"exited\"}"), "{whole}");
    let (_, rest) = whole.split_once("\n\n").unwrap();
    let seen = whole.strip_prefix("id: ").and_then(|text| text.lines().next()).unwrap();
    assert_eq!(output(Some(seen)).await, rest, "what was seen does not come again, and nothing is missing");
}

#[tokio::test]
async fn a_fork_and_a_snapshot_are_copies() {
    let yard = Yard::new().await;
    let Yard { client, id, .. } = &yard;
    yard.shell("echo old > a").await;
    let snapshot = client.take_snapshot(*id, &NewSnapshotBody::default()).await.unwrap();
    assert!(Path::new(&snapshot.archive_path).is_file(), "{snapshot:?}");
    yard.shell("echo new > a").await;
    let fork = client.fork_sandbox(*id).await.unwrap().id;
    assert_eq!(client.diff_snapshot(*id, snapshot.id).await.unwrap().changes.len(), 1);
    client.restore_snapshot(*id, snapshot.id).await.unwrap();
    assert_eq!(
        (client.read_file(*id, "a").await.unwrap(), client.read_file(fork, "a").await.unwrap()),
        ("old\n".into(), "new\n".into())
    );
    let usage = client.measure_sandbox(*id).await.unwrap().expect("it has a machine");
    assert!(usage.disk_bytes > Some(0) && usage.memory_bytes > Some(0), "{usage:?}");
    client.stop_sandbox(fork).await.unwrap();
    assert_eq!(client.measure_sandbox(fork).await.unwrap(), None);
    let picture = client.take_screenshot(*id).await.unwrap_err();
    assert_eq!((picture.status().unwrap().as_u16(), picture.code()), (501, Some("not_supported")));
    let mut events = client.download_file(fork, "a").await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap(), "new\n", "it came back");
    yard.clear().await;
}

#[tokio::test]
#[ignore = "needs the published wheel: cargo xtask test --only contract"]
async fn the_published_wheel_works_unchanged() {
    let yard = Yard::new().await;
    let packages = std::env::var("ASTRAFORGE_TEST_WHEEL").expect("cargo xtask test --only contract");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract/published_wheel.py");
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", packages).arg(script).arg(yard.world.url()).arg(yard.world.api_key());
    let output = tokio::task::spawn_blocking(move || python.output().unwrap()).await.unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(
        output.status.success() && said.contains("the published wheel works"),
        "{said}\n{}",
        yard.world.server_log()
    );
    yard.clear().await;
}
