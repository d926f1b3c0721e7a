//! Ports: what the core needs from the world outside, one trait a file.

pub mod account_store;
pub mod artifacts;
pub mod audit_log;
pub mod call_store;
pub mod clock;
pub mod egress_audit;
pub mod executor;
pub mod git;
pub mod guest_service;
pub mod identity_provider;
pub mod machines;
pub mod model;
pub mod policy;
pub mod review;
pub mod sandbox_store;
pub mod sessions;
pub mod store;
pub mod usage;
pub mod wakeup;
