//! `astraforge --server … sandbox`, where a server makes a difference.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    relay::Relay,
    sandboxes::{Desk, both_ways},
};

#[test]
fn what_is_printed_does_not_depend_on_where_it_comes_from() {
    let mut desk = Desk::new();
    desk.world.start();
    let url = desk.world.url().to_owned();
    let id =
        desk.works(&["create", "--pids", "64", "--tmpfs", "16Mi", "--egress", "allow:example.com", "--cpu", "1.5"]);
    desk.shell(&id, "mkdir src && echo needle > src/a && ln -s a src/b");
    desk.works(&["exec", &id, "-d", "--tag", "job", "--", "sh", "-c", "echo out; kill -9 $$"]);
    while desk.json(&["ps", &id])[0]["exit_code"].is_null() {}
    let snapshot = desk.json(&["snapshot", &id, "--label", "first"])["id"].clone();
    let snapshot = snapshot.as_str().unwrap().to_owned();
    let ask = "echo more >> src/a; exec 3<>/dev/tcp/127.0.0.2/3128; \
               printf 'CONNECT evil-example.com:443 HTTP/1.1\\r\\n\\r\\n' >&3; cat <&3";
    desk.works(&["exec", &id, "--", "bash", "-c", ask]);
    desk.works(&["export", &id, "/workspace/src/a"]);
    let looks: [&[&str]; 13] = [
        &["ls"],
        &["show", &id],
        &["ps", &id],
        &["logs", &id, "job"],
        &["snapshots", &id],
        &["artifacts", &id],
        &["diff", &id, &snapshot],
        &["egress", &id],
        &["files", "ls", &id, "--depth", "3"],
        &["files", "glob", &id, "*"],
        &["files", "grep", &id, "needle"],
        &["files", "grep", &id, "needle", "--count"],
        &["files", "cat", &id, "/workspace/src/a"],
    ];
    let ways: [&[&str]; 2] = [&[], &["--json"]];
    for (look, way) in looks.iter().flat_map(|look| ways.map(|way| (look, way))) {
        let words = [look, way].concat();
        desk.variables.clear();
        let here = without_usage(&desk.works(&words));
        desk.asks(&url);
        assert_eq!(here, without_usage(&desk.works(&words)), "{words:?}");
    }
    let made = desk.json(&["create", "--pids", "64", "--tmpfs", "16Mi", "--cpu", "500m", "-e", "A=b"]);
    let text = desk.works(&["show", made["id"].as_str().unwrap()]);
    assert!(text.contains("16Mi in memory") && text.contains("64 processes, 500m processors"), "{text}");
    assert_eq!(desk.shell(made["id"].as_str().unwrap(), "echo $A"), "b");
    desk.fails(&["attack"], "on the drivers of this machine");
}

/// What is measured changes from call to call.
fn without_usage(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("uses"));
    let text = lines.collect::<Vec<_>>().join("\n");
    match serde_json::from_str::<Value>(&text) {
        Ok(Value::Object(mut shown)) if shown.contains_key("usage") => {
            let usage = shown.remove("usage").unwrap();
            let names: Vec<_> = usage.as_object().unwrap().keys().cloned().collect();
            shown.insert("usage".to_owned(), names.into());
            Value::Object(shown).to_string()
        }
        _ => text,
    }
}

/// Starts a command that goes on until it is ended, and waits until it runs.
fn endless(desk: &Desk, id: &str) -> Child {
    let line = "sleep 1000 & echo $! > child; echo $$ > pid; echo up; wait";
    let mut command = desk.command(&["exec", id, "--", "sh", "-c", line]);
    let mut command = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(command.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "up\n");
    command
}

#[track_caller]
fn ends(desk: &Desk, id: &str, patience: Duration) {
    let began = Instant::now();
    while desk.shell(id, "if kill -0 $(cat pid) || kill -0 $(cat child); then echo there; fi 2>/dev/null") == "there" {
        assert!(began.elapsed() < patience, "it goes on");
    }
}

fn a_command_that_is_told_to_end_ends_at_once_and_one_that_is_killed_soon(desk: Desk) {
    let id = desk.works(&["create"]);
    let mut told = endless(&desk, &id);
    kill_process(Pid::from_child(&told), Signal::INT).unwrap();
    assert_eq!(told.wait().unwrap().code(), Some(130));
    ends(&desk, &id, Duration::from_secs(10));
    let mut killed = endless(&desk, &id);
    killed.kill().unwrap();
    killed.wait().unwrap();
    ends(&desk, &id, Duration::from_secs(60));
}

both_ways!(a_command_that_is_told_to_end_ends_at_once_and_one_that_is_killed_soon);

#[test]
fn output_is_followed_over_a_server_that_starts_anew() {
    let mut desk = Desk::served();
    let relay = Relay::new(desk.world.url(), u64::MAX);
    let relayed = relay.url().to_owned();
    desk.asks(&relayed);
    let id = desk.works(&["create"]);
    desk.shell(&id, "mkfifo go");
    let line = "echo before; read -r line < /workspace/go; echo after; exit 3";
    desk.works(&["exec", &id, "-d", "--tag", "job", "--", "sh", "-c", line]);
    let mut follow = desk.command(&["logs", &id, "job", "--follow"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(follow.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(output.next().as_deref(), Some("before"));
    desk.world.kill();
    desk.world.start();
    relay.leads_to(desk.world.url());
    desk.shell(&id, "echo on > go");
    assert_eq!(output.collect::<Vec<_>>(), ["after"]);
    assert!(follow.wait().unwrap().success());
}

#[test]
fn files_are_restored_from_an_archive_and_links_lead_to_the_server() {
    let desk = Desk::served();
    let id = desk.works(&["create"]);
    desk.shell(&id, "echo old > file");
    let archive = desk.json(&["snapshot", &id])["archive_path"].as_str().unwrap().to_owned();
    desk.shell(&id, "echo new > file");
    desk.works(&["restore", &id, "--from", &archive]);
    assert_eq!(desk.shell(&id, "cat file"), "old");
    let artifact = desk.json(&["export", &id, "/workspace/file"])["id"].as_str().unwrap().to_owned();
    let link = desk.works(&["link", &artifact, "--expires", "60"]);
    assert!(link.starts_with(desk.world.url()), "{link}");
    desk.fails(&["link", &artifact, "--expires", "99999999"], "1 to 604800 seconds");
    let beat = desk.json(&["heartbeat", &id]);
    assert_eq!(beat["id"].as_str(), Some(id.as_str()));
}
