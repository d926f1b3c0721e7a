//! What a sandbox asks to reach: a host and a port, in one canonical form.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A host that a sandbox names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Host {
    /// A name in lower case, without a trailing dot.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// A host and one of its ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    /// The host.
    pub(super) host: Host,
    /// The port; never 0.
    pub(super) port: u16,
}

/// Why a text names no host. Programs read the odd spellings differently, so none of them is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadTarget {
    /// It is empty, too long, or has characters that no name has.
    #[error("it is no host name; names in other scripts are written in punycode (xn--…)")]
    Name,
    /// It is a number in a spelling that only some programs take for an address.
    #[error("it looks like an address in an unusual spelling; write four decimal numbers")]
    Number,
    /// It is an IPv6 address with a zone.
    #[error("an address with a zone (%) is one of the local network")]
    Zone,
    /// It has no dot.
    #[error("a name without a dot is one of the local network")]
    NoDot,
    /// It names a user.
    #[error("a user does not belong in front of a host")]
    User,
    /// The port is missing or none.
    #[error("behind the host stands a port from 1 to 65535")]
    Port,
}

impl Host {
    /// Reads a host: a name, an IPv4 address, or an IPv6 address with or without brackets.
    ///
    /// # Errors
    /// [`BadTarget`] says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, BadTarget> {
        let bracketed = text.strip_prefix('[').map(|rest| rest.strip_suffix(']').ok_or(BadTarget::Name)).transpose()?;
        if bracketed.is_some() || text.contains(':') {
            let address = bracketed.unwrap_or(text);
            if address.contains('%') {
                return Err(BadTarget::Zone);
            }
            return address.parse::<Ipv6Addr>().map(|it| Self::Address(it.into())).map_err(|_| BadTarget::Name);
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let sound = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
        if name.len() > 253 || !name.split('.').all(sound) {
            return Err(BadTarget::Name);
        }
        let last = name.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") {
            return Err(BadTarget::Number);
        }
        if last.len() == name.len() {
            return Err(BadTarget::NoDot);
        }
        Ok(Self::Name(name))
    }

    /// The name, if it is one.
    #[must_use]
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

impl Target {
    /// Reads `host:port`. Without a port, `default` is meant, if there is one.
    ///
    /// # Errors
    /// [`BadTarget`] says what is wrong with it.
    pub(super) fn parse(text: &str, default: Option<u16>) -> Result<Self, BadTarget> {
        if text.contains('@') {
            return Err(BadTarget::User);
        }
        // The last colon, unless it is one of an address in brackets.
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        if host.contains(':') && !host.starts_with('[') {
            return Err(BadTarget::Name);
        }
        let port = match port {
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().ok(),
            Some(_) => None,
            None => default,
        };
        let port = port.filter(|port| *port > 0).ok_or(BadTarget::Port)?;
        Ok(Self { host: Host::parse(host)?, port })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_form() {
        let parse = |text| Host::parse(text).unwrap().to_string();
        assert_eq!(parse("Example.COM."), "example.com");
        assert_eq!(parse("xn--bcher-kva.example"), "xn--bcher-kva.example");
        assert_eq!(parse("_dmarc.example.com"), "_dmarc.example.com");
        assert_eq!(parse("1.2.3.4"), "1.2.3.4");
        assert_eq!(parse("[2606:4700::1111]"), "2606:4700::1111");
        assert_eq!(Target::parse("[::1]:443", None).unwrap().to_string(), "[::1]:443");
        assert_eq!(Target::parse("Example.com.:8080", None).unwrap().to_string(), "example.com:8080");
        assert_eq!(Target::parse("example.com", Some(80)).unwrap().port, 80);
    }

    #[test]
    fn odd_spellings_of_addresses_are_refused() {
        for text in [
            "2130706433",
            "0x7f000001",
            "0X7F000001",
            "017700000001",
            "127.1",
            "127.0.1",
            "0177.0.0.1",
            "127.0.0.01",
            "0x7f.0.0.1",
            "127.0.0.0x1",
            "169.254.43518",
            "1.2.3.4.",
            "256.1.1.1",
            "1.2.3.4.5",
            "example.1",
        ] {
            assert_eq!(Host::parse(text), Err(BadTarget::Number), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for (text, why) in [
            ("", BadTarget::Name),
            (".", BadTarget::Name),
            ("a..b", BadTarget::Name),
            ("a b.example", BadTarget::Name),
            ("example.com/x", BadTarget::Name),
            ("bücher.example", BadTarget::Name),
            ("１２７.0.0.1", BadTarget::Name),
            ("127.0.0.1\0.example.com", BadTarget::Name),
            ("a%2e.example", BadTarget::Name),
            ("[::1", BadTarget::Name),
            ("[example.com]", BadTarget::Name),
            ("fe80::1%eth0", BadTarget::Zone),
            ("[fe80::1%251]", BadTarget::Zone),
            ("localhost", BadTarget::NoDot),
            ("metadata", BadTarget::NoDot),
        ] {
            assert_eq!(Host::parse(text), Err(why), "{text}");
        }
        assert_eq!(Host::parse(&format!("{}.example", "a".repeat(64))), Err(BadTarget::Name));
        for (text, why) in [
            ("example.com", BadTarget::Port),
            ("example.com:", BadTarget::Port),
            ("example.com:0", BadTarget::Port),
            ("example.com:65536", BadTarget::Port),
            ("example.com:+80", BadTarget::Port),
            ("example.com: 80", BadTarget::Port),
            ("example.com:80:80", BadTarget::Name),
            ("::1:80", BadTarget::Name),
            ("a@example.com:80", BadTarget::User),
        ] {
            assert_eq!(Target::parse(text, None), Err(why), "{text}");
        }
    }
}
