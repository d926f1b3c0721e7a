//! The HTTP API as its callers see it, over the request spine in memory.

mod client;
mod doors;
mod house;
mod links;
mod openapi;
mod requests;
mod run_logs;
