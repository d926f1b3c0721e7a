//! `astraforge sandbox`, as a person types it: machines that keep their files.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::world::{World, one_command};

/// A data folder; what it made is deleted at the end.
pub(crate) struct Desk {
    pub(crate) world: World,
    /// What is in the environment of commands.
    pub(crate) variables: Vec<(String, String)>,
}

/// Plays each story with the sandboxes of the data folder, and again with those of a server.
macro_rules! both_ways {
    ($($story:ident)*) => {
        mod in_the_data_folder { $(
            #[test]
            fn $story() {
                super::$story(crate::sandboxes::Desk::new());
            }
        )* }

        mod through_a_server { $(
            #[test]
            fn $story() {
                super::$story(crate::sandboxes::Desk::served());
            }
        )* }
    };
}

pub(crate) use both_ways;

impl Desk {
    pub(crate) fn new() -> Self {
        Self { world: World::without_server(one_command("true")), variables: Vec::new() }
    }

    /// A desk whose commands go to a server, for its sandboxes.
    pub(crate) fn served() -> Self {
        let mut desk = Self::new();
        desk.world.start();
        let url = desk.world.url().to_owned();
        desk.asks(&url);
        desk
    }

    /// Has commands go to the server at `url`.
    pub(crate) fn asks(&mut self, url: &str) {
        let key = self.world.api_key().to_owned();
        self.variables = vec![("ASTRAFORGE_SERVER".into(), url.into()), ("ASTRAFORGE_API_KEY".into(), key)];
    }

    /// The data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.world.path("data")
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = self.world.astraforge_with(&[]);
        command.envs(self.variables.iter().cloned()).arg("sandbox").args(words).stdin(Stdio::null());
        command
    }

    /// Runs a command that must work.
    #[track_caller]
    pub(crate) fn works(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}\n{error}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    #[track_caller]
    pub(crate) fn fails(&self, words: &[&str], with: &str) {
        let output = self.command(words).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(with), "{words:?}\n{error}");
    }

    #[track_caller]
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.works(&[words, &["--json"]].concat())).unwrap()
    }

    pub(crate) fn shell(&self, id: &str, line: &str) -> String {
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

fn a_sandbox_keeps_its_files_through_everything(desk: Desk) {
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

fn commands_and_files_pass_through_as_they_are(desk: Desk) {
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

    let (here, back) = (desk.world.path("here"), desk.world.path("back"));
    fs::write(&here, &input).unwrap();
    let there = format!("{id}:/workspace/new/folder/there");
    desk.works(&["cp", here.to_str().unwrap(), &there]);
    desk.works(&["cp", &there, back.to_str().unwrap()]);
    assert!(fs::read(back).unwrap() == input);
    desk.fails(&["cp", here.to_str().unwrap(), &format!("{id}:/etc/passwd")], "only paths below /workspace, /tmp");
    desk.fails(&["cp", &format!("{id}:/workspace/none"), desk.world.path("x").to_str().unwrap()], "no such file");
    desk.fails(&["cp", "a", "b"], "SANDBOX:PATH");
    desk.fails(&["exec", "nonsense", "--", "true"], "`astraforge sandbox ls` lists the ids");
}

fn folders_are_copied_whole(desk: Desk) {
    let id = desk.works(&["create"]);
    let here = desk.world.path("project");
    fs::create_dir_all(here.join("src/empty")).unwrap();
    fs::write(here.join("src/main.py"), "print(1)\n").unwrap();
    std::os::unix::fs::symlink("src/main.py", here.join("link")).unwrap();
    fs::set_permissions(here.join("src/main.py"), fs::Permissions::from_mode(0o755)).unwrap();
    let to = format!("{id}:/workspace");
    desk.works(&["cp", here.to_str().unwrap(), &to]);
    assert_eq!(
        desk.shell(&id, "cd project && find . | sort && readlink link && test -x src/main.py"),
        ".\n./link\n./src\n./src/empty\n./src/main.py\nsrc/main.py"
    );
    desk.fails(&["cp", here.to_str().unwrap(), &to], "pass --replace");
    desk.shell(&id, "echo more > project/more; ln -s / project/root; ln project/more project/same");
    let back = desk.world.path("back");
    desk.works(&["cp", &format!("{to}/project"), back.to_str().unwrap()]);
    assert_eq!(fs::read_link(back.join("root")).unwrap().to_str(), Some("/"), "a link comes as a link");
    assert_eq!(fs::read(back.join("same")).unwrap(), b"more\n");
    assert!(fs::metadata(back.join("src/empty")).unwrap().is_dir());
    assert_eq!(fs::metadata(back.join("src/main.py")).unwrap().permissions().mode() & 0o777, 0o755);
    desk.works(&["cp", "--replace", here.to_str().unwrap(), &format!("{to}/project")]);
    assert_eq!(desk.shell(&id, "ls project"), "link\nsrc");
    desk.fails(&["cp", &format!("{to}/none"), back.to_str().unwrap()], "no such file");
}

fn a_command_goes_on_and_is_followed_by_name(desk: Desk) {
    let id = desk.works(&["create", "--env", "WHO=you", "--memory", "512Mi", "--pids", "64", "--cpu", "1.5"]);
    let line = "echo hello $WHO $AND; read -r line < /workspace/go; echo $line; exit 3";
    desk.shell(&id, "mkfifo go");
    let process = desk.works(&["exec", &id, "-d", "--tag", "job", "-e", "AND=me", "--", "sh", "-c", line]);
    let mut follow = desk.command(&["logs", &id, "job", "-f"]);
    let follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    while desk.works(&["logs", &id, &process]) != "hello you me" {}
    let listed = desk.json(&["ps", &id]);
    assert_eq!((listed[0]["tag"].as_str(), listed[0]["exit_code"].as_i64()), (Some("job"), None));
    desk.shell(&id, "echo on > go");
    assert_eq!(follow.wait_with_output().unwrap().stdout, b"hello you me\non\n");
    assert_eq!(desk.works(&["logs", &id, "job", "--from", "13"]), "on");
    assert_eq!(desk.json(&["ps", &id])[0]["exit_code"].as_i64(), Some(3));
    desk.works(&["exec", &id, "--detach", "--tag", "job", "--", "sleep", "1000"]);
    desk.works(&["kill", &id, "job", "--signal", "kill"]);
    while desk.json(&["ps", &id])[1]["exit_code"].is_null() {}
    assert_eq!(desk.json(&["ps", &id])[1]["exit_code"].as_i64(), Some(137));
    desk.fails(&["logs", &id, "nobody"], "lists them");
    let shown = desk.json(&["show", &id]);
    assert!(shown["usage"]["processes"].as_i64().unwrap() >= 1, "{shown}");
    assert!(shown["usage"]["disk_bytes"].as_i64().is_some(), "{shown}");
}

fn files_are_looked_at_and_changed(desk: Desk) {
    let id = desk.works(&["create", "--tmpfs", "16Mi"]);
    desk.works(&["files", "mkdir", &id, "/workspace/src"]);
    desk.shell(&id, "printf 'one\ntwo\n' > src/a.rs");
    assert!(desk.works(&["files", "ls", &id]).ends_with("/workspace/src"));
    assert_eq!(desk.works(&["files", "glob", &id, "*.rs"]), "/workspace/src/a.rs");
    assert_eq!(desk.works(&["files", "grep", &id, "t.o", "-E"]), "/workspace/src/a.rs:2: two");
    desk.works(&["files", "edit", &id, "/workspace/src/a.rs", "two", "three"]);
    assert_eq!(desk.works(&["files", "cat", &id, "/workspace/src/a.rs"]), "one\nthree");
    desk.fails(&["files", "edit", &id, "/workspace/src/a.rs", "two", "three"], "edit `/workspace/src/a.rs`");
    desk.works(&["files", "mv", &id, "/workspace/src", "/workspace/lib"]);
    desk.fails(&["files", "rm", &id, "/workspace/lib"], "not empty");
    desk.works(&["files", "rm", "-r", &id, "/workspace/lib"]);
    desk.fails(&["files", "cat", &id, "/etc/passwd"], "only paths below /workspace, /tmp");
}

fn what_was_taken_out_stays_when_the_sandbox_is_gone(desk: Desk) {
    let id = desk.works(&["create"]);
    desk.shell(&id, "echo precious > report");
    let copy = desk.world.path("copy");
    let exported =
        ["export", &id, "/workspace/report", "--output", copy.to_str().unwrap(), "--filename", "r\u{e9}.txt"];
    let artifact = desk.json(&exported);
    assert_eq!((artifact["filename"].as_str(), artifact["size_bytes"].as_i64()), (Some("r\u{e9}.txt"), Some(9)));
    assert_eq!(fs::read(copy).unwrap(), b"precious\n");
    assert_eq!(desk.json(&["artifacts", &id])[0]["id"], artifact["id"]);
}

both_ways!(
    a_sandbox_keeps_its_files_through_everything
    commands_and_files_pass_through_as_they_are
    folders_are_copied_whole
    a_command_goes_on_and_is_followed_by_name
    files_are_looked_at_and_changed
    what_was_taken_out_stays_when_the_sandbox_is_gone
    what_a_sandbox_may_reach_is_chosen_shown_and_changed
);

#[test]
fn what_cannot_be_meant_says_what_to_do() {
    let desk = Desk::new();
    desk.fails(&["create", "--cpu", "many"], "such as 2, 1.5 or 500m");
    desk.fails(&["create", "--memory", "2 GB"], "such as 512Mi");
    desk.fails(&["create", "--image", "--privileged"], "unexpected argument");
    desk.fails(&["create", "--mode", "podman"], "it has native");
    desk.fails(&["create", "--id", "mine"], "--id takes a UUID");
    desk.fails(&["create", "--idle", "5"], "greater than or equal to 60");
    desk.fails(&["create", "--tmpfs", "1Gi", "--hard"], "cannot be used with");
    desk.fails(&["show", "0190f3c4-6d0e-7a3c-8f52-2f6c1f0e9d77"], "not found");
    desk.fails(&["attack", "--server", "http://127.0.0.1:1"], "on the drivers of this machine");
    desk.fails(&["ls", "--server", "http://127.0.0.1:1"], "needs a key");
    desk.fails(&["ls", "--server", "http://127.0.0.1:1", "--api-key", "k"], "failed to reach the server");
    let id = desk.works(&["create", "--id", "0190f3c4-6d0e-7a3c-8f52-2f6c1f0e9d77"]);
    assert_eq!(desk.works(&["create", "--id", &id]), id, "the same id is the same sandbox");
    desk.fails(&["shell", &id], "no terminal");
}

#[test]
fn a_server_takes_over_what_was_made_without_one() {
    let mut desk = Desk::new();
    let id = desk.works(&["create"]);
    desk.shell(&id, "echo kept > file; (setsid sleep 1000 &)");
    desk.world.start();
    assert_eq!(desk.shell(&id, "cat file"), "kept");
    desk.world.kill();
    assert_eq!(desk.shell(&id, "cat file"), "kept", "it does not live in the server");
}

fn what_a_sandbox_may_reach_is_chosen_shown_and_changed(desk: Desk) {
    desk.fails(&["create", "--egress", "allow:http://example.com"], "is not a rule for hosts");
    let id = desk.works(&["create", "--egress", "allow:example.com"]);
    let ask = "p=${HTTPS_PROXY##*:}; exec 3<>/dev/tcp/127.0.0.2/$p; \
               printf 'CONNECT evil-example.com:443 HTTP/1.1\\r\\n\\r\\n' >&3; cat <&3 | grep AstraForge";
    let told = desk.works(&["exec", &id, "--", "bash", "-c", ask]);
    assert!(told.contains("no rule of this sandbox's allowlist names `evil-example.com`"), "{told}");
    let shown = desk.json(&["egress", &id]);
    assert_eq!(shown["egress"], "allow:example.com");
    let event = &shown["events"][0];
    assert_eq!(
        (event["host"].as_str(), event["outcome"]["outcome"].as_str()),
        (Some("evil-example.com"), Some("refused"))
    );
    let changed = desk.works(&["egress", &id, "--set", "off"]);
    assert!(changed.starts_with("off\n") && changed.contains("refused  evil-example.com:443"), "{changed}");
    let told = desk.works(&["exec", &id, "--", "bash", "-c", ask]);
    assert!(told.contains("egress is off"), "{told}");
    let by_default = desk.works(&["create"]);
    assert_eq!(desk.works(&["egress", &by_default]), "public");
}

#[test]
fn attacks_are_told_as_they_end_and_programs_get_one_document() {
    let desk = Desk::new();
    let attack = ["attack", "--driver", "native", "--only", "double-destroy", "--only", "environment", "--json"];
    let output = desk.command(&attack).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["driver"].as_str(), report["tier"].as_str()), (Some("native"), Some("T1")));
    let cases: Vec<_> = report["cases"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(cases, ["environment", "double-destroy"]);
    let rows: Vec<_> = told.lines().filter_map(|it| it.strip_prefix("pass  ")?.split(' ').next()).collect();
    assert_eq!(rows, cases, "standard error has a line for each: {told}");
}
