//! The network beyond the gateway: names are looked up and connections made here, and nowhere else.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    sync::Arc,
};

use async_trait::async_trait;
use tokio::{net::TcpStream, sync::Semaphore, task::spawn_blocking};

/// Lookups that may be under way at once, of all sandboxes together: each holds a thread until it ends.
const MAX_LOOKUPS: usize = 64;

/// What the gateway needs of the network. Which addresses may be reached is not its business.
#[async_trait]
pub(crate) trait Outside: fmt::Debug + Send + Sync + 'static {
    /// Looks up a name.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;

    /// Tells whether the address is one of this node.
    fn is_own(&self, address: IpAddr) -> bool;

    /// Connects to an address.
    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream>;
}

/// The network that this node is on.
#[derive(Debug)]
pub(super) struct NodeNetwork {
    lookups: Arc<Semaphore>,
}

impl NodeNetwork {
    pub(super) fn new() -> Self {
        Self { lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)) }
    }
}

#[async_trait]
impl Outside for NodeNetwork {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let place = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
        let name = name.to_owned();
        let looked_up = spawn_blocking(move || {
            let _place = place;
            // The dot keeps the node's search domains out. Some resolvers know the names of a local file only without.
            let absolute = (format!("{name}."), 0).to_socket_addrs();
            absolute.or_else(|_| (name, 0).to_socket_addrs()).map(|found| found.map(|it| it.ip()).collect())
        });
        looked_up.await.map_err(io::Error::other)?
    }

    /// The kernel sends what is meant for itself from the address that it is sent to. Nothing is sent to find out.
    fn is_own(&self, address: IpAddr) -> bool {
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let source = UdpSocket::bind((any, 0)).and_then(|socket| {
            socket.connect((address, 9))?;
            socket.local_addr()
        });
        source.is_ok_and(|source| source.ip() == address)
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        drop(stream.set_nodelay(true));
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_nodes_own_addresses_are_known() {
        let network = NodeNetwork::new();
        assert!(network.is_own("127.0.0.1".parse().unwrap()));
        assert!(!network.is_own("1.1.1.1".parse().unwrap()));
        assert!(!network.is_own("192.0.2.77".parse().unwrap()));
        let local = UdpSocket::bind("0.0.0.0:0").unwrap();
        if local.connect("192.0.2.77:9").is_ok() {
            let own = local.local_addr().unwrap().ip();
            assert!(network.is_own(own), "{own}");
        }
        assert_eq!(network.resolve("127.0.0.1").await.unwrap(), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
    }
}
