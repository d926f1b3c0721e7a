//! The whole of AstraForge as a user runs it: the real program, the real Codex CLI, real sandboxes, a scripted model.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod agents;
mod audit;
mod command_line;
mod event_bus;
mod follow_ups;
mod hostile;
mod installation;
mod jobs;
mod models;
mod oidc;
mod real_key;
mod relay;
mod remote_sandbox;
mod repositories;
mod restarts;
mod retention;
mod sandbox_api;
mod sandbox_server;
mod sandbox_stores;
mod sandbox_terminal;
mod sandboxes;
mod schema;
mod users;
mod world;
