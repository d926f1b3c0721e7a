//! The request spine, from prompt to reviewed merge request, over ports in memory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod corpus;
mod faults;
mod leases;
mod retention;
mod retries;
mod simulation;
mod spine;
