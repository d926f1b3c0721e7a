//! The guest: the daemon inside every sandbox, and the protocol its host speaks with it.
//!
//! A connection is any byte stream. It opens with a handshake, which names the protocol's version, and
//! then carries `yamux`. Every operation is one stream of its own, opened by the host: a header says what
//! is asked, frames follow in both directions. A connection that a program in the sandbox makes to a
//! service is such a stream too, opened by the guest.
//!
//! The host takes nothing the guest says on trust: every length is bounded before memory is taken for it, what is
//! not understood ends the operation, and what is not read yet stays with the sender.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

pub mod client;
pub mod daemon;
mod frame;
#[cfg(feature = "testing")]
pub(crate) mod fuzz;
mod header;
mod hello;
mod mux;

pub use frame::ProtocolError;
pub use hello::HandshakeError;

/// What a guest daemon is told when it starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GuestConfig {
    /// Ports on `127.0.0.2` that are forwarded to the host.
    pub service_ports: Vec<u16>,
    /// Environment of every command, beneath what the command itself sets.
    pub env: BTreeMap<String, String>,
    /// How long the daemon lives on without a connection from a host. It waits for the first one for a minute at least.
    pub orphan_timeout: Duration,
}
