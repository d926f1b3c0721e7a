//! The port behind which a sandbox reaches something of the host, without a network.

use std::{fmt, pin::Pin, sync::Arc};

use async_trait::async_trait;
use futures::io::{AsyncRead, AsyncWrite};

/// A byte stream in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// One connection that a program inside a sandbox made to a service.
pub type GuestStream = Pin<Box<dyn Duplex>>;

/// A service that programs inside a sandbox reach at `127.0.0.2` on a port chosen by the host.
///
/// The sandbox has no other way out, and no credential: what the service may do for it is bound to the
/// value that implements this trait (for instance one run's token, or one request's quarantine).
/// The bytes come from an agent and are hostile.
#[async_trait]
pub trait GuestService: fmt::Debug + Send + Sync + 'static {
    /// Serves one connection until either side ends it. Failures end the connection and are the service's own to log.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    async fn serve(&self, stream: GuestStream);
}

/// A service and the in-guest port at which a sandbox finds it.
#[derive(Debug, Clone)]
pub struct ServiceBinding {
    /// The port on the in-guest address `127.0.0.2`.
    pub port: u16,
    /// What answers there.
    pub service: Arc<dyn GuestService>,
}
