//! The bus of a real server: runs reach other programs through Redis, and a bus that is absent holds up nothing.

use std::{
    fs,
    net::TcpListener,
    process::Command,
    time::{Duration, Instant},
};

use astraforge_core::{event::Envelope, request::RequestState};

use crate::world::{World, one_command};

#[tokio::test]
#[ignore = "needs servers: cargo xtask test --only services"]
async fn a_run_is_in_redis_as_it_is_in_the_log() {
    let redis = std::env::var("ASTRAFORGE_TEST_REDIS").unwrap();
    let mut world = world_with(&redis);
    world.options.push(format!("--run-log-stream-prefix=world-{}", uuid::Uuid::new_v4().simple()));
    let prefix = world.options.last().unwrap().split_once('=').unwrap().1.to_owned();
    world.start();
    let request = world.patch_ready("Make it").await.id;
    let log = world.log(request).await;
    let last = format!("{}-0", log.last().unwrap().seq);
    let expected: Vec<String> = log
        .into_iter()
        .map(|event| (event.seq, serde_json::to_string(&Envelope::from(event)).unwrap()))
        .map(|(seq, json)| format!("{seq}-0 {json}"))
        .collect();
    let began = Instant::now();
    let mut entries = entries(&redis, &format!("{prefix}:{request}"));
    while !entries.last().is_some_and(|entry| entry.starts_with(&last)) {
        assert!(began.elapsed() < Duration::from_secs(20), "the last event does not come: {entries:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        entries = self::entries(&redis, &format!("{prefix}:{request}"));
    }
    assert_eq!(entries, expected);
}

#[tokio::test]
async fn a_redis_that_is_absent_is_told_and_holds_up_no_run() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut world = world_with(&format!("redis://someone:hush@127.0.0.1:{port}/0"));
    world.start();
    let request = world.patch_ready("Make it").await;
    assert_eq!(request.state, RequestState::PatchReady);
    let log = fs::read_to_string(world.path("server.log")).unwrap();
    assert!(log.contains(&format!("Redis at 127.0.0.1:{port}/0")), "{log}");
    assert!(!log.contains("hush"), "{log}");
}

#[test]
fn a_bus_without_its_server_is_refused_at_the_start() {
    let mut world = World::without_server(one_command("true"));
    // Without the database that a world may have.
    world.options.clear();
    for (bus, named) in [("redis", "REDIS_URL"), ("postgres", "DATABASE_URL")] {
        let mut command = world.astraforge_with(&["up", "--listen", "127.0.0.1:0", "--event-bus", bus]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(named), "{said}");
    }
}

/// A server that is to use Redis at `url`, before it is started.
fn world_with(url: &str) -> World {
    let mut world = World::without_server(one_command("echo made > made"));
    world.make_repository("demo", |clone| fs::write(clone.join("README.md"), "# demo\n").unwrap());
    world.options.push(format!("--redis-url={url}"));
    world
}

/// The entries of a stream as `redis-cli` reads them: id and data.
fn entries(url: &str, stream: &str) -> Vec<String> {
    let output = Command::new("redis-cli").args(["-u", url, "XRANGE", stream, "-", "+"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    lines.chunks(3).map(|entry| format!("{} {}", entry[0], entry[2])).collect()
}
