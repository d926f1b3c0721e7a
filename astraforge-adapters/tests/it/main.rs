//! The adapters, from outside.

#[cfg(feature = "sqlite")]
mod archiving;
#[cfg(feature = "sqlite")]
mod audit_story;
#[cfg(feature = "git")]
mod git_change;
#[cfg(feature = "git")]
mod git_mirror;
#[cfg(feature = "git")]
mod git_publish;
#[cfg(feature = "git")]
mod git_push;
#[cfg(feature = "git")]
mod git_restart;
#[cfg(feature = "git")]
mod git_roundtrip;
#[cfg(feature = "git")]
mod git_world;
#[cfg(feature = "git")]
mod local;
#[cfg(feature = "models")]
mod models_codex;
#[cfg(feature = "models")]
mod models_openai;
#[cfg(feature = "models")]
mod models_review;
#[cfg(feature = "models")]
mod models_scripted;
#[cfg(feature = "models")]
mod models_server;
#[cfg(all(feature = "oidc", feature = "models"))]
mod oidc;
#[cfg(feature = "rego")]
mod rego;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "sqlite")]
mod sqlite;
