//! The port for what is to be remembered of the connections that sandboxes make.

use std::fmt;

use crate::{egress::EgressEvent, id::SandboxId};

/// Is told of each connection that a sandbox tried to make, when it was refused or has ended.
///
/// Called while connections wait: it hands the event on and returns.
pub trait EgressAudit: fmt::Debug + Send + Sync + 'static {
    /// Takes note of what became of a connection of `sandbox`.
    fn note(&self, sandbox: SandboxId, event: &EgressEvent);
}
