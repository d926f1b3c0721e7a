//! Wake-ups across processes, whoever carries the hints: readers are in this process, and hear of the others.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use astraforge_core::{
    BoxError,
    error::chain,
    ports::wakeup::{Topic, Wakeups},
};
use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, timeout},
};
use uuid::Uuid;

use super::{
    InProcessWakeups,
    hint::Hint,
    outbox::{Changed, Outbox},
};

/// Carries texts to every process that listens. Some may get lost.
#[async_trait]
pub(crate) trait Carrier: fmt::Debug + Send + Sync + 'static {
    /// What it is, for people.
    fn name(&self) -> String;
    /// Listens on a new connection; the stream ends, or fails, when the connection is gone.
    async fn listen(&self) -> Result<BoxStream<'static, Result<String, BoxError>>, BoxError>;
    /// Opens a connection to speak on.
    async fn connect(&self) -> Result<Box<dyn Voice>, BoxError>;
}

/// A connection to speak on.
#[async_trait]
pub(crate) trait Voice: Send {
    /// Tells everyone who listens, this process too.
    async fn say(&mut self, text: String) -> Result<(), BoxError>;
}

/// What a bus does not do at the moment. Nothing is lost by that: readers look by themselves, and what is not published
/// yet is published later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BusTrouble {
    /// Hints do not reach this process, or not from it.
    #[error("{bus} carries no hints at the moment, so what is new is seen up to a second late: {reason}")]
    Hints {
        /// Where it is, without a password.
        bus: String,
        /// Why.
        reason: String,
    },
    /// What is written to run logs does not get into their streams.
    #[error("{bus} gets no run logs at the moment, so its streams are behind: {reason}")]
    RunLogs {
        /// Where it is, without a password.
        bus: String,
        /// Why.
        reason: String,
    },
    /// Neither hints nor run logs.
    #[error(
        "{bus} carries no hints at the moment, so what is new is seen up to a second late: {hints}; it gets no run logs \
         either, so its streams are behind: {run_logs}"
    )]
    Both {
        /// Where it is, without a password.
        bus: String,
        /// Why no hints.
        hints: String,
        /// Why no run logs.
        run_logs: String,
    },
}

impl BusTrouble {
    /// What it means, without where the bus is and what it says.
    #[must_use]
    pub fn meaning(&self) -> &'static str {
        match self {
            Self::Hints { .. } => "readers of other processes are not woken",
            Self::RunLogs { .. } => "run logs are not published",
            Self::Both { .. } => "readers of other processes are not woken, and run logs are not published",
        }
    }
}

/// How often each process says that it is there, which it hears itself.
const BEAT: Duration = Duration::from_secs(5);

/// How long nothing is heard before the connection counts as gone.
const SILENCE: Duration = Duration::from_secs(15);

/// How long it may take to connect, or to speak: longer than carriers wait by themselves, as they can say what for.
/// PostgreSQL's takes up to five seconds to listen, and up to ten more to find out why it cannot.
const PATIENCE: Duration = Duration::from_secs(16);

/// How long is waited before a lost connection is made again: twice as long each time in a row.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Wakes the readers of this process, and through a carrier those of others. Dropping it ends its tasks.
#[derive(Debug)]
pub(crate) struct Across {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    carrier: Box<dyn Carrier>,
    me: Uuid,
    readers: InProcessWakeups,
    outbox: Outbox<Topic>,
    /// Rung when the ear is open: now a beat is heard.
    listening: Notify,
    standing: Mutex<Standing>,
}

/// How well hints are carried.
#[derive(Debug)]
enum Standing {
    /// Our own voice was heard at that time.
    Heard(Instant),
    /// It was not heard yet, or no more.
    Silent {
        /// Why, as far as it is known.
        reason: String,
        /// Why each direction failed last, by its name.
        lost: BTreeMap<&'static str, String>,
    },
}

impl Standing {
    /// Notes that a direction failed, and tells whether that is news: it worked before, or failed for another reason.
    /// Each has a reason of its own, so that two that take turns are no news.
    fn lose(&mut self, direction: &'static str, reason: &str) -> bool {
        let mut lost = match self {
            Self::Heard(_) => BTreeMap::new(),
            Self::Silent { lost, .. } => std::mem::take(lost),
        };
        let before = lost.insert(direction, reason.to_owned());
        *self = Self::Silent { reason: reason.to_owned(), lost };
        before.as_deref() != Some(reason)
    }
}

impl Across {
    /// Begins to listen and to tell, in the background of the current runtime.
    pub(crate) fn start(carrier: impl Carrier) -> Self {
        let shared = Arc::new(Shared {
            carrier: Box::new(carrier),
            me: Uuid::new_v4(),
            readers: InProcessWakeups::default(),
            outbox: Outbox::default(),
            listening: Notify::new(),
            standing: Mutex::new(Standing::Silent {
                reason: "it is not connected yet".to_owned(),
                lost: BTreeMap::new(),
            }),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&shared).listen());
        tasks.spawn(Arc::clone(&shared).tell());
        Self { shared, _tasks: tasks }
    }

    /// Tells whether hints are carried, as of the last few seconds. Costs nothing.
    pub(crate) fn check(&self) -> Result<(), BusTrouble> {
        let reason = match &*self.shared.standing() {
            Standing::Heard(at) if at.elapsed() < SILENCE => return Ok(()),
            Standing::Heard(at) => format!("our own hints were not heard for {} s", at.elapsed().as_secs()),
            Standing::Silent { reason, .. } => reason.clone(),
        };
        Err(BusTrouble::Hints { bus: self.shared.carrier.name(), reason })
    }
}

impl Wakeups for Across {
    fn wake(&self, topic: Topic) {
        self.shared.readers.wake(topic);
        self.shared.outbox.put(topic);
    }

    fn watch(&self, topic: Topic) -> BoxStream<'static, ()> {
        self.shared.readers.watch(topic)
    }
}

impl Shared {
    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears what others tell, for ever.
    async fn listen(self: Arc<Self>) {
        let mut pauses = Pauses::default();
        loop {
            let lost = match within(PATIENCE, self.carrier.listen()).await {
                Ok(mut hints) => {
                    // Nobody knows what was told meanwhile.
                    self.readers.wake_all();
                    self.listening.notify_one();
                    self.hear(&mut hints, &mut pauses).await
                }
                Err(error) => error,
            };
            self.lost("listening", &*lost);
            pauses.wait().await;
        }
    }

    /// Hears hints until the connection is gone, and tells why.
    async fn hear(&self, hints: &mut BoxStream<'static, Result<String, BoxError>>, pauses: &mut Pauses) -> BoxError {
        loop {
            let text = match timeout(SILENCE, hints.next()).await {
                Ok(Some(Ok(text))) => text,
                Ok(Some(Err(error))) => return error,
                Ok(None) => return "the connection was closed".into(),
                Err(_) => return format!("nothing was heard for {} s", SILENCE.as_secs()).into(),
            };
            pauses.reset();
            match Hint::parse(&text) {
                // The own readers are awake already.
                Some(hint) if hint.from == self.me => self.heard(),
                Some(Hint { changed: Changed::Everything, .. }) => self.readers.wake_all(),
                Some(Hint { changed: Changed::Some(topics), .. }) => {
                    topics.into_iter().for_each(|topic| self.readers.wake(topic));
                }
                None => tracing::debug!("a text that is no hint was passed over"),
            }
        }
    }

    /// Tells others what changed, for ever.
    async fn tell(self: Arc<Self>) {
        let mut pauses = Pauses::default();
        loop {
            let lost = match within(PATIENCE, self.carrier.connect()).await {
                Ok(mut voice) => self.speak(&mut *voice, &mut pauses).await,
                Err(error) => error,
            };
            self.lost("telling", &*lost);
            pauses.wait().await;
        }
    }

    /// Speaks until the connection is gone, and tells why.
    async fn speak(&self, voice: &mut dyn Voice, pauses: &mut Pauses) -> BoxError {
        loop {
            let changed = self.outbox.take();
            for text in Hint::texts(self.me, &changed) {
                if let Err(error) = within(PATIENCE, voice.say(text)).await {
                    // What was told already may be told twice.
                    self.outbox.put_back(changed);
                    return error;
                }
            }
            pauses.reset();
            tokio::select! {
                () = self.outbox.filled() => {}
                () = self.listening.notified() => {}
                () = tokio::time::sleep(BEAT) => {}
            }
        }
    }

    fn heard(&self) {
        let before = std::mem::replace(&mut *self.standing(), Standing::Heard(Instant::now()));
        if matches!(before, Standing::Silent { .. }) {
            tracing::info!(bus = self.carrier.name(), "hints reach other processes");
        }
    }

    /// Notes that a connection is gone; aloud the first time, and when the reason is another one.
    fn lost(&self, direction: &'static str, error: &(dyn std::error::Error + Send + Sync + 'static)) {
        let reason = chain(error);
        let is_news = self.standing().lose(direction, &reason);
        if is_news {
            tracing::warn!(
                bus = self.carrier.name(),
                reason,
                "{direction} failed: it is tried again, and meanwhile readers see what is new up to a second late"
            );
        }
    }
}

/// The waits between tries.
#[derive(Debug)]
pub(crate) struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: SHORTEST_PAUSE }
    }
}

impl Pauses {
    /// It worked: the next wait is short again.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Waits a while, and longer the next time.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (2 * self.next).min(LONGEST_PAUSE);
    }
}

/// Waits for an answer, but not for ever.
pub(crate) async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, BoxError>>,
) -> Result<T, BoxError> {
    match timeout(limit, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", limit.as_secs()).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use futures::FutureExt as _;
    use tokio::sync::broadcast;
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// A carrier in memory, whose connections can be cut and which can be away.
    #[derive(Debug, Clone)]
    struct Played {
        texts: broadcast::Sender<String>,
        cut: Arc<Mutex<CancellationToken>>,
        is_away: Arc<AtomicBool>,
        is_deaf: Arc<AtomicBool>,
        n_said: Arc<AtomicUsize>,
    }

    impl Played {
        fn new() -> Self {
            let texts = broadcast::Sender::new(100);
            Self {
                texts,
                cut: Arc::default(),
                is_away: Arc::default(),
                is_deaf: Arc::default(),
                n_said: Arc::default(),
            }
        }

        fn token(&self) -> CancellationToken {
            self.cut.lock().unwrap().clone()
        }

        fn cut(&self) {
            std::mem::take(&mut *self.cut.lock().unwrap()).cancel();
        }
    }

    #[async_trait]
    impl Carrier for Played {
        fn name(&self) -> String {
            "a played bus".to_owned()
        }

        async fn listen(&self) -> Result<BoxStream<'static, Result<String, BoxError>>, BoxError> {
            if self.is_away.load(Ordering::SeqCst) {
                return Err("nobody answers".into());
            }
            if self.is_deaf.load(Ordering::SeqCst) {
                return Ok(futures::stream::pending().boxed());
            }
            let texts = heard(self.texts.subscribe());
            Ok(texts.take_until(self.token().cancelled_owned()).boxed())
        }

        async fn connect(&self) -> Result<Box<dyn Voice>, BoxError> {
            match self.is_away.load(Ordering::SeqCst) {
                true => Err("nobody answers".into()),
                false => Ok(Box::new(PlayedVoice { carrier: self.clone(), cut: self.token() })),
            }
        }
    }

    fn heard(receiver: broadcast::Receiver<String>) -> BoxStream<'static, Result<String, BoxError>> {
        futures::stream::unfold(receiver, |mut receiver| async move {
            Some((receiver.recv().await.map_err(BoxError::from), receiver))
        })
        .boxed()
    }

    struct PlayedVoice {
        carrier: Played,
        cut: CancellationToken,
    }

    #[async_trait]
    impl Voice for PlayedVoice {
        async fn say(&mut self, text: String) -> Result<(), BoxError> {
            if self.cut.is_cancelled() {
                return Err("cut".into());
            }
            self.carrier.n_said.fetch_add(1, Ordering::SeqCst);
            let _ = self.carrier.texts.send(text);
            Ok(())
        }
    }

    #[test]
    fn a_direction_that_fails_as_before_is_no_news_whatever_the_other_says() {
        let mut standing = Standing::Heard(Instant::now());
        assert!(standing.lose("listening", "refused") && standing.lose("telling", "no answer"));
        for _ in 0..3 {
            assert!(!standing.lose("listening", "refused") && !standing.lose("telling", "no answer"));
        }
        assert!(standing.lose("listening", "no such login"), "another reason");
        assert!(!standing.lose("telling", "no answer"));
        standing = Standing::Heard(Instant::now());
        assert!(standing.lose("telling", "no answer"), "it worked meanwhile");
    }

    /// Waits until hints are carried. Time is played, so it passes by itself.
    async fn is_up(across: &Across) {
        while across.check().is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_of_one_process_wakes_a_reader_of_another() {
        let carrier = Played::new();
        let [one, other] = [Across::start(carrier.clone()), Across::start(carrier)];
        is_up(&one).await;
        is_up(&other).await;
        let mut jobs = other.watch(Topic::Jobs);
        one.wake(Topic::Jobs);
        assert_eq!(timeout(Duration::from_millis(1), jobs.next()).await, Ok(Some(())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_connection_is_made_again_and_then_everyone_looks() {
        let carrier = Played::new();
        let across = Across::start(carrier.clone());
        is_up(&across).await;
        let mut jobs = across.watch(Topic::Jobs);
        carrier.is_away.store(true, Ordering::SeqCst);
        carrier.cut();
        while across.check().is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let trouble = across.check().unwrap_err().to_string();
        assert!(trouble.contains("a played bus"), "{trouble}");
        assert!(timeout(Duration::from_secs(60), jobs.next()).await.is_err(), "nothing happened");
        carrier.is_away.store(false, Ordering::SeqCst);
        assert_eq!(timeout(LONGEST_PAUSE, jobs.next()).await, Ok(Some(())));
        is_up(&across).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_told_is_told_when_the_bus_is_back() {
        let carrier = Played::new();
        carrier.is_away.store(true, Ordering::SeqCst);
        let [one, other] = [Across::start(carrier.clone()), Across::start(carrier.clone())];
        for _ in 0..100_000 {
            one.wake(Topic::Jobs);
        }
        carrier.is_away.store(false, Ordering::SeqCst);
        is_up(&one).await;
        is_up(&other).await;
        assert!(carrier.n_said.load(Ordering::SeqCst) < 20, "hints were folded");
        let mut jobs = other.watch(Topic::Jobs);
        carrier.is_away.store(true, Ordering::SeqCst);
        carrier.cut();
        one.wake(Topic::Jobs);
        carrier.is_away.store(false, Ordering::SeqCst);
        assert_eq!(timeout(2 * LONGEST_PAUSE, jobs.next()).await, Ok(Some(())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_is_heard_counts_as_gone() {
        let carrier = Played::new();
        carrier.is_deaf.store(true, Ordering::SeqCst);
        let across = Across::start(carrier.clone());
        let mut jobs = across.watch(Topic::Jobs);
        // The first connection, and again when it was silent for too long.
        for _ in 0..2 {
            assert_eq!(timeout(2 * SILENCE, jobs.next()).await, Ok(Some(())));
        }
        assert!(across.check().is_err(), "it speaks, and nobody hears it");
        carrier.is_deaf.store(false, Ordering::SeqCst);
        is_up(&across).await;
        while jobs.next().now_or_never().is_some() {}
        assert!(timeout(4 * SILENCE, jobs.next()).await.is_err(), "beats keep a connection that works");
        assert_eq!(across.check(), Ok(()));
    }
}
