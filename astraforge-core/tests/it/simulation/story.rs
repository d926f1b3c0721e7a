//! One story: who is in it, how long things go wrong, and when it is at rest.

use std::sync::{Arc, LazyLock};

use astraforge_core::{
    cancel::Cancellation,
    forge::{Forge, Ports, Settings},
    id::RequestId,
    journal::Journal,
    ports::{clock::Clock as _, git::VcsProvider, store::Store as _, wakeup::Wakeups},
    redact::Redactor,
    registry::Registry,
    testing::{
        MemoryArtifacts, MemoryStore, MemoryWakeups,
        ports::{PlayedPolicy, PlayedReviewer},
        samples,
    },
    worker::Worker,
};
use chrono::TimeDelta;
use futures::{FutureExt as _, executor::block_on};
use uuid::Uuid;

use super::{
    chance::Chance,
    oracle::{self, Rule, Violation},
    outside::Outside,
    people,
    scheduler::{Actor, Scheduler},
    world::{Who, World},
};

/// What is wrong with the store of a story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Store {
    /// Nothing, but that it fails now and then.
    Sound,
    /// It writes under a claim that is lost: there is no fencing.
    IgnoresClaims,
    /// It says that it renews leases, and does not.
    RenewsNothing,
}

/// What a person does after the first request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Follow {
    pub(super) n_acts: u64,
}

/// How long after everything is well again all must be at rest, in minutes.
const PATIENCE: i64 = 30;

/// Built once: its patterns are dear to compile.
static REDACTOR: LazyLock<Redactor> = LazyLock::new(Redactor::default);

/// Tells the story of a seed and returns what is wrong at its end.
pub(super) fn tell(seed: u64, store: Store) -> Vec<Violation> {
    play(seed, store, false).1
}

/// What happened in the story of a seed, line by line.
pub(super) fn journal_of(seed: u64) -> Vec<String> {
    let (world, _) = play(seed, Store::Sound, true);
    std::mem::take(&mut world.state().book.journal)
}

fn play(seed: u64, kind: Store, tells: bool) -> (Arc<World>, Vec<Violation>) {
    let chance = Chance::of(seed);
    let (n_workers, n_requests) = (chance.index(3) + 1, chance.index(3) + 1);
    let trouble_lasts = TimeDelta::seconds(chance.number(30, 180).cast_signed());
    let shares_wakeups = chance.happens(5000);
    let link = samples::link();
    let store = MemoryStore::default();
    block_on(store.add_link(link.clone())).unwrap();
    let world = World::new(chance, kind, store, link, tells);

    let wakeups = shares_wakeups.then(|| Arc::new(MemoryWakeups::default()));
    let artifacts = Arc::new(MemoryArtifacts::default());
    let forge = |who| {
        let wakeups = wakeups.clone().unwrap_or_default();
        let outside = Outside { world: world.clone(), who };
        (Forge::new(ports(&outside, wakeups, artifacts.clone())), outside)
    };
    let mut requests = Vec::new();
    let mut actors: Vec<Actor> =
        (0..n_workers).map(|number| worker(Who::Worker(number), forge(Who::Worker(number)), n_workers == 1)).collect();
    for number in 0..n_requests {
        let id = RequestId::from(Uuid::from_u128(world.chance.number(1, u64::MAX).into()));
        let follow = Follow { n_acts: world.chance.number(0, 6) };
        let (forge, outside) = forge(Who::Person(number));
        requests.push(id);
        actors.push(Actor::new(Who::Person(number), move || {
            (people::meddle(forge.clone(), outside.clone(), id, follow).boxed(), None)
        }));
    }

    let mut scheduler = Scheduler::new(&world, actors);
    let began = world.clock.now();
    while world.clock.now() < began + trouble_lasts {
        scheduler.step();
    }
    world.calm_down();
    let is_at_rest = comes_to_rest(&world, &mut scheduler, &requests);
    let mut violations = block_on(oracle::judge(&world, &requests));
    if !is_at_rest {
        let what = format!("not everything is at rest {PATIENCE} minutes after nothing went wrong any more");
        violations.push(Violation { rule: Rule::ComesToRest, what });
    }
    (world, violations)
}

fn comes_to_rest(world: &World, scheduler: &mut Scheduler<'_>, requests: &[RequestId]) -> bool {
    let give_up = world.clock.now() + TimeDelta::minutes(PATIENCE);
    while world.clock.now() < give_up {
        (0..50).for_each(|_| scheduler.step());
        if scheduler.people_are_done() && block_on(world.is_idle(requests)) {
            return true;
        }
    }
    false
}

/// A worker, which whoever dies or stops is followed by. One that `is_alone` settles at once what the one before it left.
fn worker(who: Who, (forge, outside): (Forge, Outside), is_alone: bool) -> Actor {
    Actor::new(who, move || {
        let (canceller, stop) = Cancellation::pair();
        let (worker, outside) = (Worker::new(forge.clone()), outside.clone());
        let work = async move {
            while is_alone && worker.recover().await.is_err() {
                outside.world.wait(100, 2000).await;
            }
            worker.run(stop).await;
        };
        (work.boxed(), Some(canceller))
    })
}

fn ports(outside: &Outside, wakeups: Arc<dyn Wakeups>, artifacts: Arc<MemoryArtifacts>) -> Ports {
    let all = Arc::new(outside.clone());
    let clock = Arc::new(outside.world.clock.clone());
    let mut providers: Registry<dyn VcsProvider> = Registry::new("VCS provider");
    let host = all.clone();
    providers.register("local", move || Ok(host.clone())).unwrap();
    Ports {
        journal: Journal::new(all.clone(), wakeups, clock, REDACTOR.clone()),
        executor: all.clone(),
        broker: all,
        providers,
        policy: Arc::new(PlayedPolicy::default()),
        reviewers: vec![Arc::new(PlayedReviewer::default())],
        artifacts,
        settings: Settings::default(),
    }
}
