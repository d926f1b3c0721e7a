//! The guest: the daemon inside every sandbox, and the protocol its host speaks with it.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

pub mod daemon;

/// What a guest daemon is told when it starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GuestConfig {
    /// Ports on `127.0.0.2` that are forwarded to the host.
    pub service_ports: Vec<u16>,
    /// Environment of every command, beneath what the command itself sets.
    pub env: BTreeMap<String, String>,
    /// How long the daemon lives on without a connection from a host.
    pub orphan_timeout: Duration,
}
