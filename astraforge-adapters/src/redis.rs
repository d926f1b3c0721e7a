//! Redis: hints for the readers of other processes, and run logs as streams that other programs read.

use std::{fmt, time::Duration};

use ::redis::{AsyncConnectionConfig, Client, aio::MultiplexedConnection};
use astraforge_core::{BoxError, id::RequestId};

pub use self::{bus::RedisBus, wakeups::RedisWakeups};

mod bus;
mod streams;
mod wakeups;

/// How long the server may take to answer a command that does not wait. Without it half a second would do, which a busy
/// server misses.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a stream is kept at most, unless it is kept for ever: 100 years.
const LONGEST_RETENTION: Duration = Duration::from_secs(3_153_600_000);

/// Where Redis is, and how it is used.
///
/// ```
/// let config = astraforge_adapters::redis::RedisConfig::new("redis://localhost:6379/0")?;
/// let config = config.with_prefix("acme");
/// # Ok::<(), astraforge_adapters::redis::RedisAddressError>(())
/// ```
#[derive(Clone)]
pub struct RedisConfig {
    client: Client,
    prefix: String,
    max_length: u32,
    retention: Option<Duration>,
}

/// The address is not one.
#[derive(Debug, thiserror::Error)]
#[error(
    "the Redis address is no `redis://user:password@host:port/number` (`rediss://` with TLS); a password with signs \
     such as `@` or `/` has them percent-encoded"
)]
pub struct RedisAddressError;

impl RedisConfig {
    /// Reads an address such as `redis://user:password@host:6379/0`, or `rediss://` for TLS.
    ///
    /// # Errors
    /// [`RedisAddressError`].
    pub fn new(url: &str) -> Result<Self, RedisAddressError> {
        let client = Client::open(url).map_err(|_| RedisAddressError)?;
        Ok(Self { client, prefix: "runlog".to_owned(), max_length: 512, retention: Some(Duration::from_secs(21_600)) })
    }

    /// Begins the names of everything in Redis with another word than `runlog`.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Keeps about so many events of each log, 512 unless set, at least 1. Redis removes older ones in blocks.
    #[must_use]
    pub fn with_max_length(mut self, max_length: u32) -> Self {
        self.max_length = max_length.max(1);
        self
    }

    /// Keeps a stream for so long after it was last appended to, 6 hours unless set; `None` keeps it until somebody
    /// removes it. More than 100 years are taken for 100 years, a time that can be counted with.
    #[must_use]
    pub fn with_retention(mut self, retention: Option<Duration>) -> Self {
        self.retention = retention.map(|retention| retention.min(LONGEST_RETENTION));
        self
    }

    /// The stream of a request's log.
    #[must_use]
    pub fn stream(&self, request: RequestId) -> String {
        format!("{}:{request}", self.prefix)
    }

    /// The channel of hints.
    fn channel(&self) -> String {
        format!("{}:hints", self.prefix)
    }

    /// Host, port and number of the database.
    fn name(&self) -> String {
        let info = self.client.get_connection_info();
        format!("Redis at {}/{}", info.addr(), info.redis_settings().db())
    }

    /// Opens a connection for commands that do not wait.
    async fn connect(&self) -> Result<MultiplexedConnection, BoxError> {
        let patience = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(RESPONSE_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        Ok(self.client.get_multiplexed_async_connection_with_config(&patience).await?)
    }
}

// Without the password.
impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("server", &self.name())
            .field("prefix", &self.prefix)
            .field("max_length", &self.max_length)
            .field("retention", &self.retention)
            .finish()
    }
}
