//! Hints between the processes on one Redis server.

use std::{sync::LazyLock, time::Duration};

use astraforge_adapters::redis::{RedisConfig, RedisWakeups};
use astraforge_core::{
    ports::wakeup::{Topic, Wakeups as _},
    testing::wakeups_conformance::TwoProcesses,
};
use futures::StreamExt as _;
use tokio::{runtime::Runtime, time::timeout};

use crate::{PATIENCE, server::Server, shared, until};

/// The rules are asked without a runtime; what works in the background has this one.
static BACKGROUND: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

async fn up(config: &RedisConfig) -> RedisWakeups {
    let wakeups = RedisWakeups::start(config);
    is_up(&wakeups).await;
    wakeups
}

async fn is_up(wakeups: &RedisWakeups) {
    until("hints are carried", async || wakeups.check().is_ok()).await;
}

mod in_one_process {
    astraforge_core::wakeups_conformance!(super::BACKGROUND.block_on(async { super::up(&super::shared()).await }));
}

mod between_two {
    astraforge_core::wakeups_conformance!(super::BACKGROUND.block_on(async {
        let config = super::shared();
        super::TwoProcesses { teller: super::up(&config).await, reader: super::up(&config).await }
    }));
}

#[tokio::test]
async fn processes_with_another_prefix_are_left_alone() {
    let (one, other) = (up(&shared()).await, up(&shared()).await);
    let (mut mine, mut theirs) = (one.watch(Topic::Jobs), other.watch(Topic::Jobs));
    one.wake(Topic::Jobs);
    assert_eq!(timeout(PATIENCE, mine.next()).await, Ok(Some(())));
    assert!(timeout(Duration::from_millis(300), theirs.next()).await.is_err());
}

#[tokio::test]
async fn hints_come_again_after_a_restart_of_the_server() {
    let mut server = Server::started();
    let (one, other) = (up(&server.config()).await, up(&server.config()).await);
    let mut jobs = other.watch(Topic::Jobs);
    for _ in 0..3 {
        server.stop();
        until("the server is missed", async || other.check().is_err()).await;
        one.wake(Topic::Jobs);
        server.start();
        // Whatever was told meanwhile, a reader looks once the connection is back.
        assert_eq!(timeout(PATIENCE, jobs.next()).await, Ok(Some(())));
        is_up(&one).await;
        is_up(&other).await;
        while timeout(Duration::from_millis(50), jobs.next()).await.is_ok() {}
        one.wake(Topic::Jobs);
        assert_eq!(timeout(PATIENCE, jobs.next()).await, Ok(Some(())));
    }
}

#[tokio::test]
async fn a_server_that_comes_later_is_used_when_it_comes() {
    let mut server = Server::new();
    let wakeups = RedisWakeups::start(&server.config());
    let mut jobs = wakeups.watch(Topic::Jobs);
    for _ in 0..10_000 {
        wakeups.wake(Topic::Jobs);
    }
    assert_eq!(timeout(PATIENCE, jobs.next()).await, Ok(Some(())), "readers of this process are woken anyway");
    let trouble = || wakeups.check().unwrap_err().to_string();
    until("it was tried to connect", async || !trouble().contains("not connected yet")).await;
    let trouble = trouble();
    assert!(trouble.contains(&format!("Redis at 127.0.0.1:{}/0 carries no hints", server.port())), "{trouble}");
    server.start();
    is_up(&wakeups).await;
}

#[test]
fn an_address_that_is_none_is_refused_and_none_tells_its_password() {
    for url in [
        "",
        "http://localhost",
        "localhost:6379",
        "redis",
        "redis:",
        "redis:h",
        "redis://",
        "redis://:p@ss@[::/0",
        "redis://h:port/0",
        "redis://h/x",
    ] {
        assert!(RedisConfig::new(url).is_err(), "{url}");
    }
    let config = RedisConfig::new("rediss://someone:hush@redis.example:6380/2").unwrap();
    assert!(!format!("{config:?}").contains("hush"), "{config:?}");
    assert!(format!("{config:?}").contains("Redis at redis.example:6380/2"), "{config:?}");
}
