//! What everybody in a story shares: the rows, the clock, the host of repositories, the dice, and what really happened.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use astraforge_core::{
    id::{JobId, RequestId, RunId},
    job::{Claim, Job, JobKind},
    ports::{clock::Clock as _, store::Store as _},
    repository::RepositoryLink,
    request::RequestState,
    run::Run,
    testing::{MemoryStore, TestClock, samples},
};
use chrono::{DateTime, TimeDelta, Utc};

use super::{chance::Chance, oracle::Rule, story::Store};

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Who {
    Worker(usize),
    Person(usize),
}

/// How often things go wrong in a story, in ten thousand calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Odds {
    pub(super) dies: u64,
    pub(super) stops: u64,
    pub(super) stands_still: u64,
    pub(super) fails: u64,
    pub(super) loses_answer: u64,
    pub(super) is_slow: u64,
}

impl Odds {
    pub(super) fn of(chance: &Chance) -> Self {
        let draw = |most: &[u64]| most[chance.index(most.len())];
        Self {
            dies: draw(&[0, 10, 50, 150]),
            stops: draw(&[0, 0, 10, 50]),
            stands_still: draw(&[0, 30, 100, 300]),
            fails: draw(&[0, 20, 100, 500]),
            loses_answer: draw(&[0, 20, 100, 500]),
            is_slow: draw(&[0, 30, 150]),
        }
    }
}

/// What everybody shares.
pub(super) struct World {
    pub(super) store: MemoryStore,
    pub(super) kind: Store,
    pub(super) clock: TestClock,
    pub(super) chance: Chance,
    pub(super) link: RepositoryLink,
    pub(super) tells: bool,
    odds: Odds,
    state: Mutex<State>,
}

/// What changes in the course of a story.
#[derive(Default)]
pub(super) struct State {
    /// Nothing goes wrong any more.
    is_calm: bool,
    to_die: HashSet<Who>,
    to_stop: HashSet<Who>,
    still_until: HashMap<Who, DateTime<Utc>>,
    awake_since: HashMap<Who, DateTime<Utc>>,
    pub(super) book: Book,
}

/// What really happened, whatever the rows say.
#[derive(Default)]
pub(super) struct Book {
    /// The newest attempt of each job, and since when.
    pub(super) attempts: HashMap<JobId, (u32, DateTime<Utc>)>,
    /// The job of each run that was begun, as its newest attempt.
    pub(super) jobs_of_runs: HashMap<RunId, JobId>,
    /// How often an agent was set to work on a run.
    pub(super) executions: BTreeMap<RunId, u32>,
    /// The commits of each quarantine, the oldest first.
    pub(super) quarantines: HashMap<RequestId, Vec<String>>,
    /// Where the work branch of each stands.
    pub(super) heads: HashMap<RequestId, Option<String>>,
    /// The commits that each published branch has held.
    pub(super) branches: BTreeMap<String, Vec<String>>,
    /// The branches that a merge request was opened for.
    pub(super) opened: BTreeSet<String>,
    /// How often a worker was told to stop.
    pub(super) n_stops: usize,
    /// What was seen on the way that must not be.
    pub(super) seen: Vec<(Rule, String)>,
    /// What happened, for people.
    pub(super) journal: Vec<String>,
}

/// A call to the outside that did not go well.
#[derive(Debug)]
pub(super) struct Trouble(pub(super) &'static str);

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Trouble {}

impl World {
    pub(super) fn new(chance: Chance, kind: Store, store: MemoryStore, link: RepositoryLink, tells: bool) -> Arc<Self> {
        let odds = Odds::of(&chance);
        let clock = TestClock::new();
        Arc::new(Self { store, kind, clock, chance, link, tells, odds, state: Mutex::default() })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nothing goes wrong, and who stood still goes on.
    pub(super) fn calm_down(&self) {
        self.note(|| "nothing goes wrong any more".to_owned());
        self.state().is_calm = true;
    }

    /// Writes down what happened, if somebody wants to know.
    pub(super) fn note(&self, what: impl FnOnce() -> String) {
        if self.tells {
            let at = (self.clock.now() - TestClock::new().now()).num_milliseconds();
            self.state().book.journal.push(format!("{at:>8} ms {}", what()));
        }
    }

    /// Whoever calls outside may die here, or stand still; and the call may take long, and fail.
    pub(super) async fn before(&self, who: Who, call: &'static str) -> Result<(), Trouble> {
        self.fate(who, call).await;
        self.take_time(call).await;
        if self.odds().is_some_and(|odds| self.chance.happens(odds.fails)) {
            self.note(|| format!("{who:?}: {call} fails"));
            return Err(Trouble("it is not there at the moment"));
        }
        Ok(())
    }

    /// The call was carried out; its answer may get lost.
    pub(super) async fn after(&self, who: Who, call: &'static str) -> Result<(), Trouble> {
        self.take_time(call).await;
        self.fate(who, call).await;
        if self.odds().is_some_and(|odds| self.chance.happens(odds.loses_answer)) {
            self.note(|| format!("{who:?}: the answer to {call} is lost"));
            return Err(Trouble("the connection broke"));
        }
        Ok(())
    }

    fn odds(&self) -> Option<Odds> {
        (!self.state().is_calm).then_some(self.odds)
    }

    async fn take_time(&self, call: &'static str) {
        if self.chance.happens(2000) {
            self.clock.sleep(self.chance.millis(0, 120)).await;
        }
        if self.odds().is_some_and(|odds| self.chance.happens(odds.is_slow)) {
            self.note(|| format!("{call} takes long"));
            self.clock.sleep(self.chance.millis(2000, 40_000)).await;
        }
    }

    async fn fate(&self, who: Who, call: &'static str) {
        let (Some(odds), Who::Worker(_)) = (self.odds(), who) else { return };
        // Most calls only look whether there is anything to do, and few have effects that no transaction holds.
        let weighed = |odds: u64| match call {
            call if LOOKS.contains(&call) => odds / 10,
            call if EFFECTS.contains(&call) => odds * 5,
            _ => odds,
        };
        if self.chance.happens(weighed(odds.dies)) {
            self.note(|| format!("{who:?} dies at {call}"));
            self.state().to_die.insert(who);
            std::future::pending::<()>().await;
        }
        if self.chance.happens(weighed(odds.stops)) {
            self.note(|| format!("{who:?} is stopped at {call}"));
            self.state().to_stop.insert(who);
        }
        if self.chance.happens(weighed(odds.stands_still)) {
            let until = self.clock.now() + self.chance.millis(1000, 60_000);
            self.note(|| format!("{who:?} stands still at {call} until {until}"));
            self.stand_still(who, until);
            yield_now().await;
        }
    }

    fn stand_still(&self, who: Who, until: DateTime<Utc>) {
        let mut state = self.state();
        state.still_until.insert(who, until);
        state.awake_since.insert(who, until);
    }

    pub(super) fn is_to_die(&self, who: Who) -> bool {
        self.state().to_die.remove(&who)
    }

    pub(super) fn is_to_stop(&self, who: Who) -> bool {
        let mut state = self.state();
        let is_told = state.to_stop.remove(&who);
        state.book.n_stops += usize::from(is_told);
        is_told
    }

    pub(super) fn still_until(&self, who: Who) -> Option<DateTime<Utc>> {
        let state = self.state();
        state.still_until.get(&who).copied().filter(|_| !state.is_calm)
    }

    /// When somebody is back who is gone; people who are done stay away.
    pub(super) fn comes_back(&self, who: Who) -> Option<DateTime<Utc>> {
        matches!(who, Who::Worker(_)).then(|| self.clock.now() + self.chance.millis(0, 30_000))
    }

    pub(super) fn awake(&self, who: Who) {
        self.note(|| format!("{who:?} is back"));
        let mut state = self.state();
        state.still_until.remove(&who);
        state.awake_since.insert(who, self.clock.now());
    }

    /// A worker got a job.
    pub(super) fn note_attempt(&self, who: Who, job: &Job) {
        self.note(|| format!("{who:?} has job {:?}, attempt {}", job.kind_name(), job.attempts));
        let now = self.clock.now();
        let book = &mut self.state().book;
        book.attempts.insert(job.id, (job.attempts, now));
        if let JobKind::Execute { run } = job.kind {
            book.jobs_of_runs.insert(run, job.id);
        }
    }

    /// Something was written under a claim: nobody may have got the job since.
    pub(super) fn note_write(&self, claim: Claim) {
        let book = &mut self.state().book;
        let newest = book.attempts.get(&claim.job).map_or(0, |(attempt, _)| *attempt);
        if claim.attempt < newest {
            let what = format!("attempt {} of job {} wrote after attempt {newest} began", claim.attempt, claim.job);
            book.seen.push((Rule::OneWriterOfAJob, what));
        }
    }

    /// An agent is at work on a run that its worker got as `attempt` of `job`.
    pub(super) fn note_agent(&self, who: Who, job: JobId, attempt: u32) {
        // Its own lease ended before the other attempt could begin; to stop takes a turn.
        let patience = TimeDelta::seconds(1);
        let now = self.clock.now();
        let state = &mut *self.state();
        let awake = state.awake_since.get(&who).copied().unwrap_or(DateTime::<Utc>::MIN_UTC);
        let (newest, since) = state.book.attempts.get(&job).copied().unwrap_or_default();
        if newest > attempt && now - since.max(awake) > patience {
            let what = format!("an agent of attempt {attempt} works on, long after attempt {newest} of {job} began");
            state.book.seen.push((Rule::AgentsStopWithTheirJob, what));
        }
    }

    /// Whether no job waits or is at work.
    pub(super) async fn is_idle(&self, requests: &[RequestId]) -> bool {
        let mut waiting = 0;
        for request in requests {
            waiting += self.store.waiting_jobs(*request).await.unwrap().len();
        }
        waiting == 0 && self.store.running_jobs().await.unwrap().is_empty()
    }

    /// Whether a change of a request waits for approval.
    pub(super) async fn is_patch_ready(&self, request: RequestId) -> bool {
        let request = self.store.request(&samples::tenant(), request).await.unwrap();
        request.is_some_and(|request| request.state == RequestState::PatchReady)
    }

    /// The runs of a request as a person sees them.
    pub(super) async fn runs_of(&self, request: RequestId) -> Vec<Run> {
        self.store.runs_of(request).await.unwrap()
    }

    pub(super) fn wait(&self, from: u64, to: u64) -> impl Future<Output = ()> + Send + use<> {
        self.clock.sleep(Duration::from_millis(self.chance.number(from, to)))
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

/// Calls of workers that find nothing to do.
const LOOKS: [&str; 3] = ["claim_job", "take_over_job", "cancel_requested"];

/// Calls whose effects lie outside the store.
const EFFECTS: [&str; 4] = ["publish", "withdraw", "open_merge_request", "post_findings"];

trait KindName {
    fn kind_name(&self) -> &'static str;
}

impl KindName for Job {
    fn kind_name(&self) -> &'static str {
        match self.kind {
            JobKind::Execute { .. } => "execute",
            JobKind::OpenMergeRequest { .. } => "publish",
            JobKind::Review { .. } => "review",
            _ => "unknown",
        }
    }
}

async fn yield_now() {
    let mut has_yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
