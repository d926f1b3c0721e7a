//! The HTTP API as its callers see it, over the request spine in memory.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failing test is what this code is for")]

mod access;
mod accounts;
mod audit;
mod browser;
mod client;
mod contract;
mod doors;
mod house;
mod idempotency;
mod links;
mod openapi;
mod operations;
mod pages;
mod peers;
mod rate_limits;
mod remote;
mod requests;
mod run_logs;
mod sandboxes;
mod serving;
mod single_sign_on;
