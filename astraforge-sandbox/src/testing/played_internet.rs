//! An internet that a test plays.
#![expect(clippy::unwrap_used, reason = "this is a part of tests")]

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    sync::Mutex,
};

use async_trait::async_trait;
use tokio::net::TcpStream;

use crate::egress::Outside;

/// Names that are found where a test says, and servers of this machine behind addresses that are public.
///
/// Whatever it was not told of is not there. What may be reached is not its business: the gateway judges the addresses
/// that it says, and never sees those behind them.
#[derive(Debug, Default)]
pub struct PlayedInternet {
    names: Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>,
    servers: Mutex<HashMap<SocketAddr, SocketAddr>>,
    own: Mutex<HashSet<IpAddr>>,
    connected: Mutex<Vec<SocketAddr>>,
}

impl PlayedInternet {
    /// Lets `name` be found at `addresses`; called again, there from the next lookup on.
    pub fn name(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|it| it.parse().unwrap()).collect();
        self.names.lock().unwrap().entry(name.to_owned()).or_default().push_back(addresses);
    }

    /// Puts the server at `real` behind `address`, such as `93.184.216.34:443`.
    pub fn server(&self, address: &str, real: SocketAddr) {
        self.servers.lock().unwrap().insert(address.parse().unwrap(), real);
    }

    /// Lets `address` be one of the node's own.
    pub fn own(&self, address: &str) {
        self.own.lock().unwrap().insert(address.parse().unwrap());
    }

    /// The addresses that were connected to, in turn.
    pub fn connected(&self) -> Vec<SocketAddr> {
        self.connected.lock().unwrap().clone()
    }
}

#[async_trait]
impl Outside for PlayedInternet {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut names = self.names.lock().unwrap();
        let Some(answers) = names.get_mut(name) else { return Err(io::Error::other("no such name")) };
        let next = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        Ok(next.unwrap_or_default())
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.own.lock().unwrap().contains(&address)
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.connected.lock().unwrap().push(address);
        let real = self.servers.lock().unwrap().get(&address).copied();
        TcpStream::connect(real.ok_or(io::ErrorKind::ConnectionRefused)?).await
    }
}
