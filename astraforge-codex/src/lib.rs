//! Runs the OpenAI Codex CLI in an isolated workspace, and proxies its model calls.
//!
//! - [`LlmProxy`] stands between a workspace and a model: a workspace holds a token of its run, never a key.
//! - [`CodexRunner`] carries out runs: clone, agent, commit, push to the quarantine, tests.

pub mod proxy;
pub mod runner;

pub use proxy::{LlmProxy, ProxyBuilder};
pub use runner::{CodexProgram, CodexRunner, RunSettings, StubExecutor};
