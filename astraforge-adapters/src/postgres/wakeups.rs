//! Wake-ups across the processes of one database, through its own notifications.

use std::time::Duration;

use astraforge_core::{
    BoxError,
    ports::wakeup::{Topic, Wakeups},
};
use async_trait::async_trait;
use futures::{StreamExt as _, stream, stream::BoxStream};
use sqlx::{
    Connection as _, PgConnection,
    postgres::{PgListener, PgPoolOptions},
};

use super::open::{PostgresConfig, connect};
use crate::{
    sql::statement::Statements as _,
    wakeup::{
        BusTrouble,
        across::{Across, Carrier, Voice},
    },
};

/// The channel of all processes of a database.
const CHANNEL: &str = "astraforge_hints";

/// How long the connection that listens may take to be made. It is less than the whole attempt may take, so that it can
/// be asked why there is none.
const LISTENER_PATIENCE: Duration = Duration::from_secs(5);

/// Wakes the readers of every process on one PostgreSQL database, with `NOTIFY` and `LISTEN`.
///
/// It holds two connections of its own beside those of the store: one that listens, and one that notifies. Waking never
/// waits for the server: hints are folded, and told in the background. When a connection is lost, it is made again, and
/// then every reader looks; until then readers look by themselves.
///
/// ```no_run
/// use astraforge_adapters::postgres::{PostgresConfig, PostgresWakeups};
/// use astraforge_core::ports::wakeup::{Topic, Wakeups};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = PostgresConfig::new("postgres://astraforge:secret@db.example:5432/astraforge")?;
/// let wakeups = PostgresWakeups::start(&config);
/// wakeups.wake(Topic::Jobs);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct PostgresWakeups {
    across: Across,
}

impl PostgresWakeups {
    /// Begins to listen and to tell, in the background, as long as this value lives. The server may come later.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(config: &PostgresConfig) -> Self {
        Self { across: Across::start(Notifications { config: config.clone() }) }
    }

    /// Tells whether hints are carried, as of the last few seconds. Asks nobody, so it may be called often.
    ///
    /// # Errors
    /// [`BusTrouble`] says why not.
    pub fn check(&self) -> Result<(), BusTrouble> {
        self.across.check()
    }
}

impl Wakeups for PostgresWakeups {
    fn wake(&self, topic: Topic) {
        self.across.wake(topic);
    }

    fn watch(&self, topic: Topic) -> BoxStream<'static, ()> {
        self.across.watch(topic)
    }
}

#[derive(Debug)]
struct Notifications {
    config: PostgresConfig,
}

impl Notifications {
    /// Says why a pool got no connection in time, which it keeps to itself: one without a pool is told at once.
    async fn explain(&self) -> BoxError {
        match connect(&self.config).await {
            Err(error) => error.into(),
            Ok(connection) => match connection.close().await {
                Err(error) => self.config.explain(error).into(),
                Ok(()) => sqlx::Error::PoolTimedOut.into(),
            },
        }
    }
}

#[async_trait]
impl Carrier for Notifications {
    fn name(&self) -> String {
        format!("PostgreSQL at {}", self.config.name())
    }

    async fn listen(&self) -> Result<BoxStream<'static, Result<String, BoxError>>, BoxError> {
        // A listener only takes its connection from a pool. This pool has no other, and is never asked for a second one.
        let pool = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
        let pool = pool.acquire_timeout(LISTENER_PATIENCE).connect_lazy_with(self.config.for_statements());
        let mut listener = match PgListener::connect_with(&pool).await {
            Ok(listener) => listener,
            Err(sqlx::Error::PoolTimedOut) => return Err(self.explain().await),
            Err(error) => return Err(self.config.explain(error).into()),
        };
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        let heard = stream::try_unfold(listener, |mut listener| async move {
            let notification = listener.try_recv().await?;
            Ok(notification.map(|notification| (notification.payload().to_owned(), listener)))
        });
        Ok(heard.boxed())
    }

    async fn connect(&self) -> Result<Box<dyn Voice>, BoxError> {
        let mut connection = connect(&self.config).await?;
        // A hint that a crash of the server takes away needs no disk.
        connection.execute("SET synchronous_commit = off", []).await?;
        Ok(Box::new(Notifier { connection }))
    }
}

struct Notifier {
    connection: PgConnection,
}

#[async_trait]
impl Voice for Notifier {
    async fn say(&mut self, text: String) -> Result<(), BoxError> {
        self.connection.rows("SELECT pg_notify($1, $2)::text", [CHANNEL.to_owned().into(), text.into()]).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use astraforge_core::error::chain;

    use super::*;

    #[tokio::test]
    async fn who_cannot_listen_says_why() {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = PostgresConfig::new(&format!("postgres://someone:hush@127.0.0.1:{port}/x")).unwrap();
        let Err(error) = Notifications { config }.listen().await else { panic!("somebody answers") };
        let reason = chain(&*error);
        assert!(reason.contains(&format!("no PostgreSQL server answers at 127.0.0.1:{port}/x")), "{reason}");
        assert!(reason.contains("refused") && !reason.contains("hush"), "{reason}");
    }
}
