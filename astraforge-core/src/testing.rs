//! In-memory ports, the conformance suite of the store, and samples. Public, but outside semver.

#![expect(clippy::unwrap_used, reason = "a failing test is what this code is for")]

pub mod artifacts;
pub mod clock;
pub mod ports;
pub mod samples;
pub mod store;
pub mod store_conformance;
pub mod wakeups;

pub use self::{
    artifacts::MemoryArtifacts, clock::TestClock, ports::Spine, store::MemoryStore, wakeups::MemoryWakeups,
};
