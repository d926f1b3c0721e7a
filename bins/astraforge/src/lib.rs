//! AstraForge put together: everything in one program, and the programs of an installation on many machines.
//!
//! The functions here are what the programs of these names do; a program of one's own that is one of them is one line:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     astraforge::worker()
//! }
//! ```
//!
//! A Rust program that wants a part of AstraForge uses the crates beneath: `astraforge-core`, `astraforge-sandbox`,
//! `astraforge-codex`, `astraforge-adapters`, `astraforge-http`.

mod account_args;
mod agent;
mod audit;
mod cli;
mod commands;
mod config;
mod connection;
mod data_folder;
mod database;
mod drivers;
mod egress_args;
mod egress_log;
mod egress_refusals;
mod environment;
mod event_bus;
mod files;
mod greeting;
mod keys;
mod model;
mod native_args;
mod node;
mod oidc_args;
mod programs;
mod rate_args;
mod render;
mod retention_args;
mod rounds;
mod sandbox_plane;
mod settings;
mod signals;
mod user_clone;

pub use self::programs::{api::api, everything::astraforge, proxy::proxy, worker::worker};
