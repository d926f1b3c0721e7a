//! The bodies of the fuzz targets: each takes any bytes, and panics when a promise is broken.
//!
//! They are here, and not beside the fuzzer, so that ordinary tests replay what it has found.

pub use crate::{
    archive::fuzz::{archive, unpack},
    egress::readings::{socks_messages, tunnel_beginning},
    guest::{
        daemon::files_fuzz::{edit, glob},
        fuzz::{guest_frames, header, hello, host_frames},
    },
};

/// A target: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 12] = [
    ("address", address),
    ("archive", archive),
    ("edit", edit),
    ("glob", glob),
    ("guest_frames", guest_frames),
    ("header", header),
    ("hello", hello),
    ("host_frames", host_frames),
    ("socks", socks_messages),
    ("target", target),
    ("tunnel", tunnel_beginning),
    ("unpack", unpack),
];

/// An address, or a network.
pub fn address(data: &[u8]) {
    let _ = std::str::from_utf8(data).map(crate::egress::readings::address);
}

/// A host with a port.
pub fn target(data: &[u8]) {
    let _ = std::str::from_utf8(data).map(crate::egress::readings::target);
}

/// Inputs to begin with: target, name, bytes.
#[must_use]
pub fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut seeds = crate::guest::fuzz::seeds();
    seeds.extend(crate::guest::daemon::files_fuzz::seeds());
    seeds.extend(crate::archive::fuzz::seeds());
    seeds.extend(EGRESS.map(|(target, name, bytes)| (target, name, bytes.to_vec())));
    seeds
}

const EGRESS: [(&str, &str, &[u8]); 9] = [
    ("address", "network", b"10.0.0.0/8"),
    ("address", "mapped", b"::ffff:169.254.169.254"),
    ("socks", "name", b"\x05\x01\x00\x05\x01\x00\x03\x0bexample.com\x01\xbb"),
    ("socks", "address", b"\x05\x01\x00\x05\x01\x00\x01\x01\x02\x03\x04\x00\x50"),
    ("target", "port", b"api.example.com:8443"),
    ("target", "address", b"[::1]:443"),
    ("target", "rule", b"*.example.com"),
    ("tunnel", "plain", b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"),
    ("tunnel", "tls", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03"),
];
