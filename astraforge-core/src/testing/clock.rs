//! A clock that tests move by hand.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use chrono::{DateTime, TimeZone, Utc};
use futures::{FutureExt, channel::oneshot, future::BoxFuture};

use crate::ports::clock::Clock;

/// A clock whose time moves only when a test says so. Clones share the time.
///
/// [`TestClock::new`] stands still: who sleeps is woken by [`advance`](Self::advance). [`TestClock::hurried`] skips
/// waiting: each sleep moves the time on by itself, for tests of loops that wait and try again.
///
/// ```
/// use std::time::Duration;
///
/// use astraforge_core::{ports::clock::Clock, testing::TestClock};
/// use futures::FutureExt;
///
/// let clock = TestClock::new();
/// let mut nap = clock.sleep(Duration::from_secs(60));
/// assert!((&mut nap).now_or_never().is_none());
/// clock.advance(Duration::from_secs(60));
/// assert!(nap.now_or_never().is_some());
/// ```
#[derive(Clone)]
pub struct TestClock {
    time: Arc<Mutex<Time>>,
    hurried: bool,
}

struct Time {
    now: DateTime<Utc>,
    sleepers: Vec<Sleeper>,
}

struct Sleeper {
    until: DateTime<Utc>,
    wake: oneshot::Sender<()>,
}

impl TestClock {
    /// A clock that stands still, at noon of 1 March 2026.
    #[must_use]
    pub fn new() -> Self {
        Self::at(Utc.with_ymd_and_hms(2026, 3, 1, 12, 0, 0).unwrap())
    }

    /// A clock that stands still at `now`.
    #[must_use]
    pub fn at(now: DateTime<Utc>) -> Self {
        Self { time: Arc::new(Mutex::new(Time { now, sleepers: Vec::new() })), hurried: false }
    }

    /// A clock on which a sleep moves the time on and ends once its task has let others run.
    #[must_use]
    pub fn hurried() -> Self {
        Self { hurried: true, ..Self::new() }
    }

    /// Moves the time on and wakes those whose sleep is over.
    pub fn advance(&self, duration: Duration) {
        let mut time = self.lock();
        time.now += duration;
        let now = time.now;
        for sleeper in time.sleepers.extract_if(.., |sleeper| sleeper.until <= now) {
            // Nobody is left to wake when the sleep was dropped.
            let _ = sleeper.wake.send(());
        }
    }

    /// Tells when the first of those who sleep now is to be woken.
    #[must_use]
    pub fn next_wake(&self) -> Option<DateTime<Utc>> {
        let mut time = self.lock();
        time.sleepers.retain(|sleeper| !sleeper.wake.is_canceled());
        time.sleepers.iter().map(|sleeper| sleeper.until).min()
    }

    /// Counts those who sleep now, so that a test can wait until the code under test does.
    #[must_use]
    pub fn sleeping(&self) -> usize {
        let mut time = self.lock();
        time.sleepers.retain(|sleeper| !sleeper.wake.is_canceled());
        time.sleepers.len()
    }

    fn lock(&self) -> MutexGuard<'_, Time> {
        self.time.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for TestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TestClock {
    fn now(&self) -> DateTime<Utc> {
        self.lock().now
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if self.hurried {
            self.advance(duration);
            return YieldOnce { yielded: false }.boxed();
        }
        if duration.is_zero() {
            return futures::future::ready(()).boxed();
        }
        let (wake, woken) = oneshot::channel();
        let mut time = self.lock();
        let until = time.now + duration;
        time.sleepers.push(Sleeper { until, wake });
        woken.map(|_| ()).boxed()
    }
}

impl fmt::Debug for TestClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestClock").field("now", &self.now()).field("hurried", &self.hurried).finish_non_exhaustive()
    }
}

/// Lets the other tasks run once, so that a loop around a sleep without duration does not starve them.
struct YieldOnce {
    yielded: bool,
}

impl Future for YieldOnce {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            return Poll::Ready(());
        }
        self.yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_sleep_ends_when_its_time_has_come_and_not_before() {
        let clock = TestClock::new();
        let mut nap = clock.sleep(2 * MINUTE);
        clock.advance(MINUTE);
        assert!((&mut nap).now_or_never().is_none());
        assert_eq!(clock.sleeping(), 1);
        clock.clone().advance(MINUTE);
        assert!(nap.now_or_never().is_some());
        assert_eq!(clock.sleeping(), 0);
    }

    #[test]
    fn a_dropped_sleep_is_not_counted() {
        let clock = TestClock::new();
        drop(clock.sleep(MINUTE));
        assert_eq!(clock.sleeping(), 0);
        assert_eq!(clock.next_wake(), None);
        let _nap = clock.sleep(2 * MINUTE);
        assert_eq!(clock.next_wake(), Some(clock.now() + 2 * MINUTE));
    }

    #[test]
    fn a_hurried_clock_skips_the_wait() {
        let clock = TestClock::hurried();
        let before = clock.now();
        futures::executor::block_on(clock.sleep(MINUTE));
        assert_eq!(clock.now(), before + MINUTE);
    }
}
