//! The port for time, so that the core has no runtime and tests need not wait.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;

/// Tells the time and waits.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> DateTime<Utc>;
    /// Waits.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}
