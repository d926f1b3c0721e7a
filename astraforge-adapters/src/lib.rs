//! AstraForge's ports made real: one module and one feature each.

#[cfg(feature = "models")]
pub mod models;
