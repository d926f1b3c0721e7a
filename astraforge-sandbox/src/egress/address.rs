//! Which addresses are public, and which networks an operator counts among them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Why an address is not public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreachable {
    /// What it is, as in "a private address".
    pub(super) what: &'static str,
    /// Whether an operator may open a network of such addresses.
    pub(super) can_be_opened: bool,
}

/// A part of the address space that is not public.
struct Range<A> {
    base: A,
    prefix: u8,
    why: Unreachable,
}

const fn closed<A>(base: A, prefix: u8, what: &'static str) -> Range<A> {
    Range { base, prefix, why: Unreachable { what, can_be_opened: false } }
}

const fn openable<A>(base: A, prefix: u8, what: &'static str) -> Range<A> {
    Range { base, prefix, why: Unreachable { what, can_be_opened: true } }
}

/// Metadata services answer whoever can reach them with credentials.
const METADATA: &str = "an address of a cloud's metadata service";
const LINK_LOCAL: &str = "a link-local address, as metadata services have";
const PRIVATE: &str = "a private address";
const DOCUMENTATION: &str = "an address kept for documentation";
const TUNNEL: &str = "an address of a tunnel that leads to another";

/// The first that holds an address counts.
const V4: [Range<Ipv4Addr>; 19] = [
    closed(Ipv4Addr::new(0, 0, 0, 0), 8, "an address of this host"),
    closed(Ipv4Addr::new(127, 0, 0, 0), 8, "a loopback address"),
    closed(Ipv4Addr::new(169, 254, 0, 0), 16, LINK_LOCAL),
    closed(Ipv4Addr::new(100, 100, 100, 200), 32, METADATA),
    closed(Ipv4Addr::new(168, 63, 129, 16), 32, METADATA),
    closed(Ipv4Addr::new(192, 0, 0, 192), 32, METADATA),
    closed(Ipv4Addr::new(224, 0, 0, 0), 4, "a multicast address"),
    closed(Ipv4Addr::new(255, 255, 255, 255), 32, "the broadcast address"),
    openable(Ipv4Addr::new(10, 0, 0, 0), 8, PRIVATE),
    openable(Ipv4Addr::new(172, 16, 0, 0), 12, PRIVATE),
    openable(Ipv4Addr::new(192, 168, 0, 0), 16, PRIVATE),
    openable(Ipv4Addr::new(100, 64, 0, 0), 10, "an address shared by a carrier's customers"),
    openable(Ipv4Addr::new(192, 0, 2, 0), 24, DOCUMENTATION),
    openable(Ipv4Addr::new(198, 51, 100, 0), 24, DOCUMENTATION),
    openable(Ipv4Addr::new(203, 0, 113, 0), 24, DOCUMENTATION),
    openable(Ipv4Addr::new(198, 18, 0, 0), 15, "an address kept for measurements"),
    closed(Ipv4Addr::new(192, 0, 0, 0), 24, "an address kept for protocols"),
    closed(Ipv4Addr::new(192, 88, 99, 0), 24, TUNNEL),
    closed(Ipv4Addr::new(240, 0, 0, 0), 4, "a reserved address"),
];

/// The first that holds an address counts; what none holds and is not global unicast is refused too.
const V6: [Range<Ipv6Addr>; 14] = [
    closed(Ipv6Addr::LOCALHOST, 128, "a loopback address"),
    closed(Ipv6Addr::UNSPECIFIED, 96, "an address of this host"),
    closed(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, LINK_LOCAL),
    closed(Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, "a site-local address"),
    closed(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, "a multicast address"),
    closed(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128, METADATA),
    closed(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128, METADATA),
    openable(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, "a unique local address"),
    openable(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, DOCUMENTATION),
    openable(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, DOCUMENTATION),
    closed(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, TUNNEL),
    closed(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "an address kept for protocols"),
    closed(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, TUNNEL),
    closed(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48, TUNNEL),
];

/// Tells why `address` is not public. One that stands for an IPv4 address is judged as that.
///
/// # Errors
/// What kind of address it is.
pub(super) fn public(address: IpAddr) -> Result<(), Unreachable> {
    match canonical(address) {
        IpAddr::V4(address) => holding(&V4, |range| in_network(address.into(), range.base.into(), range.prefix)),
        IpAddr::V6(address) => {
            if address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
                let [.., a, b, c, d] = address.octets();
                return public(Ipv4Addr::new(a, b, c, d).into());
            }
            holding(&V6, |range| in_network(address.into(), range.base.into(), range.prefix))?;
            if address.segments()[0] & 0xe000 == 0x2000 {
                return Ok(());
            }
            Err(Unreachable { what: "an address outside of the public part of IPv6", can_be_opened: false })
        }
    }
}

/// An IPv4 address in the clothes of IPv6 is an IPv4 address, to the kernel too.
pub(super) fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn holding<A>(ranges: &[Range<A>], holds: impl Fn(&Range<A>) -> bool) -> Result<(), Unreachable> {
    ranges.iter().find(|range| holds(range)).map_or(Ok(()), |range| Err(range.why))
}

fn in_network(address: IpAddr, base: IpAddr, prefix: u8) -> bool {
    let shifted = |address: u128, width: u8| address.checked_shr(u32::from(width - prefix)).unwrap_or(0);
    match (address, base) {
        (IpAddr::V4(address), IpAddr::V4(base)) => {
            shifted(u32::from(address).into(), 32) == shifted(u32::from(base).into(), 32)
        }
        (IpAddr::V6(address), IpAddr::V6(base)) => shifted(address.into(), 128) == shifted(base.into(), 128),
        _ => false,
    }
}

/// A network, such as `10.20.0.0/16` or `2001:db8::/32`; an address alone is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    base: IpAddr,
    prefix: u8,
}

/// A text that is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a network: {reason}; write 10.20.0.0/16 or fd12:3456::/48")]
pub struct ParseNetworkError {
    text: String,
    reason: &'static str,
}

impl Network {
    /// Tells whether `address` is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        in_network(canonical(address), self.base, self.prefix)
    }

    /// Tells whether it is one address.
    pub(super) fn is_one(&self) -> bool {
        self.prefix == if self.base.is_ipv4() { 32 } else { 128 }
    }
}

impl FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = |reason| Err(ParseNetworkError { text: text.chars().take(80).collect(), reason });
        let (base, prefix) = text.split_once('/').map_or((text, None), |(base, prefix)| (base, Some(prefix)));
        let Ok(base) = base.parse::<IpAddr>() else { return refused("it does not begin with an address") };
        let base = canonical(base);
        let width = if base.is_ipv4() { 32 } else { 128 };
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let prefix = match prefix.map_or(Ok(width), str::parse::<u8>) {
            Ok(number) if number <= width && prefix.is_none_or(digits) => number,
            _ => return refused("after the slash stands the number of fixed bits"),
        };
        let network = Self { base, prefix };
        // Another spelling of the same network would mean a slip.
        let rest = match base {
            IpAddr::V4(base) => u128::from(u32::from(base).checked_shl(u32::from(prefix)).unwrap_or(0)),
            IpAddr::V6(base) => u128::from(base).checked_shl(u32::from(prefix)).unwrap_or(0),
        };
        if rest != 0 { refused("bits of the address are set behind the fixed ones") } else { Ok(network) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: &str, expected: Option<&str>) {
        let verdict = public(address.parse().unwrap());
        match expected {
            None => assert_eq!(verdict, Ok(()), "{address}"),
            Some(what) => assert!(verdict.is_err_and(|why| why.what.contains(what)), "{address}: {verdict:?}"),
        }
    }

    #[test]
    fn public_addresses_are_told_from_all_others() {
        for address in ["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"] {
            check(address, None);
        }
        for address in ["128.0.0.1", "172.15.255.255", "172.32.0.0", "192.167.0.1", "192.0.1.0", "223.255.255.255"] {
            check(address, None);
        }
        for address in ["2000::", "2606:4700::1111", "2a00:1450:4001::8", "64:ff9b::101:101", "::ffff:1.1.1.1"] {
            check(address, None);
        }
    }

    #[test]
    fn no_spelling_makes_an_address_public() {
        for (address, what) in [
            ("0.0.0.0", "this host"),
            ("0.1.2.3", "this host"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("10.0.0.1", "private"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.168.1.1", "private"),
            ("100.64.0.1", "carrier"),
            ("100.127.255.255", "carrier"),
            ("100.100.100.200", "metadata"),
            ("169.254.169.254", "metadata"),
            ("168.63.129.16", "metadata"),
            ("192.0.0.192", "metadata"),
            ("192.0.0.8", "protocols"),
            ("192.0.2.1", "documentation"),
            ("198.51.100.1", "documentation"),
            ("203.0.113.9", "documentation"),
            ("198.18.0.1", "measurements"),
            ("198.19.255.255", "measurements"),
            ("192.88.99.1", "tunnel"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "broadcast"),
            ("::", "this host"),
            ("::1", "loopback"),
            ("::7f00:1", "this host"),
            ("::10.0.0.1", "this host"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:169.254.169.254", "metadata"),
            ("::ffff:a00:1", "private"),
            ("64:ff9b::7f00:1", "loopback"),
            ("64:ff9b::a9fe:a9fe", "metadata"),
            ("64:ff9b::192.168.0.1", "private"),
            ("64:ff9b:1::a00:1", "tunnel"),
            ("64:ff9b:0:0:1::1", "outside"),
            ("2002:a00:1::", "tunnel"),
            ("2002:c0a8:101::1", "tunnel"),
            ("2001::1", "tunnel"),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "tunnel"),
            ("2001:2::1", "protocols"),
            ("2001:20::1", "protocols"),
            ("2001:db8::1", "documentation"),
            ("3fff::1", "documentation"),
            ("fc00::1", "unique local"),
            ("fd12:3456::1", "unique local"),
            ("fd00:ec2::254", "metadata"),
            ("fd20:ce::254", "metadata"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
            ("100::1", "outside"),
            ("4000::1", "outside"),
            ("5f00::1", "outside"),
        ] {
            check(address, Some(what));
        }
    }

    #[test]
    fn networks_are_read_and_hold_their_addresses() {
        let network: Network = "10.20.0.0/16".parse().unwrap();
        assert!(
            network.contains("10.20.255.1".parse().unwrap()) && network.contains("::ffff:10.20.0.1".parse().unwrap())
        );
        assert!(!network.contains("10.21.0.0".parse().unwrap()) && !network.contains("fd12::1".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains("9.9.9.9".parse().unwrap()));
        assert!("::/0".parse::<Network>().unwrap().contains("2606::1".parse().unwrap()));
        assert!("10.1.2.3".parse::<Network>().unwrap().is_one() && "fd12::1".parse::<Network>().unwrap().is_one());
        for text in
            ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0/8", "10.0.0.0/", "10.0.0.0/+8", "::/129", "fd12::1/48", "x/8"]
        {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
