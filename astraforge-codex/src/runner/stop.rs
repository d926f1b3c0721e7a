//! When a run must stop: a person said so, or its time is up.

use std::time::Duration;

use astraforge_core::{
    cancel::Cancellation,
    run::{FailureCause, RunFailure},
};
use tokio::time::Instant;

/// Tells when a run must stop.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    cancel: Cancellation,
    deadline: Instant,
    timeout: Duration,
}

/// Why a run must stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    Cancelled,
    TimedOut(Duration),
}

impl Stop {
    pub(super) fn new(cancel: Cancellation, timeout: Duration) -> Self {
        let now = Instant::now();
        // A time too far away to be told is never.
        let deadline = now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(u64::from(u32::MAX)));
        Self { cancel, deadline, timeout }
    }

    /// Waits until the run must stop.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(super) async fn called(&self) -> Stopped {
        tokio::select! {
            () = self.cancel.cancelled() => Stopped::Cancelled,
            () = tokio::time::sleep_until(self.deadline) => Stopped::TimedOut(self.timeout),
        }
    }
}

impl From<Stopped> for RunFailure {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Cancelled => Self::new(FailureCause::Cancelled, "The run was cancelled."),
            Stopped::TimedOut(timeout) => Self::new(
                FailureCause::TimedOut,
                format!(
                    "The run took longer than the {} s that its repository allows; raise `timeout_seconds` or ask for less at once.",
                    timeout.as_secs()
                ),
            ),
        }
    }
}
