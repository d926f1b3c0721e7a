//! Rounds that are done once for all processes of an installation, however many there are.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::{Either, select};
use tracing::warn;

use crate::{
    error::{ForgeError, chain},
    ports::{clock::Clock, store::Store},
};

/// A round that is due again and again. Of all processes that ask for a turn, one gets it; what became of a process that
/// died in its turn, the next one does again.
///
/// ```
/// use std::time::Duration;
/// use astraforge_core::{schedule::{Schedule, Turned}, testing::{MemoryStore, TestClock}};
///
/// # futures::executor::block_on(async {
/// let (store, clock) = (MemoryStore::default(), TestClock::new());
/// let sweep = Schedule::new("sweep", Duration::from_secs(3600));
/// let asked = || sweep.take_turn(&store, &clock, async { Ok("swept") });
/// assert_eq!(asked().await?, Turned::Done("swept"));
/// assert_eq!(asked().await?, Turned::NotDue);
/// # Ok::<(), astraforge_core::error::ForgeError>(()) }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Schedule {
    name: String,
    every: Duration,
}

/// A turn at a schedule: nobody else has one until it ends, or its lease does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The schedule's name.
    pub schedule: String,
    /// Counts the turns at it from 1.
    pub number: u64,
}

/// What came of asking for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned<T> {
    /// The round is not due, or somebody else is at it.
    NotDue,
    /// The round was done.
    Done(T),
    /// The turn was lost to somebody else in the middle of the round, which was dropped.
    Lost,
}

impl Schedule {
    /// How long a turn is held without a sign of life. It is renewed three times as often.
    pub const LEASE: Duration = Duration::from_secs(60);
    /// How long a round that failed is left alone, if it is not due earlier.
    pub const PAUSE: Duration = Duration::from_secs(300);

    /// A schedule of that name, the same in every process. It is due at once, and then `every` so long after the end of a
    /// round.
    pub fn new(name: impl Into<String>, every: Duration) -> Self {
        Self { name: name.into(), every }
    }

    /// Does the round if it is due and nobody else is at it.
    ///
    /// # Errors
    /// Those of the round, which is tried again after [`PAUSE`](Self::PAUSE), and those of the store.
    ///
    /// # Cancel safety
    /// Dropping the future drops the round; somebody does it again when the lease has ended.
    pub async fn take_turn<T>(
        &self,
        store: &dyn Store,
        clock: &dyn Clock,
        round: impl Future<Output = Result<T, ForgeError>> + Send,
    ) -> Result<Turned<T>, ForgeError> {
        let until = clock.now() + Self::LEASE;
        let Some(turn) = store.take_turn(&self.name, clock.now(), until).await? else { return Ok(Turned::NotDue) };
        let done = match select(std::pin::pin!(round), std::pin::pin!(hold(&turn, until, store, clock))).await {
            Either::Left((done, _)) => done,
            Either::Right(((), _)) => return Ok(Turned::Lost),
        };
        let wait = if done.is_ok() { self.every } else { self.every.min(Self::PAUSE) };
        match (done, store.end_turn(&turn, clock.now() + wait).await) {
            (Ok(done), Ok(_)) => Ok(Turned::Done(done)),
            (Ok(_), Err(error)) => Err(error.into()),
            (Err(error), ended) => {
                if let Err(error) = ended {
                    warn!(schedule = self.name, error = chain(&error), "cannot write that a round failed");
                }
                Err(error)
            }
        }
    }
}

/// Renews the lease of a turn until it is lost. A store that does not answer is one that refuses.
async fn hold(turn: &Turn, mut ends_at: DateTime<Utc>, store: &dyn Store, clock: &dyn Clock) {
    loop {
        clock.sleep(Schedule::LEASE / 3).await;
        let until = clock.now() + Schedule::LEASE;
        match select(store.renew_turn(turn, until), clock.sleep(Schedule::LEASE / 3)).await {
            Either::Left((Ok(true), _)) => ends_at = until,
            Either::Left((Ok(false), _)) => return,
            Either::Left((Err(error), _)) => {
                warn!(schedule = turn.schedule, error = chain(&error), "cannot renew the lease of a round");
            }
            Either::Right(_) => warn!(schedule = turn.schedule, "the store does not answer to renew a lease"),
        }
        if clock.now() >= ends_at {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::testing::{MemoryStore, TestClock};

    const HOUR: Duration = Duration::from_secs(3600);

    struct World {
        store: MemoryStore,
        clock: TestClock,
        schedule: Schedule,
    }

    impl World {
        fn new() -> Self {
            let (store, clock) = (MemoryStore::default(), TestClock::new());
            Self { store, clock, schedule: Schedule::new("sweep", HOUR) }
        }

        fn ask<'a, T: 'a>(
            &'a self,
            round: impl Future<Output = Result<T, ForgeError>> + Send + 'a,
        ) -> impl Future<Output = Result<Turned<T>, ForgeError>> + 'a {
            self.schedule.take_turn(&self.store, &self.clock, round)
        }

        async fn is_due(&self) -> bool {
            self.ask(async { Ok(()) }).await.unwrap() == Turned::Done(())
        }
    }

    #[tokio::test]
    async fn a_round_is_due_again_so_long_after_its_end() {
        let world = World::new();
        assert!(world.is_due().await);
        world.clock.advance(HOUR - Duration::from_secs(1));
        assert!(!world.is_due().await);
        world.clock.advance(Duration::from_secs(1));
        assert!(world.is_due().await);
    }

    #[tokio::test]
    async fn a_round_that_failed_is_tried_again_after_a_pause() {
        let world = World::new();
        let refused = || ForgeError::conflict("the bucket is away");
        world.ask::<()>(async { Err(refused()) }).await.unwrap_err();
        assert!(!world.is_due().await);
        world.clock.advance(Schedule::PAUSE);
        assert!(world.is_due().await);
    }

    #[tokio::test]
    async fn a_round_that_takes_long_is_held_and_one_whose_process_died_is_done_again() {
        let world = World::new();
        let mut long = std::pin::pin!(world.ask::<()>(std::future::pending()));
        assert!((&mut long).now_or_never().is_none());
        for _ in 0..9 {
            world.clock.advance(Schedule::LEASE / 3);
            assert!((&mut long).now_or_never().is_none());
            assert!(!world.is_due().await, "somebody is at it");
        }
        // From here on it is never polled again.
        world.clock.advance(Schedule::LEASE);
        assert!(!world.is_due().await);
        world.clock.advance(Duration::from_secs(1));
        assert!(world.is_due().await);
        assert_eq!(long.now_or_never().unwrap().unwrap(), Turned::Lost);
    }

    #[tokio::test]
    async fn a_store_that_answers_no_renewal_ends_the_round() {
        let world = World::new();
        let mut long = std::pin::pin!(world.ask::<()>(std::future::pending()));
        assert!((&mut long).now_or_never().is_none());
        world.store.falls_silent();
        let mut n_waits = 0;
        while (&mut long).now_or_never().is_none() {
            world.clock.advance(Schedule::LEASE / 3);
            n_waits += 1;
            assert!(n_waits < 9);
        }
    }
}
