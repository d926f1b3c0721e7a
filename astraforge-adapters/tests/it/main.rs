//! The adapters, from outside.

#[cfg(feature = "models")]
mod models_scripted;
