//! The HTTP API as its callers see it, over the request spine in memory.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failing test is what this code is for")]

mod access;
mod accounts;
mod client;
mod contract;
mod doors;
mod house;
mod links;
mod openapi;
mod operations;
mod pages;
mod peers;
mod requests;
mod run_logs;
mod sandboxes;
mod serving;
