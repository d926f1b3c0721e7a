//! What users of this crate see, tested through its public doors.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod host;
mod proxy;
mod runner;
