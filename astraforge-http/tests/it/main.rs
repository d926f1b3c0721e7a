//! The HTTP API as its callers see it, over the request spine in memory.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failing test is what this code is for")]

mod accounts;
mod client;
mod doors;
mod house;
mod links;
mod openapi;
mod peers;
mod remote;
mod requests;
mod run_logs;
mod sandboxes;
mod serving;
