//! Wake-ups across the processes on one Redis server.

use ::redis::{aio::MultiplexedConnection, cmd};
use astraforge_core::{
    BoxError,
    ports::wakeup::{Topic, Wakeups},
};
use async_trait::async_trait;
use futures::{StreamExt as _, stream::BoxStream};

use super::RedisConfig;
use crate::wakeup::{
    BusTrouble,
    across::{Across, Carrier, Voice},
};

/// Wakes the readers of every process with the same Redis server and prefix, with `PUBLISH` and `SUBSCRIBE`.
///
/// Waking never waits for the server: hints are folded, and told in the background. When a connection is lost, it is made
/// again, and then every reader looks; until then readers look by themselves.
///
/// ```no_run
/// use astraforge_adapters::redis::{RedisConfig, RedisWakeups};
/// use astraforge_core::ports::wakeup::{Topic, Wakeups};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let wakeups = RedisWakeups::start(&RedisConfig::new("redis://redis.example:6379/0")?);
/// wakeups.wake(Topic::Jobs);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct RedisWakeups {
    across: Across,
}

impl RedisWakeups {
    /// Begins to listen and to tell, in the background, as long as this value lives. The server may come later.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(config: &RedisConfig) -> Self {
        Self { across: Across::start(Channel { config: config.clone() }) }
    }

    /// Tells whether hints are carried, as of the last few seconds. Asks nobody, so it may be called often.
    ///
    /// # Errors
    /// [`BusTrouble`] says why not.
    pub fn check(&self) -> Result<(), BusTrouble> {
        self.across.check()
    }
}

impl Wakeups for RedisWakeups {
    fn wake(&self, topic: Topic) {
        self.across.wake(topic);
    }

    fn watch(&self, topic: Topic) -> BoxStream<'static, ()> {
        self.across.watch(topic)
    }
}

#[derive(Debug)]
struct Channel {
    config: RedisConfig,
}

#[async_trait]
impl Carrier for Channel {
    fn name(&self) -> String {
        self.config.name()
    }

    async fn listen(&self) -> Result<BoxStream<'static, Result<String, BoxError>>, BoxError> {
        let mut subscription = self.config.client.get_async_pubsub().await?;
        subscription.subscribe(self.config.channel()).await?;
        let messages = subscription.into_on_message();
        Ok(messages.map(|message| Ok(String::from_utf8_lossy(message.get_payload_bytes()).into_owned())).boxed())
    }

    async fn connect(&self) -> Result<Box<dyn Voice>, BoxError> {
        Ok(Box::new(Publisher { connection: self.config.connect().await?, channel: self.config.channel() }))
    }
}

struct Publisher {
    connection: MultiplexedConnection,
    channel: String,
}

#[async_trait]
impl Voice for Publisher {
    async fn say(&mut self, text: String) -> Result<(), BoxError> {
        Ok(cmd("PUBLISH").arg(&self.channel).arg(text).query_async::<()>(&mut self.connection).await?)
    }
}
