//! In-memory ports, conformance suites, and samples. Public, but outside semver.

#![expect(clippy::unwrap_used, reason = "a failing test is what this code is for")]

pub mod account_store;
pub mod account_store_conformance;
pub mod artifacts;
pub mod artifacts_conformance;
pub mod audit_log;
pub mod audit_log_conformance;
pub mod call_store;
pub mod call_store_conformance;
pub mod clock;
pub mod fuzz;
pub mod identity_provider;
pub mod machines;
pub mod machines_conformance;
mod pages;
pub mod ports;
pub mod samples;
pub mod sandbox_store;
pub mod sandbox_store_conformance;
pub mod store;
pub mod store_conformance;
pub mod wakeups;
pub mod wakeups_conformance;

pub use self::{
    account_store::MemoryAccountStore, artifacts::MemoryArtifacts, audit_log::MemoryAuditLog,
    call_store::MemoryCallStore, clock::TestClock, identity_provider::PlayedIdentities, machines::PlayedMachines,
    ports::Spine, sandbox_store::MemorySandboxStore, store::MemoryStore, wakeups::MemoryWakeups,
};
