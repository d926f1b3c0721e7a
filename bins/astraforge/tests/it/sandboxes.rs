//! `astraforge sandbox`, as a person types it: machines that keep their files.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::world::{World, one_command};

/// A data folder without a server; what it made is deleted at the end.
struct Desk(World);

impl Desk {
    fn new() -> Self {
        Self(World::without_server(one_command("true")))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.0.astraforge_with(&[]);
        command.arg("sandbox").args(words).stdin(Stdio::null());
        command
    }

    /// Runs a command that must work.
    #[track_caller]
    fn works(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}\n{error}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    #[track_caller]
    fn fails(&self, words: &[&str], with: &str) {
        let output = self.command(words).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(with), "{words:?}\n{error}");
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.works(&[words, &["--json"]].concat())).unwrap()
    }

    fn shell(&self, id: &str, line: &str) -> String {
        self.works(&["exec", id, "--", "sh", "-c", line])
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let listed = self.command(&["ls", "--json"]).output().unwrap();
        let sandboxes: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap_or_default();
        for sandbox in sandboxes {
            drop(self.command(&["rm", sandbox["id"].as_str().unwrap()]).output());
        }
    }
}

#[test]
fn a_sandbox_keeps_its_files_through_everything() {
    let desk = Desk::new();
    let id = desk.works(&["create"]);
    desk.shell(
        &id,
        "mkdir -p src && echo one > src/a && ln -s src/a link && printf '#!/bin/sh\\necho ran' > run && chmod +x run",
    );
    let snapshot = desk.json(&["snapshot", &id, "--label", "first"]);
    assert_eq!((snapshot["label"].as_str(), snapshot["sha256"].as_str().map(str::len)), (Some("first"), Some(64)));
    desk.shell(&id, "echo two > src/b && rm link");
    assert_eq!(desk.works(&["diff", &id]), "D  /workspace/link\nA  /workspace/src/b");
    desk.works(&["stop", &id]);
    let row = &desk.json(&["ls"])[0];
    assert_eq!((row["status"].as_str(), row["terminated_reason"].as_str()), (Some("terminated"), Some("stopped")));
    assert_eq!(desk.shell(&id, "./run && cat src/a src/b"), "ran\none\ntwo", "it came back as it was stopped");
    let fork = desk.works(&["fork", &id]);
    desk.works(&["restore", &id, snapshot["id"].as_str().unwrap()]);
    assert_eq!(desk.shell(&id, "ls && cat link"), "link\nrun\nsrc\none");
    assert_eq!(desk.shell(&fork, "ls src"), "a\nb", "a fork is a machine of its own");
    let copy = desk.works(&["create", "--restore", snapshot["id"].as_str().unwrap()]);
    assert_eq!(desk.shell(&copy, "cat link"), "one");
    desk.works(&["rm", &id]);
    desk.fails(&["exec", &id, "--", "true"], "not found");
}

#[test]
fn commands_and_files_pass_through_as_they_are() {
    let desk = Desk::new();
    let id = desk.works(&["create"]);
    let failed = desk.command(&["exec", &id, "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).output().unwrap();
    assert_eq!((failed.status.code(), failed.stdout, failed.stderr), (Some(7), b"out\n".to_vec(), b"err\n".to_vec()));
    let late = desk.command(&["exec", &id, "--timeout", "1", "--", "sleep", "100"]).output().unwrap();
    assert_eq!(late.status.code(), Some(124));
    let mut cat = desk.command(&["exec", &id, "--", "cat"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = cat.stdin.take().unwrap();
    let input: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
    let sent = input.clone();
    let writing = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    assert!(cat.wait_with_output().unwrap().stdout == input, "bytes of any value, in and out");
    writing.join().unwrap();

    let (here, back) = (desk.0.path("here"), desk.0.path("back"));
    fs::write(&here, &input).unwrap();
    let there = format!("{id}:/workspace/new/folder/there");
    desk.works(&["cp", here.to_str().unwrap(), &there]);
    desk.works(&["cp", &there, back.to_str().unwrap()]);
    assert!(fs::read(back).unwrap() == input);
    desk.fails(&["cp", here.to_str().unwrap(), &format!("{id}:/etc/passwd")], "only paths below /workspace, /tmp");
    desk.fails(&["cp", &format!("{id}:/workspace/none"), desk.0.path("x").to_str().unwrap()], "no such file");
    desk.fails(&["cp", "a", "b"], "SANDBOX:PATH");
    desk.fails(&["exec", "nonsense", "--", "true"], "`astraforge sandbox ls` lists the ids");
}

#[test]
fn a_server_takes_over_what_was_made_without_one() {
    let mut desk = Desk::new();
    let id = desk.works(&["create"]);
    desk.shell(&id, "echo kept > file; (setsid sleep 1000 &)");
    desk.0.start();
    assert_eq!(desk.shell(&id, "cat file"), "kept");
    desk.0.kill();
    assert_eq!(desk.shell(&id, "cat file"), "kept", "it does not live in the server");
}
