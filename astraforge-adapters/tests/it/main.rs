//! The adapters, from outside.

#[cfg(feature = "models")]
mod models_codex;
#[cfg(feature = "models")]
mod models_openai;
#[cfg(feature = "models")]
mod models_scripted;
#[cfg(feature = "models")]
mod models_server;
#[cfg(feature = "git")]
mod git_roundtrip;
#[cfg(feature = "git")]
mod git_world;
