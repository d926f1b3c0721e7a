//! One thread that polls whom chance picks, and moves the clock when everybody waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use astraforge_core::{cancel::Canceller, ports::clock::Clock as _};
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;

use super::world::{Who, World};

/// What somebody does, and what stops it, if anything does.
pub(super) type Act = (BoxFuture<'static, ()>, Option<Arc<Canceller>>);

/// Whoever acts in a story: the future, and how another one is made once it is gone.
pub(super) struct Actor {
    who: Who,
    make: Box<dyn Fn() -> Act>,
    life: Life,
    woken: Arc<Woken>,
}

enum Life {
    Alive(BoxFuture<'static, ()>, Option<Arc<Canceller>>),
    /// Gone until then; `None` for ever.
    Gone(Option<DateTime<Utc>>),
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Actor {
    pub(super) fn new(who: Who, make: impl Fn() -> Act + 'static) -> Self {
        let (future, canceller) = make();
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        Self { who, make: Box::new(make), life: Life::Alive(future, canceller), woken }
    }
}

/// Everybody in a story.
pub(super) struct Scheduler<'a> {
    world: &'a Arc<World>,
    actors: Vec<Actor>,
}

impl<'a> Scheduler<'a> {
    pub(super) fn new(world: &'a Arc<World>, actors: Vec<Actor>) -> Self {
        Self { world, actors }
    }

    /// Lets one actor have a turn; when all wait, moves the clock to the next one's time.
    pub(super) fn step(&mut self) {
        self.bring_back();
        let now = self.world.clock.now();
        let ready: Vec<usize> = (0..self.actors.len()).filter(|at| self.is_ready(*at, now)).collect();
        match ready.len() {
            0 => self.move_on(now),
            n => self.poll(ready[self.world.chance.index(n)]),
        }
    }

    /// Whether every person has said what they had to say.
    pub(super) fn people_are_done(&self) -> bool {
        let is_done = |actor: &Actor| matches!(actor.life, Life::Gone(_)) || !matches!(actor.who, Who::Person(_));
        self.actors.iter().all(is_done)
    }

    fn is_ready(&self, at: usize, now: DateTime<Utc>) -> bool {
        let Actor { who, life, woken, .. } = &self.actors[at];
        let stands_still = self.world.still_until(*who).is_some_and(|until| until > now);
        matches!(life, Life::Alive(..)) && woken.0.load(Ordering::Relaxed) && !stands_still
    }

    fn poll(&mut self, at: usize) {
        let actor = &mut self.actors[at];
        let Life::Alive(future, canceller) = &mut actor.life else { return };
        actor.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(actor.woken.clone());
        let is_over = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if self.world.is_to_stop(actor.who)
            && let Some(canceller) = canceller
        {
            canceller.cancel();
        }
        if self.world.is_to_die(actor.who) || is_over {
            // Dropped here, in the middle of whatever it awaits.
            actor.life = Life::Gone(self.world.comes_back(actor.who));
        }
    }

    fn bring_back(&mut self) {
        let now = self.world.clock.now();
        for actor in &mut self.actors {
            if matches!(actor.life, Life::Gone(Some(until)) if until <= now) {
                let (future, canceller) = (actor.make)();
                actor.life = Life::Alive(future, canceller);
                actor.woken.0.store(true, Ordering::Relaxed);
                self.world.awake(actor.who);
            }
        }
    }

    fn move_on(&self, now: DateTime<Utc>) {
        let back = self.actors.iter().filter_map(|actor| match actor.life {
            Life::Gone(until) => until,
            Life::Alive(..) => self.world.still_until(actor.who),
        });
        let next = back.chain(self.world.clock.next_wake()).filter(|time| *time > now).min();
        let next = next.unwrap_or_else(|| panic!("nobody will ever act again"));
        self.world.clock.advance((next - now).to_std().unwrap());
    }
}
