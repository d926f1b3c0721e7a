//! The way out of sandboxes: one gateway each, on the host's side, reached through the guest.
//!
//! A sandbox has no network of its own to go out by. What it has is one port of `127.0.0.2`, behind which an HTTP and SOCKS5
//! proxy decides, looks up and connects on its behalf; when the server is gone, so is the way out. The policy is
//! [`Egress`](astraforge_core::egress::Egress); what no policy allows are addresses that are not public.

use std::{fmt, sync::Arc};

use astraforge_core::{egress::GATEWAY_PORT, ports::egress_audit::EgressAudit};

use self::{gateway::Patience, outside::NodeNetwork, policy::Networks};

mod address;
mod client;
mod first_bytes;
mod flows;
mod gateway;
mod http_proxy;
mod outside;
mod policy;
#[cfg(feature = "testing")]
pub(crate) mod readings;
#[cfg(test)]
mod samples;
mod socks;
mod socks_proxy;
mod target;
mod tunnel;

#[cfg(test)]
mod tests;

pub use self::address::{Network, ParseNetworkError};
pub(crate) use self::{gateway::Gateway, outside::Outside};

/// What holds for the ways out of all sandboxes of a node; clones share it.
///
/// ```
/// use astraforge_sandbox::egress::EgressSettings;
///
/// // A mirror of packages on the inner network, and a network of the operator's that has public addresses.
/// let settings = EgressSettings::default()
///     .with_open_networks(["10.20.30.40".parse()?])
///     .with_closed_networks(["8.8.0.0/16".parse()?]);
/// # Ok::<(), astraforge_sandbox::egress::ParseNetworkError>(())
/// ```
#[derive(Clone)]
pub struct EgressSettings {
    port: u16,
    networks: Arc<Networks>,
    audit: Option<Arc<dyn EgressAudit>>,
    outside: Arc<dyn Outside>,
    patience: Patience,
}

impl Default for EgressSettings {
    fn default() -> Self {
        Self {
            port: GATEWAY_PORT,
            networks: Arc::default(),
            audit: None,
            outside: Arc::new(NodeNetwork::new()),
            patience: Patience::default(),
        }
    }
}

impl EgressSettings {
    /// Sets the port on the in-guest address `127.0.0.2`. Default [`GATEWAY_PORT`].
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Lets networks count as public that are not, such as that of a mirror of packages. Loopback, link-local, multicast
    /// and metadata addresses stay out of reach; one of the node itself has to be named alone.
    #[must_use]
    pub fn with_open_networks(mut self, networks: impl IntoIterator<Item = Network>) -> Self {
        Arc::make_mut(&mut self.networks).open.extend(networks);
        self
    }

    /// Puts networks out of reach, whatever else is said of them.
    #[must_use]
    pub fn with_closed_networks(mut self, networks: impl IntoIterator<Item = Network>) -> Self {
        Arc::make_mut(&mut self.networks).closed.extend(networks);
        self
    }

    /// Tells `audit` of each connection.
    #[must_use]
    pub fn with_audit(mut self, audit: Arc<dyn EgressAudit>) -> Self {
        self.audit = Some(audit);
        self
    }

    /// The port on the in-guest address `127.0.0.2`.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Replaces the network by one that a test plays. What is public is judged as ever.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn with_outside(mut self, outside: Arc<crate::testing::PlayedInternet>) -> Self {
        self.outside = outside;
        self
    }
}

impl fmt::Debug for EgressSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EgressSettings")
            .field("port", &self.port)
            .field("networks", &self.networks)
            .finish_non_exhaustive()
    }
}
