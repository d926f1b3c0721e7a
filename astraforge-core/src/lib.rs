//! The domain of AstraForge.

pub mod access;
pub mod cancel;
pub mod command;
pub mod diff;
pub mod error;
pub mod event;
pub mod forge;
pub mod id;
pub mod job;
pub mod journal;
pub mod merge_request;
pub mod policy;
pub mod ports;
pub mod redact;
pub mod registry;
pub mod repository;
pub mod request;
pub mod review;
pub mod run;
pub mod session;
#[cfg(feature = "testing")]
pub mod testing;
mod usecases;
pub mod worker;

/// An error of any type, as tower's middleware passes it on.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;
