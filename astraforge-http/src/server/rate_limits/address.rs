//! From where a call comes: by its connection, and by what proxies say that are trusted.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::{
    extract::connect_info::ConnectInfo,
    http::{HeaderMap, HeaderName, request::Parts},
};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Proxies that are believed from where a call came. Nobody else's `X-Forwarded-For` is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

/// A text that names no addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address or range of addresses such as 10.0.0.7 or 10.0.0.0/8")]
pub struct NotANetwork {
    text: String,
}

/// Whoever shares an address: of the new kind, a household or server has 2^64 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Network {
    /// That of an address.
    Of(IpAddr),
    /// Whoever comes by a connection of which nothing is known.
    Unknown,
}

impl TrustedProxies {
    /// Reads addresses and ranges of them, such as `10.0.0.7` and `fd00::/8`. Blank ones are passed over.
    ///
    /// # Errors
    /// [`NotANetwork`] for anything else.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, NotANetwork> {
        let given = texts.into_iter().map(str::trim).filter(|text| !text.is_empty());
        let network = |text: &str| {
            let address = || text.parse::<IpAddr>().ok().map(|address| IpNet::from(address.to_canonical()));
            text.parse().ok().or_else(address).ok_or_else(|| NotANetwork { text: text.to_owned() })
        };
        given.map(network).collect::<Result<_, _>>().map(Self)
    }

    /// Where a call comes from.
    pub(super) fn client_of(&self, parts: &Parts) -> Network {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        peer.map_or(Network::Unknown, |ConnectInfo(peer)| Network::holding(self.client(peer.ip(), &parts.headers)))
    }

    /// The address of the client whose call came from `peer`: from the right, the first that is no proxy of ours.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let lines: Vec<_> =
            headers.get_all(FORWARDED_FOR).iter().map(|line| line.to_str().unwrap_or_default()).collect();
        let mut told = lines.iter().rev().flat_map(|line| line.rsplit(','));
        while self.trusts(client) {
            // What is no address was not written by a proxy of ours.
            let Some(next) = told.next().and_then(read) else { break };
            client = next;
        }
        client
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl Network {
    fn holding(address: IpAddr) -> Self {
        Self::Of(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        })
    }
}

/// Reads an address, which some proxies write with a port.
fn read(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(trusted: &[&str], peer: &str, lines: &[&str], client: &str) {
        let proxies = TrustedProxies::parse(trusted.iter().copied()).unwrap();
        let headers = lines.iter().map(|line| (FORWARDED_FOR, line.parse().unwrap())).collect();
        assert_eq!(proxies.client(peer.parse().unwrap(), &headers), client.parse::<IpAddr>().unwrap(), "{lines:?}");
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        check(&[], "192.0.2.1", &["198.51.100.7"], "192.0.2.1");
        check(&["10.0.0.0/8"], "192.0.2.1", &["198.51.100.7"], "192.0.2.1");
        check(&["10.0.0.0/8"], "10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        check(&["10.0.0.1"], "10.0.0.2", &["198.51.100.7"], "10.0.0.2");
        check(&["10.0.0.1"], "::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        check(&["fd00::/8"], "fd00::1", &["2001:db8::7"], "2001:db8::7");
    }

    #[test]
    fn what_a_client_wrote_to_the_left_changes_nothing() {
        let trusted = ["10.0.0.0/8", "192.0.2.1"];
        check(&trusted, "10.0.0.1", &["1.1.1.1, 198.51.100.7"], "198.51.100.7");
        check(&trusted, "10.0.0.1", &["1.1.1.1, 198.51.100.7, 10.0.0.2,192.0.2.1"], "198.51.100.7");
        check(&trusted, "10.0.0.1", &["1.1.1.1", "198.51.100.7", "10.0.0.2"], "198.51.100.7");
        check(&trusted, "10.0.0.1", &["10.9.9.9, 198.51.100.7"], "198.51.100.7");
    }

    #[test]
    fn what_is_no_address_ends_the_way_back() {
        let trusted = ["10.0.0.0/8"];
        check(&trusted, "10.0.0.1", &[], "10.0.0.1");
        check(&trusted, "10.0.0.1", &["unknown"], "10.0.0.1");
        check(&trusted, "10.0.0.1", &["1.1.1.1, x, 10.0.0.2"], "10.0.0.2");
        check(&trusted, "10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3");
        check(&trusted, "10.0.0.1", &["198.51.100.7:4711"], "198.51.100.7");
        check(&trusted, "10.0.0.1", &["[2001:db8::7]:4711"], "2001:db8::7");
        check(&trusted, "10.0.0.1", &["[2001:db8::7]"], "2001:db8::7");
    }

    #[test]
    fn a_network_of_the_new_kind_is_one_and_addresses_of_the_old_are_many() {
        let network = |text: &str| Network::holding(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:ffff:ffff:ffff"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }

    #[test]
    fn a_text_that_names_no_addresses_is_told() {
        assert_eq!(TrustedProxies::parse(["", " "]).unwrap(), TrustedProxies::default());
        let error = TrustedProxies::parse(["10.0.0.0/8", "10.0.0.0/33"]).unwrap_err();
        assert!(error.to_string().starts_with("`10.0.0.0/33` is no address"), "{error}");
        assert!(TrustedProxies::parse(["proxy.example"]).is_err());
    }
}
