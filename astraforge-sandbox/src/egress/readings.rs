//! The parsers of what sandboxes send, for fuzz targets: each reads some bytes and panics when the answer contradicts
//! itself.

use std::net::IpAddr;

use astraforge_core::egress::HostRule;

use super::{
    address::{Network, public},
    first_bytes, socks,
    target::{Host, Target},
};

/// Reads both messages of a SOCKS client.
pub fn socks_messages(bytes: &[u8]) {
    let rest = match socks::greeting(bytes) {
        Ok(Some((_, length))) => &bytes[length..],
        _ => bytes,
    };
    match socks::request(rest) {
        Ok(Some((request, length))) => {
            assert!(length <= rest.len());
            if let socks::Request::Connect(target) = request {
                reads_as_itself(&target);
            }
        }
        Ok(None) => assert!(rest.len() < socks::LONGEST),
        Err(socks::NotSocks) => {}
    }
}

/// Reads the beginning of a tunnel.
pub fn tunnel_beginning(bytes: &[u8]) {
    let read = first_bytes::read(bytes);
    assert!(read.is_some() || bytes.len() < first_bytes::LONGEST);
    let settled = first_bytes::settle(bytes);
    assert!(bytes.first() != Some(&0x16) || matches!(settled, first_bytes::FirstBytes::Tls { .. }));
}

/// Reads a host with a port, as CONNECT, a URL and a Host field have it.
pub fn target(text: &str) {
    if let Ok(target) = Target::parse(text, Some(80)) {
        reads_as_itself(&target);
    }
    if let (Ok(rule), Ok(host)) = (text.parse::<HostRule>(), Host::parse(text)) {
        assert_eq!(rule.to_string().parse(), Ok(rule.clone()));
        assert!(rule.names(&host.to_string()), "{rule} and {host}");
    }
}

/// Judges an address and reads a network.
pub fn address(text: &str) {
    if let Ok(network) = text.parse::<Network>() {
        assert_eq!(network.to_string().parse(), Ok(network));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        assert_eq!(public(address), public(address.to_canonical()));
    }
}

/// Whatever a target is written as, it is read as the same target again.
fn reads_as_itself(target: &Target) {
    assert_eq!(Target::parse(&target.to_string(), None).as_ref(), Ok(target));
}
