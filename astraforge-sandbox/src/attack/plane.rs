//! What the cases about durable sandboxes need: stores from outside, and a clock that can be turned.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use astraforge_core::{
    BoxError,
    ports::{artifacts::ArtifactStore, clock::Clock, sandbox_store::SandboxStore},
};
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::BoxFuture;

/// Makes what control planes keep things in.
#[async_trait]
pub trait MakePlane: fmt::Debug + Send + Sync + 'static {
    /// Makes stores that are empty.
    ///
    /// # Errors
    /// When they cannot be made.
    async fn stores(&self) -> Result<(Arc<dyn SandboxStore>, Arc<dyn ArtifactStore>), BoxError>;
}

/// A clock that goes like the real one, and can be moved.
#[derive(Debug, Default)]
pub struct SteppedClock {
    ahead: Mutex<TimeDelta>,
}

impl SteppedClock {
    /// Moves it, forwards or back.
    pub fn step(&self, by: TimeDelta) {
        *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

impl Clock for SteppedClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now() + *self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}
