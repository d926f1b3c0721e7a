//! What a node's operator says about the ways out of its sandboxes.

use std::sync::Arc;

use astraforge_core::ports::egress_audit::EgressAudit;
use astraforge_sandbox::egress::{EgressSettings, Network};
use clap::Args;

/// Networks that are treated differently from what their addresses say.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct EgressArgs {
    /// Networks that sandboxes may reach though they are not public, such as that of a mirror of packages
    #[arg(long, global = true, env = "SANDBOX_EGRESS_OPEN", value_name = "NETWORKS", value_delimiter = ',')]
    pub(crate) egress_open: Vec<Network>,
    /// Networks that sandboxes may not reach though they are public
    #[arg(long, global = true, env = "SANDBOX_EGRESS_CLOSED", value_name = "NETWORKS", value_delimiter = ',')]
    pub(crate) egress_closed: Vec<Network>,
}

impl EgressArgs {
    /// The settings, with `audit` told of every connection.
    pub(crate) fn settings(&self, audit: Arc<dyn EgressAudit>) -> EgressSettings {
        EgressSettings::default()
            .with_open_networks(self.egress_open.iter().copied())
            .with_closed_networks(self.egress_closed.iter().copied())
            .with_audit(audit)
    }
}
