//! The audit of a real server: what is in it, and that a change of its database is found.

use std::{
    io::Write,
    process::{Output, Stdio},
};

use astraforge_core::access::Role;
use astraforge_http::wire::api_key::NewApiKey;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Executor as _, sqlite::SqliteConnectOptions};

use crate::world::{World, one_command};

/// Runs a command on the machine itself, with a line on standard input.
fn typed(world: &World, words: &[&str], line: &str) -> Output {
    let mut command = world.astraforge_with(&[]);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[track_caller]
fn works(world: &World, words: &[&str]) -> String {
    let output = typed(world, words, "correct horse");
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The database file as another program has it.
async fn tamper(world: &World, statement: &'static str) {
    let options = SqliteConnectOptions::new().filename(world.path("data/astraforge.db"));
    options.connect().await.unwrap().execute(statement).await.unwrap();
}

/// A server on a file, on which a few things were done.
async fn used() -> World {
    let mut world = World::without_server(one_command("true"));
    world.options.clear();
    works(&world, &["users", "add", "mira", "--role", "reviewer"]);
    world.start();
    let client = world.client();
    client.make_api_key(&NewApiKey::new("ci", Role::Observer)).await.unwrap();
    let body = json!({"username": "mira", "password": "wrong horse"}).to_string();
    let call = reqwest::Client::new().post(format!("{}/api/auth/login/", world.url())).body(body);
    let answer = call.header("content-type", "application/json").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    works(&world, &["users", "role", "mira", "admin"]);
    world
}

#[tokio::test]
async fn what_is_done_at_a_server_and_beside_it_is_one_chain() {
    let world = used().await;
    let export = works(&world, &["audit", "export"]);
    let entries: Vec<Value> = export.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> =
        entries.iter().map(|it| [&it["action"], &it["user"], &it["means"]].map(|it| it.as_str().unwrap())).collect();
    let me = format!("uid {}", rustix::process::getuid().as_raw());
    let key = told[3][2];
    let expected = [
        ["user.add", &me, "command_line"],
        ["key.made", "", "server"],
        ["key.used", "owner", key],
        ["api.make_api_key", "owner", key],
        ["login.refused", "", "nothing"],
        ["user.role", &me, "command_line"],
    ];
    assert_eq!(told, expected);
    assert!(key.starts_with("key:") && !export.contains("horse"), "{export}");

    let listed = works(&world, &["audit", "ls", "--limit", "2"]);
    let lines: Vec<_> = listed.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains("user.role  mira  done"), "{listed}");
    let rest: Value = serde_json::from_str(&works(&world, &["audit", "ls", "--before", "3", "--json"])).unwrap();
    assert_eq!(rest.as_array().unwrap().len(), 2);
    let verified = works(&world, &["audit", "verify"]);
    assert!(verified.contains("tenant-default: holds: 6 entries, the end is 6:"), "{verified}");
    let page = reqwest::Client::new().get(format!("{}/api/audit/?limit=1", world.url()));
    let page = page.header("x-api-key", world.api_key()).send().await.unwrap().text().await.unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["items"][0], entries[5], "the server and the command line show the same");
}

#[tokio::test]
async fn a_changed_database_is_found_with_an_exit_code_and_the_row() {
    let mut world = used().await;
    world.stop();
    let head = works(&world, &["audit", "verify", "--json"]);
    let head = serde_json::from_str::<Value>(&head).unwrap()[0]["head"].as_str().unwrap().to_owned();
    works(&world, &["audit", "verify", "--expect", &head]);
    tamper(&world, "DROP TRIGGER audit_entries_stay; DROP TRIGGER audit_entries_remain").await;
    tamper(&world, "DROP TRIGGER audit_heads_advance; DROP TRIGGER audit_heads_remain").await;
    tamper(&world, "UPDATE audit_entries SET actor = 'eve' WHERE action = 'api.make_api_key'").await;
    let fails = |words: &[&str], reason: &str| {
        let output = typed(&world, words, "");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code() == Some(1) && text.contains(reason), "{words:?}: {output:?}");
    };
    fails(&["audit", "verify"], "tenant-default: does not hold: entry 4 is not as it was written");
    fails(&["audit", "verify", "--json"], r#""fault":"entry 4 is not as it was written"#);
    tamper(&world, "DELETE FROM audit_entries; DELETE FROM audit_heads").await;
    assert!(works(&world, &["audit", "verify"]).contains("nothing was written yet"));
    fails(&["audit", "verify", "--expect", &head], "entry 6 was marked, and the chain ends with entry 0");
    let rubbish = typed(&world, &["audit", "verify", "--expect", "6"], "");
    assert!(String::from_utf8_lossy(&rubbish.stderr).contains("expected its number, a colon"), "{rubbish:?}");
}
