//! Hints and run logs in Redis, on servers that are restarted, flushed and absent.
//!
//! `cargo xtask test --only services` starts a server for these; a test that harms its server has one of its own.

#![expect(clippy::unwrap_used, reason = "a failing test is what this code is for")]

mod outside;
mod server;
mod streams;
mod wakeups;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use astraforge_adapters::redis::RedisConfig;
use uuid::Uuid;

/// Names a server, which may be shared as long as each test has a prefix of its own.
const VARIABLE: &str = "ASTRAFORGE_TEST_REDIS";

/// How long something may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until something is so that happens by itself, and says what did not come.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "in vain for {} s: {what}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What is logged on this thread, as long as this value lives.
struct Log {
    file: tempfile::NamedTempFile,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Default for Log {
    fn default() -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(Arc::new(file.reopen().unwrap()));
        Self { file, _guard: tracing::subscriber::set_default(subscriber.finish()) }
    }
}

impl Log {
    fn read(&self) -> String {
        std::fs::read_to_string(self.file.path()).unwrap()
    }
}

/// The shared server, with a prefix that nobody else has.
fn shared() -> RedisConfig {
    let url = std::env::var(VARIABLE).unwrap_or_else(|_| panic!("{VARIABLE} has to name a Redis server"));
    RedisConfig::new(&url).unwrap().with_prefix(format!("test-{}", Uuid::new_v4().simple()))
}
