//! What wakes readers when rows change, in this process and in others; Redis also gets run logs as streams.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use astraforge_adapters::{
    postgres::{PostgresConfig, PostgresWakeups},
    redis::{RedisBus, RedisConfig},
    wakeup::{BusTrouble, InProcessWakeups},
};
use astraforge_core::{ports::wakeup::Wakeups, run_log::RunLogs};
use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};

use crate::{config::given, database::DatabaseArgs};

/// Which bus is used.
#[derive(Debug, Args)]
pub(crate) struct EventBusArgs {
    /// What wakes the readers of other processes; without it they look by themselves, within a second [default: redis
    /// when REDIS_URL is set, else postgres when DATABASE_URL is, else memory]
    #[arg(long, global = true, env = "EVENT_BUS", value_enum, value_name = "BUS")]
    event_bus: Option<Kind>,
    /// Redis, such as `redis://user:password@host:6379/0`; set the variable instead, which other users of the machine
    /// can't see
    #[arg(long, global = true, env = "REDIS_URL", value_name = "URL", hide_env_values = true)]
    redis_url: Option<String>,
    /// First part of the names of run logs in Redis
    #[arg(long, global = true, env = "RUN_LOG_STREAM_PREFIX", value_name = "NAME", default_value = "runlog",
          value_parser = NonEmptyStringValueParser::new())]
    run_log_stream_prefix: String,
    /// About how many events of a run log are kept in Redis
    #[arg(long, global = true, env = "RUN_LOG_STREAM_MAXLEN", value_name = "N", default_value_t = 512,
          value_parser = clap::value_parser!(u32).range(1..))]
    run_log_stream_maxlen: u32,
    /// How long a run log is kept in Redis after it was last appended to; 0 is for ever
    #[arg(long, global = true, env = "RUN_LOG_RETENTION_SECONDS", value_name = "SECONDS", default_value_t = 21_600,
          value_parser = clap::value_parser!(u64).range(..=3_153_600_000))]
    run_log_retention_seconds: u64,
}

/// A bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Inside this process
    Memory,
    /// Notifications of the PostgreSQL server in DATABASE_URL
    Postgres,
    /// The Redis server in REDIS_URL, which also gets run logs as streams
    Redis,
}

/// A bus that is not at work yet.
enum Choice {
    Memory,
    Postgres(PostgresConfig),
    Redis(RedisConfig),
}

/// A bus that is at work.
#[derive(Debug, Clone)]
pub(crate) enum EventBus {
    Memory(InProcessWakeups),
    Postgres(Arc<PostgresWakeups>),
    Redis(Arc<RedisBus>),
}

impl EventBusArgs {
    /// Starts the bus. A server that is not there may come later.
    pub(crate) fn open(&self, database: &DatabaseArgs, logs: impl Into<RunLogs>) -> anyhow::Result<EventBus> {
        Ok(match self.choice(database)? {
            Choice::Memory => EventBus::Memory(InProcessWakeups::default()),
            Choice::Postgres(postgres) => EventBus::Postgres(Arc::new(PostgresWakeups::start(&postgres))),
            Choice::Redis(redis) => EventBus::Redis(Arc::new(RedisBus::start(&redis, logs))),
        })
    }

    /// Fails if the settings contradict each other.
    pub(crate) fn check(&self, database: &DatabaseArgs) -> anyhow::Result<()> {
        self.choice(database).map(drop)
    }

    fn choice(&self, database: &DatabaseArgs) -> anyhow::Result<Choice> {
        let (redis, postgres) = (self.redis()?, database.postgres()?);
        Ok(match (self.event_bus, redis, postgres) {
            (Some(Kind::Redis) | None, Some(redis), _) => Choice::Redis(redis),
            (Some(Kind::Redis), None, _) => bail!("EVENT_BUS is redis, and REDIS_URL names no server: set it"),
            (Some(Kind::Postgres), _, Some(postgres)) | (None, None, Some(postgres)) => Choice::Postgres(postgres),
            (Some(Kind::Postgres), _, None) => {
                bail!("EVENT_BUS is postgres, and DATABASE_URL names no PostgreSQL server: set it")
            }
            (Some(Kind::Memory), _, _) | (None, None, None) => Choice::Memory,
        })
    }

    fn redis(&self) -> anyhow::Result<Option<RedisConfig>> {
        let Some(url) = given(self.redis_url.as_deref()) else { return Ok(None) };
        let seconds = self.run_log_retention_seconds;
        let config = RedisConfig::new(url).context("REDIS_URL cannot be used")?;
        Ok(Some(
            config
                .with_prefix(&self.run_log_stream_prefix)
                .with_max_length(self.run_log_stream_maxlen)
                .with_retention((seconds > 0).then_some(Duration::from_secs(seconds))),
        ))
    }
}

impl EventBus {
    /// What the journal wakes readers with.
    pub(crate) fn wakeups(&self) -> Arc<dyn Wakeups> {
        match self {
            Self::Memory(wakeups) => Arc::new(wakeups.clone()),
            Self::Postgres(wakeups) => wakeups.clone(),
            Self::Redis(bus) => bus.clone(),
        }
    }

    /// Tells whether it carries hints, as of the last few seconds. Asks nobody.
    pub(crate) fn check(&self) -> Result<(), BusTrouble> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Postgres(wakeups) => wakeups.check(),
            Self::Redis(bus) => bus.check(),
        }
    }

    /// Gives it a moment to connect, and says what a person should know if it doesn't. The node works without it.
    pub(crate) async fn trouble_at_start(&self) -> Option<String> {
        const MOMENT: Duration = Duration::from_secs(1);
        let began = Instant::now();
        loop {
            match self.check() {
                Ok(()) => return None,
                Err(trouble) if began.elapsed() > MOMENT => return Some(trouble.to_string()),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Publishes what was written until now, if that is quick.
    pub(crate) async fn close(&self) {
        if let Self::Redis(bus) = self {
            bus.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use astraforge_adapters::{secret_box::SecretKey, sqlite::SqliteStore};
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        bus: EventBusArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    }

    const POSTGRES: &str = "--database-url=postgres://someone@127.0.0.1:1/x";
    const REDIS: &str = "--redis-url=redis://127.0.0.1:1/0";

    async fn open(words: &[&str]) -> anyhow::Result<EventBus> {
        let line = Line::try_parse_from(["astraforge"].iter().chain(words))?;
        let folder = tempfile::tempdir()?;
        let store = SqliteStore::open(folder.path().join("a.db"), SecretKey::random()?).await?;
        line.bus.open(&line.database, Arc::new(store))
    }

    async fn check(words: &[&str], expected: &str) {
        let found = match open(words).await {
            Ok(EventBus::Memory(_)) => "memory".to_owned(),
            Ok(EventBus::Postgres(_)) => "postgres".to_owned(),
            Ok(EventBus::Redis(_)) => "redis".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        assert!(found.contains(expected), "{words:?}: {found}");
    }

    #[tokio::test]
    async fn the_bus_is_what_is_asked_for_or_what_there_is() {
        check(&[], "memory").await;
        check(&[POSTGRES], "postgres").await;
        check(&[REDIS], "redis").await;
        check(&[REDIS, POSTGRES], "redis").await;
        check(&[REDIS, POSTGRES, "--event-bus=postgres"], "postgres").await;
        check(&[REDIS, POSTGRES, "--event-bus=memory"], "memory").await;
        check(&["--redis-url=", "--database-url="], "memory").await;
    }

    #[test]
    fn run_logs_in_redis_are_named_and_kept_as_the_variables_say() {
        let check = |words: &[&str], expected: &str| {
            let line = Line::try_parse_from(["astraforge", REDIS].iter().chain(words)).unwrap();
            let config = format!("{:?}", line.bus.redis().unwrap().unwrap());
            assert!(config.contains(expected), "{config}");
        };
        check(&[], r#"prefix: "runlog", max_length: 512, retention: Some(21600s)"#);
        check(&["--run-log-stream-prefix=acme"], r#"prefix: "acme""#);
        check(&["--run-log-stream-maxlen=9"], "max_length: 9");
        check(&["--run-log-retention-seconds=60"], "retention: Some(60s)");
        check(&["--run-log-retention-seconds=0"], "retention: None");
    }

    #[tokio::test]
    async fn a_contradiction_names_the_variable() {
        check(&["--event-bus=redis"], "REDIS_URL names no server").await;
        check(&["--event-bus=redis", POSTGRES], "REDIS_URL names no server").await;
        check(&["--event-bus=postgres", REDIS], "DATABASE_URL names no PostgreSQL server").await;
        check(&["--redis-url=localhost:6379"], "REDIS_URL cannot be used").await;
        check(&["--event-bus=kafka"], "--event-bus").await;
        check(&[REDIS, "--run-log-stream-maxlen=0"], "--run-log-stream-maxlen").await;
        check(&[REDIS, "--run-log-stream-prefix="], "--run-log-stream-prefix").await;
        check(&[REDIS, "--run-log-retention-seconds=-1"], "--run-log-retention-seconds").await;
    }

    #[tokio::test]
    async fn a_server_that_is_absent_is_a_note_and_no_failure() {
        for (words, expected) in [(REDIS, "Redis at 127.0.0.1:1/0"), (POSTGRES, "PostgreSQL at 127.0.0.1:1/x")] {
            let note = open(&[words]).await.unwrap().trouble_at_start().await.unwrap();
            assert!(note.contains(expected), "{note}");
        }
        assert_eq!(open(&[]).await.unwrap().trouble_at_start().await, None);
    }
}
