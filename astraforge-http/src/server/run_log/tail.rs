//! The ends of the logs that are watched: read once, however many watch.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use astraforge_core::{
    error::chain,
    event::RunEvent,
    id::RequestId,
    journal::Journal,
    ports::store::{LogState, StoreError},
};
use futures::StreamExt;
use tokio::sync::{Notify, watch};
use tracing::warn;

use super::Frame;

/// How many frames of a log are kept in memory at most.
const MOST_FRAMES: usize = 64;

/// How long the texts of those may be together; the last one is kept in any case.
const MOST_BYTES: usize = 32 * 1024;

/// How many frames a watcher takes at a time, which it holds until its client has them.
const TAKEN: usize = 16;

/// How many events are read at a time.
const BATCH: u32 = 256;

/// How many logs are looked at in one question, unless they changed.
const PORTION: usize = 100;

/// How long a lost hint delays an event at most.
const LOOK_AGAIN: Duration = Duration::from_millis(900);

/// The logs that somebody watches. Clones share them.
#[derive(Debug, Clone)]
pub(in crate::server) struct Tails {
    journal: Journal,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    tails: BTreeMap<RequestId, Weak<Tail>>,
    /// Whether a task looks by itself at the logs of them all.
    is_looked_after: bool,
}

impl Open {
    /// The logs that come next after the one that was looked at `last`, in a circle.
    fn portion(&self, last: Option<RequestId>) -> Vec<(RequestId, Weak<Tail>)> {
        let rest = self.tails.range((last.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
        let again = last.into_iter().flat_map(|last| self.tails.range(..=last));
        rest.chain(again).take(PORTION).map(|(id, tail)| (*id, tail.clone())).collect()
    }
}

/// The end of one log.
#[derive(Debug)]
struct Tail {
    request: RequestId,
    recent: watch::Sender<Option<Recent>>,
    /// Told when the rows are to be looked at though no hint came.
    look: Notify,
    tails: Tails,
}

/// What is known of the end of a log. The last of its frames is that of the event `last`.
#[derive(Debug)]
struct Recent {
    frames: VecDeque<Arc<Frame>>,
    n_bytes: usize,
    last: u64,
    /// Whether nothing more comes unless a person acts.
    rests: bool,
}

/// Someone who watches the end of a log.
#[derive(Debug)]
pub(super) struct Watcher {
    recent: watch::Receiver<Option<Recent>>,
    // After the receiver, so that whoever reads the log sees that this one is gone.
    tail: Arc<Tail>,
}

/// What comes after the event that a watcher saw last.
#[derive(Debug)]
pub(super) enum Next {
    /// These frames, and perhaps others.
    Frames(Vec<Arc<Frame>>),
    /// Events that are no longer in memory: they are in the rows.
    Rows,
    /// Nothing yet.
    Nothing,
    /// Nothing, unless a person acts.
    Rest,
}

impl Tails {
    pub(in crate::server) fn new(journal: Journal) -> Self {
        Self { journal, open: Arc::default() }
    }

    /// Watches the log of a request.
    pub(super) fn watch(&self, request: RequestId) -> Watcher {
        let mut open = self.open();
        let tail = open.tails.get(&request).and_then(Weak::upgrade).unwrap_or_else(|| {
            let tail =
                Arc::new(Tail { request, recent: watch::Sender::new(None), look: Notify::new(), tails: self.clone() });
            open.tails.insert(request, Arc::downgrade(&tail));
            tokio::spawn(read(self.journal.clone(), request, Arc::downgrade(&tail)));
            tail
        });
        if !std::mem::replace(&mut open.is_looked_after, true) {
            tokio::spawn(look_after(self.clone()));
        }
        drop(open);
        Watcher { recent: tail.recent.subscribe(), tail }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher {
    /// What comes after the event `last`.
    pub(super) fn after(&mut self, last: u64) -> Next {
        self.recent.borrow_and_update().as_ref().map_or(Next::Nothing, |recent| recent.after(last))
    }

    /// Waits until there may be something else; of a log that is known to `grow`, though it was taken to rest, not for
    /// long.
    pub(super) async fn changed(&mut self, grow: bool) {
        let longest = if grow { LOOK_AGAIN } else { Duration::MAX };
        if grow {
            self.tail.look.notify_one();
        }
        // The sender lives as long as this.
        _ = tokio::time::timeout(longest, self.recent.changed()).await;
    }
}

impl Recent {
    fn begin(state: LogState) -> Self {
        Self { frames: VecDeque::new(), n_bytes: 0, last: state.end.last, rests: !state.may_grow }
    }

    fn after(&self, last: u64) -> Next {
        if last >= self.last {
            return if self.rests { Next::Rest } else { Next::Nothing };
        }
        match self.frames.front() {
            Some(first) if first.seq <= last + 1 => {
                let n_seen = usize::try_from(last + 1 - first.seq).unwrap_or(usize::MAX);
                Next::Frames(self.frames.iter().skip(n_seen).take(TAKEN).cloned().collect())
            }
            _ => Next::Rows,
        }
    }

    fn add(&mut self, event: RunEvent) {
        self.last = event.seq;
        let frame = Arc::new(Frame::of(event));
        self.n_bytes += frame.size;
        self.frames.push_back(frame);
        while self.frames.len() > MOST_FRAMES || (self.n_bytes > MOST_BYTES && self.frames.len() > 1) {
            self.n_bytes -= self.frames.pop_front().map_or(0, |frame| frame.size);
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let mut open = self.tails.open();
        // Another one may have taken its place.
        if open.tails.get(&self.request).is_some_and(|tail| tail.strong_count() == 0) {
            open.tails.remove(&self.request);
        }
    }
}

/// Reads the end of a log as long as somebody watches it.
async fn read(journal: Journal, request: RequestId, tail: Weak<Tail>) {
    // It listens before it looks, so no event falls between the two.
    let mut hints = journal.watch_log(request);
    loop {
        let Some(open) = tail.upgrade() else { return };
        let mut read = open.read_on(&journal).await;
        if let Err(StoreError::Unreadable { .. }) = read {
            // It will not be better the next time; whoever watches meets it in the rows.
            read = open.leave_to_rows(&journal).await;
        }
        if let Err(error) = read {
            warn!(request.id = %request, error = chain(&error), "cannot read a run log; will try again");
        }
        let look = open.look.notified();
        tokio::select! {
            _ = hints.next() => {}
            () = look => {}
            // The last watcher is gone.
            () = open.recent.closed() => {}
        }
    }
}

impl Tail {
    /// Reads what came, and whether that is all.
    async fn read_on(&self, journal: &Journal) -> Result<(), StoreError> {
        let known = self.recent.borrow().as_ref().map(|recent| recent.last);
        let (mut grew, mut ended) = (false, false);
        if let Some(mut last) = known {
            loop {
                let events = journal.logs().events(self.request, last, BATCH).await?;
                let Some(newest) = events.last() else { break };
                last = newest.seq;
                grew = true;
                ended |= events.iter().any(|event| event.kind.ends_run());
                self.recent.send_modify(|recent| {
                    let Some(recent) = recent else { return };
                    recent.rests = false;
                    events.into_iter().for_each(|event| recent.add(event));
                });
            }
        }
        if (!grew || ended)
            && let Some(state) = journal.store().log_states(&[self.request]).await?.pop()
        {
            self.learn(state);
        }
        Ok(())
    }

    /// Forgets the frames up to where the log ends.
    async fn leave_to_rows(&self, journal: &Journal) -> Result<(), StoreError> {
        let states = journal.store().log_states(&[self.request]).await?;
        if let Some(state) = states.into_iter().next() {
            self.recent.send_replace(Some(Recent::begin(state)));
        }
        Ok(())
    }

    /// Takes in how the log stands. What was read is more recent than that, or as recent.
    fn learn(&self, state: LogState) {
        self.recent.send_if_modified(|recent| match recent {
            None => {
                *recent = Some(Recent::begin(state));
                true
            }
            Some(recent) => {
                let rests = !state.may_grow && state.end.last == recent.last;
                std::mem::replace(&mut recent.rests, rests) != rests
            }
        });
    }
}

/// Looks by itself at the logs of all that are watched, because hints get lost: at each of them after as long, a portion
/// at a time, so that the database is never long at it.
async fn look_after(tails: Tails) {
    let mut last = None;
    loop {
        let n_portions = tails.open().tails.len().div_ceil(PORTION).max(1);
        tokio::time::sleep(LOOK_AGAIN.div_f64(n_portions as f64)).await;
        let watched: Vec<(RequestId, Weak<Tail>)> = {
            let mut open = tails.open();
            open.is_looked_after = !open.tails.is_empty();
            if !open.is_looked_after {
                return;
            }
            open.portion(last)
        };
        last = watched.last().map(|(id, _)| *id);
        let ids: Vec<RequestId> = watched.iter().map(|(id, _)| *id).collect();
        let states = match tails.journal.store().log_states(&ids).await {
            Ok(states) => states,
            Err(error) => {
                warn!(error = chain(&error), "cannot look at the run logs that are watched; will try again");
                continue;
            }
        };
        let states: HashMap<RequestId, LogState> = states.into_iter().map(|state| (state.end.request, state)).collect();
        for (id, tail) in watched {
            let (Some(state), Some(tail)) = (states.get(&id), tail.upgrade()) else { continue };
            let is_new = match &*tail.recent.borrow() {
                None => true,
                Some(recent) => recent.last < state.end.last || recent.rests == state.may_grow,
            };
            if is_new {
                tail.look.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use astraforge_core::{
        access::ApiKey,
        event::EventKind,
        forge::{Forge, Settings},
        ports::store::{Changes, LogEnd, Store as _},
        redact::Redactor,
        request::Request,
        run::{Run, RunStatus},
        testing::{MemoryStore, MemoryWakeups, Spine, TestClock, samples},
    };
    use futures::FutureExt;
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        mint_api_key,
        server::{AppState, Server, router},
    };

    /// A log of somebody else's process: what it writes there gives no hint here.
    struct Fixture {
        store: Arc<MemoryStore>,
        tails: Tails,
        request: RequestId,
    }

    impl Fixture {
        async fn new() -> Self {
            let store = Arc::new(MemoryStore::default());
            let request = samples::request();
            store.commit(samples::submitted(&request)).await.unwrap();
            let wakeups = Arc::new(MemoryWakeups::default());
            let journal = Journal::new(store.clone(), wakeups, Arc::new(TestClock::new()), Redactor::default());
            Self { store, tails: Tails::new(journal), request: request.id }
        }

        async fn write(&self, n_events: usize) {
            let events = (0..n_events).map(|n| samples::log(self.request, format!("line {n}"))).collect();
            self.store.append(events).await.unwrap();
        }
    }

    async fn seen(watcher: &mut Watcher, last: u64) -> Next {
        loop {
            match watcher.after(last) {
                Next::Nothing => watcher.changed(false).await,
                next => return next,
            }
        }
    }

    fn numbers(next: &Next) -> Vec<u64> {
        match next {
            Next::Frames(frames) => frames.iter().map(|frame| frame.seq).collect(),
            _ => panic!("{next:?}"),
        }
    }

    #[test]
    fn the_newest_frames_are_kept_and_older_ones_are_in_the_rows() {
        let request = RequestId::random();
        let state = LogState { end: LogEnd { request, last: 10 }, may_grow: true };
        let mut recent = Recent::begin(state);
        assert!(matches!(recent.after(9), Next::Rows), "it was there before");
        assert!(matches!(recent.after(10), Next::Nothing));
        let event = |seq, text: &str| RunEvent {
            seq,
            request_id: request,
            run_id: None,
            kind: EventKind::log(text),
            created_at: samples::at(1),
        };
        (11..=200).for_each(|seq| recent.add(event(seq, "x")));
        assert_eq!(recent.frames.len(), MOST_FRAMES);
        assert!(matches!(recent.after(135), Next::Rows));
        assert_eq!(numbers(&recent.after(136)), (137..137 + TAKEN as u64).collect::<Vec<_>>());
        assert_eq!(numbers(&recent.after(198)), [199, 200]);
        assert!(matches!(recent.after(200), Next::Nothing));
        assert!(matches!(recent.after(999), Next::Nothing));
        let long = "x".repeat(MOST_BYTES);
        recent.add(event(201, &long));
        assert_eq!(numbers(&recent.after(200)), [201], "one that is too long for all is kept alone");
        recent.add(event(202, "x"));
        assert!(matches!(recent.after(200), Next::Rows));
        assert_eq!(recent.n_bytes, recent.frames.iter().map(|frame| frame.size).sum::<usize>());
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_without_a_hint_comes_within_a_second() {
        let it = Fixture::new().await;
        let mut watcher = it.tails.watch(it.request);
        tokio::time::sleep(2 * LOOK_AGAIN).await;
        assert!(watcher.changed(false).now_or_never().is_some(), "how the log stands is known");
        assert!(matches!(watcher.after(0), Next::Nothing));
        it.write(3).await;
        let next = tokio::time::timeout(Duration::from_secs(1), seen(&mut watcher, 0)).await.unwrap();
        assert_eq!(numbers(&next), [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_logs_each_is_looked_at_as_often() {
        const LOGS: usize = 2 * PORTION + PORTION / 2;
        let it = Fixture::new().await;
        let mut watched = Vec::new();
        for _ in 0..LOGS {
            let request = samples::request();
            it.store.commit(samples::submitted(&request)).await.unwrap();
            watched.push((request.id, it.tails.watch(request.id)));
        }
        tokio::time::sleep(2 * LOOK_AGAIN).await;
        let events = watched.iter().map(|(id, _)| samples::log(*id, "a line")).collect();
        it.store.append(events).await.unwrap();
        let all = watched.iter_mut().map(|(_, watcher)| seen(watcher, 0));
        let all = tokio::time::timeout(LOOK_AGAIN + Duration::from_millis(100), futures::future::join_all(all));
        assert!(all.await.expect("none is left out").iter().all(|next| numbers(next) == [1]));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_watches_meets_what_cannot_be_read_in_the_rows() {
        let it = Fixture::new().await;
        let mut watcher = it.tails.watch(it.request);
        it.write(1).await;
        seen(&mut watcher, 0).await;
        it.store.damage(3);
        it.write(2).await;
        let next = tokio::time::timeout(Duration::from_secs(2), seen(&mut watcher, 1)).await.unwrap();
        assert!(matches!(next, Next::Rows), "{next:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn watchers_share_a_tail_and_the_last_one_closes_it() {
        let it = Fixture::new().await;
        it.write(3).await;
        let (mut one, mut two) = (it.tails.watch(it.request), it.tails.watch(it.request));
        assert!(Arc::ptr_eq(&one.tail, &two.tail));
        assert!(matches!(seen(&mut one, 0).await, Next::Rows), "what was there before is in the rows alone");
        it.write(1).await;
        assert_eq!(numbers(&seen(&mut two, 3).await), [4]);
        assert_eq!(numbers(&seen(&mut one, 3).await), [4]);
        drop(one);
        assert_eq!(it.tails.open().tails.len(), 1);
        drop(two);
        tokio::time::sleep(2 * LOOK_AGAIN).await;
        let is_closed = |open: &Open| open.tails.is_empty() && !open.is_looked_after;
        assert!(is_closed(&it.tails.open()));
        let mut again = it.tails.watch(it.request);
        it.write(1).await;
        assert!(matches!(seen(&mut again, 0).await, Next::Rows));
    }

    #[tokio::test]
    async fn a_watcher_whose_connection_breaks_is_forgotten() {
        let spine = Spine::new().await;
        let (key, hash) = mint_api_key().unwrap();
        spine.store.add_api_key(ApiKey { hash, ..samples::api_key() }).await.unwrap();
        let request = samples::request();
        spine.store.commit(samples::submitted(&request)).await.unwrap();
        let state = AppState::builder(Forge::new(spine.ports(Settings::default()))).build();
        let tails = state.tails.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(Server::new(listener, router(state)).run());

        let mut watcher = TcpStream::connect(address).await.unwrap();
        let call = format!(
            "GET /api/runs/{}/logs/stream HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\n\r\n",
            request.id,
            key.reveal()
        );
        watcher.write_all(call.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(watcher).lines();
        while !lines.next_line().await.unwrap().unwrap().contains("stream_ready") {}
        assert_eq!(tails.open().tails.len(), 1);
        drop(lines);
        let forgotten = async {
            while !tails.open().tails.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), forgotten).await.expect("it is forgotten before the next comment");
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_rests_when_its_run_is_over_and_goes_on_when_another_begins() {
        let it = Fixture::new().await;
        let mut watcher = it.tails.watch(it.request);
        it.write(1).await;
        seen(&mut watcher, 0).await;
        let run = samples::run(&Request { id: it.request, ..samples::request() });
        let over = Run { status: RunStatus::Completed, ..run.clone() };
        let write = async |run| {
            it.store.commit(Changes { runs: vec![run], ..Changes::default() }).await.unwrap();
        };
        write(over).await;
        assert!(matches!(seen(&mut watcher, 1).await, Next::Rest));
        write(run).await;
        watcher.changed(false).await;
        assert!(matches!(watcher.after(1), Next::Nothing));
    }
}
