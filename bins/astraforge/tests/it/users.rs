//! People who log in with a name and a password at a real server.

use std::{
    io::Write,
    process::{Output, Stdio},
};

use reqwest::{Client, StatusCode, header::SET_COOKIE};
use serde_json::json;

use crate::world::{World, one_command};

/// Runs `astraforge users` with a line on standard input.
fn users(world: &World, words: &[&str], typed: &str) -> Output {
    let mut command = world.astraforge_with(&[]);
    command.arg("users").args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{typed}\n").as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[track_caller]
fn works(world: &World, words: &[&str], typed: &str) -> String {
    let output = users(world, words, typed);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn people_who_were_added_log_in_from_pages_that_are_trusted() {
    let mut world = World::without_server(one_command("true"));
    world.options.push("--trusted-origins=https://pages.example, https://others.example/".to_owned());
    works(&world, &["add", "mira", "--role", "reviewer"], "correct horse");
    let short = users(&world, &["add", "ada"], "short");
    assert!(!short.status.success() && String::from_utf8_lossy(&short.stderr).contains("8 characters"));
    let taken = users(&world, &["add", "mira"], "another horse");
    assert!(String::from_utf8_lossy(&taken.stderr).contains("users passwd mira"), "{taken:?}");
    world.start();

    _ = rustls::crypto::ring::default_provider().install_default();
    let http = Client::new();
    let log_in = async |password: &str, origin: &str| {
        let body = json!({"username": "mira", "password": password}).to_string();
        let call = http.post(format!("{}/api/auth/login/", world.url())).header("origin", origin);
        call.header("content-type", "application/json").body(body).send().await.unwrap()
    };
    let pages = "https://others.example";
    assert_eq!(log_in("correct horse", "https://evil.example").await.status(), StatusCode::FORBIDDEN);
    assert_eq!(log_in("wrong horse", pages).await.status(), StatusCode::UNAUTHORIZED);
    let answer = log_in("correct horse", pages).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let cookies = answer.headers().get_all(SET_COOKIE).iter().map(|it| it.to_str().unwrap().split(';').next().unwrap());
    let cookies = cookies.collect::<Vec<_>>().join("; ");
    let me = async || {
        let call = http.get(format!("{}/api/auth/me/", world.url())).header("cookie", &cookies);
        call.send().await.unwrap().status()
    };
    assert_eq!(me().await, StatusCode::OK);
    assert!(works(&world, &["ls"], "").contains("mira  reviewer  active"));
    works(&world, &["passwd", "mira"], "battery staple");
    assert_eq!(me().await, StatusCode::UNAUTHORIZED, "another password ends all logins");
    assert_eq!(log_in("battery staple", pages).await.status(), StatusCode::OK);
    works(&world, &["disable", "mira"], "");
    assert_eq!(log_in("battery staple", pages).await.status(), StatusCode::UNAUTHORIZED);
    assert!(!users(&world, &["role", "nobody", "admin"], "").status.success());
}
