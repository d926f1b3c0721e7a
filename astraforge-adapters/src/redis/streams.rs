//! Run logs as streams in Redis, which other programs read. Rows are the truth, and a stream is a copy of their end.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ::redis::{RedisError, RedisResult, aio::MultiplexedConnection, cmd};
use astraforge_core::{
    BoxError,
    error::chain,
    event::{Envelope, RunEvent},
    id::RequestId,
    ports::{clock::Clock as _, store::StoreError},
    run_log::RunLogs,
};
use futures::future::join_all;
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::RedisConfig;
use crate::{
    clock::SystemClock,
    wakeup::{
        BusTrouble,
        across::{Pauses, within},
        outbox::{Changed, Outbox},
    },
};

/// Appends what a stream is known to lack, and nothing when it is not as it was expected to be. So any number of
/// publishers may work on one stream: what the slower one says is refused.
const APPEND: &str = include_str!("append.lua");

/// How many events are read and appended at a time.
const BATCH: u32 = 128;

/// How often all recent logs are compared with their streams, for what no hint told: a publisher that was killed, a
/// stream that was removed.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How many recent logs are compared. What is missing in the streams of others is published with their next event.
const MOST_RECENT: u32 = 1000;

/// How far back a log counts as recent when streams are kept for ever.
const RECENT: Duration = Duration::from_secs(86_400);

/// Of how many streams the newest id is remembered.
const REMEMBERED: usize = 1024;

/// How long reading a batch of rows, or connecting, may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long is waited at the end for what is still to be published.
const GRACE: Duration = Duration::from_secs(2);

/// Publishes run logs in the background, as long as this value lives.
#[derive(Debug)]
pub(super) struct RunLogStreams {
    server: String,
    outbox: Arc<Outbox<RequestId>>,
    trouble: Arc<Mutex<Option<String>>>,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

impl RunLogStreams {
    pub(super) fn start(config: &RedisConfig, logs: RunLogs) -> Self {
        let (outbox, trouble, stop) = (Arc::default(), Arc::default(), CancellationToken::new());
        let publisher = Publisher {
            config: config.clone(),
            logs,
            outbox: Arc::clone(&outbox),
            trouble: Arc::clone(&trouble),
            newest: HashMap::new(),
            refused: HashSet::new(),
            is_limit_told: false,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(publisher.run(stop.clone()));
        Self { server: config.name(), outbox, trouble, stop, tasks: Mutex::new(tasks) }
    }

    /// Has the log of a request published soon. Never waits.
    pub(super) fn changed(&self, request: RequestId) {
        self.outbox.put(request);
    }

    /// Tells whether what was written is published.
    pub(super) fn check(&self) -> Result<(), BusTrouble> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        trouble.map_or(Ok(()), |reason| Err(BusTrouble::RunLogs { bus: self.server.clone(), reason }))
    }

    /// Publishes what is still to be published, if that is quick, and stops. What is left over is said in the log.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let ended = async { while tasks.join_next().await.is_some() {} };
        let is_late = tokio::time::timeout(GRACE, ended).await.is_err();
        if is_late || self.outbox.take() != Changed::default() {
            let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let reason = trouble.unwrap_or_else(|| format!("it takes longer than {} s", GRACE.as_secs()));
            tracing::warn!(
                server = self.server,
                reason,
                "the end of some run logs is not in their streams: another process publishes it, or the next start, if \
                 their requests are among the {MOST_RECENT} that changed last; all rows are kept"
            );
        }
    }
}

/// Why a log could not be published.
#[derive(Debug)]
enum Trouble {
    /// It concerns this log alone: its stream's name is taken by something else, or its rows cannot be read.
    OfOne(BoxError),
    /// It concerns all: nobody answers, or the store fails.
    OfAll(BoxError),
}

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Self {
        match error.code() {
            Some("WRONGTYPE") => Self::OfOne(error.into()),
            _ => Self::OfAll(error.into()),
        }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreadable { .. } => Self::OfOne(error.into()),
            error => Self::OfAll(error.into()),
        }
    }
}

#[derive(Debug)]
struct Publisher {
    config: RedisConfig,
    logs: RunLogs,
    outbox: Arc<Outbox<RequestId>>,
    trouble: Arc<Mutex<Option<String>>>,
    /// The newest ids of streams, as far as they are known.
    newest: HashMap<RequestId, u64>,
    /// Logs of which it was said already that they cannot be published.
    refused: HashSet<RequestId>,
    /// Whether it was said that there are more logs than are compared.
    is_limit_told: bool,
}

impl Publisher {
    async fn run(mut self, stop: CancellationToken) {
        let mut pauses = Pauses::default();
        loop {
            // Redis may be back since the last try, so one is made after the stop too.
            let is_last = stop.is_cancelled();
            let lost = match within(PATIENCE, self.config.connect()).await {
                Ok(mut connection) => match self.publish(&mut connection, &stop, &mut pauses).await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            self.lost(&*lost);
            // What was published may be gone by the time somebody answers again.
            self.newest.clear();
            if is_last {
                return;
            }
            tokio::select! {
                () = pauses.wait() => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Publishes over one connection until it is stopped, or something fails.
    async fn publish(
        &mut self,
        connection: &mut MultiplexedConnection,
        stop: &CancellationToken,
        pauses: &mut Pauses,
    ) -> Result<(), BoxError> {
        let mut look_again = tokio::time::interval(LOOK_AGAIN);
        look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stopped = tokio::select! {
                // There is little time then, which is not for the logs of others.
                biased;
                () = stop.cancelled() => true,
                _ = look_again.tick() => {
                    self.publish_recent(connection).await?;
                    self.found(pauses);
                    false
                }
                () = self.outbox.filled() => false,
            };
            // What was written before a stop is published too.
            match self.outbox.take() {
                Changed::Some(requests) => self.publish_these(connection, requests).await?,
                Changed::Everything => {
                    if let Err(error) = self.publish_recent(connection).await {
                        self.outbox.put_back(Changed::Everything);
                        return Err(error);
                    }
                }
            }
            self.found(pauses);
            if stopped {
                return Ok(());
            }
        }
    }

    async fn publish_these(
        &mut self,
        connection: &mut MultiplexedConnection,
        mut requests: HashSet<RequestId>,
    ) -> Result<(), BoxError> {
        for request in requests.clone() {
            if let Err(error) = self.publish_one(connection, request).await {
                self.outbox.put_back(Changed::Some(requests));
                return Err(error);
            }
            requests.remove(&request);
        }
        Ok(())
    }

    /// Compares the recent logs with their streams, and publishes those that lack something.
    async fn publish_recent(&mut self, connection: &mut MultiplexedConnection) -> Result<(), BoxError> {
        const AT_ONCE: usize = 50;
        let since = SystemClock.now() - self.config.retention.unwrap_or(RECENT);
        let logs = within(PATIENCE, async { Ok(self.logs.store().recent_logs(since, MOST_RECENT).await?) });
        let logs = logs.await?;
        if logs.len() == MOST_RECENT as usize && !self.is_limit_told {
            self.is_limit_told = true;
            tracing::warn!(
                server = self.config.name(),
                "only the {MOST_RECENT} run logs whose requests changed last are compared with their streams: what is \
                 missing in those of others, because Redis lost it or a process was killed, stays missing until their \
                 next event; all rows are kept"
            );
        }
        for logs in logs.chunks(AT_ONCE) {
            let newest = join_all(logs.iter().map(|log| {
                let (mut connection, stream) = (connection.clone(), self.config.stream(log.request));
                async move { newest(&mut connection, &stream).await }
            }));
            for (log, newest) in logs.iter().zip(newest.await) {
                if !matches!(newest, Ok(id) if id == id_of(log.last)) {
                    self.newest.remove(&log.request);
                    self.publish_one(connection, log.request).await?;
                }
            }
        }
        Ok(())
    }

    /// Publishes the log of one request. What concerns it alone is told, and holds up no other.
    async fn publish_one(
        &mut self,
        connection: &mut MultiplexedConnection,
        request: RequestId,
    ) -> Result<(), BoxError> {
        match self.bring_up_to_date(connection, request).await {
            Ok(()) => {
                self.refused.remove(&request);
                Ok(())
            }
            Err(Trouble::OfAll(error)) => Err(error),
            Err(Trouble::OfOne(error)) => {
                if self.refused.insert(request) {
                    let stream = self.config.stream(request);
                    tracing::warn!(stream, error = &*error as &dyn std::error::Error, "a run log cannot be published");
                }
                Ok(())
            }
        }
    }

    /// Appends the rows that a stream lacks.
    async fn bring_up_to_date(
        &mut self,
        connection: &mut MultiplexedConnection,
        request: RequestId,
    ) -> Result<(), Trouble> {
        let mut newest = match self.newest.get(&request) {
            Some(newest) => *newest,
            None => self.resume(connection, request).await?,
        };
        loop {
            let after = match newest {
                // A new stream begins where its length allows.
                0 => self.logs.store().last_event(request).await?.saturating_sub(self.config.max_length.into()),
                newest => newest,
            };
            let events = self.logs.events(request, after, BATCH).await?;
            let Some(last) = events.last().map(|event| event.seq) else { break };
            let answer = self.append(connection, request, newest, &events).await?;
            // If another publisher was quicker, or the stream was removed, it is looked at anew.
            newest = if answer == id_of(last) { last } else { self.resume(connection, request).await? };
        }
        if self.newest.len() >= REMEMBERED {
            self.newest.clear();
        }
        self.newest.insert(request, newest);
        Ok(())
    }

    /// Tells after which event a stream goes on; 0 begins it.
    async fn resume(&self, connection: &mut MultiplexedConnection, request: RequestId) -> Result<u64, Trouble> {
        let stream = self.config.stream(request);
        loop {
            let newest = newest(connection, &stream).await?;
            let Some(seq) = newest.strip_suffix("-0").and_then(|seq| seq.parse::<u64>().ok()) else {
                self.remove(connection, &stream, &newest).await?;
                continue;
            };
            // A stream is behind its rows, never ahead: these are read after it.
            if seq == 0 || self.logs.store().last_event(request).await? >= seq {
                return Ok(seq);
            }
            self.remove(connection, &stream, &newest).await?;
        }
    }

    /// Removes a stream that tells of another history than the rows: an older copy of the database was put back, or
    /// somebody else wrote into it.
    async fn remove(&self, connection: &mut MultiplexedConnection, stream: &str, newest: &str) -> RedisResult<()> {
        tracing::warn!(stream, newest, "the stream of a run log is not what its rows say, and is begun anew");
        cmd("DEL").arg(stream).query_async(connection).await
    }

    /// Appends events if the newest id is that of `newest`, and tells the newest id.
    async fn append(
        &self,
        connection: &mut MultiplexedConnection,
        request: RequestId,
        newest: u64,
        events: &[RunEvent],
    ) -> Result<String, Trouble> {
        let mut append = cmd("EVAL");
        append.arg(APPEND).arg(1).arg(self.config.stream(request)).arg(id_of(newest)).arg(self.config.max_length);
        append.arg(self.config.retention.map_or(0, |retention| retention.as_secs().max(1)));
        for event in events {
            let json = serde_json::to_string(&Envelope::from(event.clone()));
            append.arg(id_of(event.seq)).arg(json.map_err(|error| Trouble::OfOne(error.into()))?);
        }
        Ok(append.query_async(connection).await?)
    }

    fn found(&mut self, pauses: &mut Pauses) {
        pauses.reset();
        if self.set_trouble(None).is_some() {
            tracing::info!(server = self.config.name(), "run logs are published again");
        }
    }

    /// Notes that nothing can be published; aloud the first time, and when the reason is another one.
    fn lost(&mut self, error: &(dyn std::error::Error + 'static)) {
        let reason = chain(error);
        if self.set_trouble(Some(reason.clone())).as_ref() != Some(&reason) {
            let server = self.config.name();
            tracing::warn!(
                server,
                reason,
                "run logs cannot be published: it is tried again, and meanwhile their streams are behind; all rows are kept"
            );
        }
    }

    fn set_trouble(&self, trouble: Option<String>) -> Option<String> {
        std::mem::replace(&mut self.trouble.lock().unwrap_or_else(PoisonError::into_inner), trouble)
    }
}

/// The id of an event in its stream.
fn id_of(seq: u64) -> String {
    format!("{seq}-0")
}

/// Tells the newest id of a stream, also when its entry was removed; `0-0` when there is no stream.
async fn newest(connection: &mut MultiplexedConnection, stream: &str) -> RedisResult<String> {
    // It expects what no stream has, so that nothing is done.
    cmd("EVAL").arg(APPEND).arg(1).arg(stream).arg("none").query_async(connection).await
}
