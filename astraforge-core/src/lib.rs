//! The domain of AstraForge.

pub mod id;
pub mod ports;
pub mod session;

/// An error of any type, as tower's middleware passes it on.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;
