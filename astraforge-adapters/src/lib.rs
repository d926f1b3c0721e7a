//! AstraForge's ports made real: one module and one feature each.

pub mod artifacts;
pub mod clock;
#[cfg(feature = "git")]
pub mod git;
#[cfg(feature = "git")]
pub mod local;
#[cfg(feature = "models")]
pub mod models;
#[cfg(feature = "rego")]
pub mod rego;
#[cfg(feature = "sqlite")]
pub mod secret_box;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod wakeup;
