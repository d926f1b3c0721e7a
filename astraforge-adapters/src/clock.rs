//! The system's clock.

use std::time::Duration;

use astraforge_core::ports::clock::Clock;
use chrono::{DateTime, SubsecRound, Utc};
use futures::{FutureExt, future::BoxFuture};

/// The system's clock, to the microsecond: as exact as what the store keeps, so a time reads back as it was written.
///
/// [`sleep`](Clock::sleep) needs a tokio runtime.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(duration).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_to_the_microsecond() {
        let now = SystemClock.now();
        assert_eq!(DateTime::from_timestamp_micros(now.timestamp_micros()), Some(now));
    }

    #[tokio::test]
    async fn a_sleep_lasts_as_long_as_was_asked() {
        let before = std::time::Instant::now();
        SystemClock.sleep(Duration::from_millis(20)).await;
        assert!(before.elapsed() >= Duration::from_millis(20));
    }
}
