//! Chance that a seed decides.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use proptest::{
    prelude::RngExt as _,
    test_runner::{RngAlgorithm, TestRng},
};

/// The dice of one story.
#[derive(Debug)]
pub(super) struct Chance(Mutex<TestRng>);

impl Chance {
    pub(super) fn of(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self(Mutex::new(TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)))
    }

    /// A number from `from` to `to`, both included.
    pub(super) fn number(&self, from: u64, to: u64) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random_range(from..=to)
    }

    /// One of `n` things.
    pub(super) fn index(&self, n: usize) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..n)
    }

    /// Whether something happens that happens so often in ten thousand times.
    pub(super) fn happens(&self, in_ten_thousand: u64) -> bool {
        in_ten_thousand > 0 && self.number(1, 10_000) <= in_ten_thousand
    }

    pub(super) fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.number(from, to))
    }
}
