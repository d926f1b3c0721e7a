//! Connections that a transaction was just over on, for whoever comes next.
//!
//! A pool has its connections take turns, and asks the server after each use whether it still answers. So of ten calls one
//! after the other each meets another process of the server, which has long slept: measured, a third of the time that
//! putting a job into the queue takes.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Connection as _, pool::PoolConnection};

use super::{Dialect, row::SqlResult};

/// How long a connection that nobody used is taken for one that works.
pub(crate) const TRUSTED: Duration = Duration::from_secs(1);

/// How long a server may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a connection stays away from its pool, which closes those that are too old.
const AWAY: Duration = Duration::from_secs(60);

/// The connections that are warm, the last one used on top. They still count as the pool's.
pub(crate) struct Warm<D: Dialect>(Mutex<State<D>>);

struct State<D: Dialect> {
    kept: Vec<Kept<D>>,
    /// How many wait for the pool. While there are any, all connections go back there.
    n_waiting: usize,
    is_closed: bool,
}

struct Kept<D: Dialect> {
    connection: Taken<D>,
    since: Instant,
}

/// A connection in use. When it is dropped, it goes back to its pool.
pub(crate) struct Taken<D: Dialect> {
    connection: PoolConnection<D>,
    /// When it came from the pool.
    since: Instant,
}

impl<D: Dialect> Warm<D> {
    /// Takes the connection that was used last, or else one that comes from the pool.
    pub(super) async fn or(
        &self,
        from_pool: impl Future<Output = SqlResult<PoolConnection<D>>>,
    ) -> SqlResult<Taken<D>> {
        while let Some(mut kept) = self.pop_or_wait() {
            if kept.since.elapsed() < TRUSTED {
                return Ok(kept.connection);
            }
            match tokio::time::timeout(PATIENCE, kept.connection.ping()).await {
                Ok(Ok(())) => return Ok(kept.connection),
                // Those below it were used before, so they are gone most likely; the pool looks.
                _ => {
                    kept.connection.close_on_drop();
                    self.state().kept.clear();
                }
            }
        }
        let _waits = Waits(self);
        Ok(Taken { connection: from_pool.await?, since: Instant::now() })
    }

    /// The connection that was used last. If there is none, the caller counts as one who waits for the pool.
    fn pop_or_wait(&self) -> Option<Kept<D>> {
        let mut state = self.state();
        let kept = state.kept.pop();
        if kept.is_none() {
            state.n_waiting += 1;
        }
        kept
    }

    /// Keeps a connection that is in no transaction and has no answer to come.
    pub(super) fn keep(&self, connection: Taken<D>) {
        let mut state = self.state();
        // Those at the bottom are not needed now.
        state.kept.retain(|kept| kept.since.elapsed() < AWAY);
        // Whoever waits for the pool would not learn of one that is kept here.
        if D::KEEPS_WARM && state.n_waiting == 0 && !state.is_closed && connection.since.elapsed() < AWAY {
            state.kept.push(Kept { connection, since: Instant::now() });
        }
    }

    /// Gives all back to the pool, now and from now on.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.kept.clear();
    }

    fn state(&self) -> MutexGuard<'_, State<D>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Dialect> Default for Warm<D> {
    fn default() -> Self {
        Self(Mutex::new(State { kept: Vec::new(), n_waiting: 0, is_closed: false }))
    }
}

impl<D: Dialect> Drop for Warm<D> {
    fn drop(&mut self) {
        let state = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        for kept in state.kept.drain(..) {
            // To give it back to the pool takes a runtime, which may be gone.
            drop(kept.connection.connection.detach());
        }
    }
}

/// One who waits for the pool.
struct Waits<'a, D: Dialect>(&'a Warm<D>);

impl<D: Dialect> Drop for Waits<'_, D> {
    fn drop(&mut self) {
        self.0.state().n_waiting -= 1;
    }
}

impl<D: Dialect> Taken<D> {
    /// Has the connection closed, and not used again.
    pub(super) fn close_on_drop(&mut self) {
        self.connection.close_on_drop();
    }
}

impl<D: Dialect> Deref for Taken<D> {
    type Target = D::Connection;

    fn deref(&self) -> &D::Connection {
        &self.connection
    }
}

impl<D: Dialect> DerefMut for Taken<D> {
    fn deref_mut(&mut self) -> &mut D::Connection {
        &mut self.connection
    }
}

impl<D: Dialect> fmt::Debug for Warm<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Warm").field("kept", &self.state().kept.len()).finish_non_exhaustive()
    }
}
