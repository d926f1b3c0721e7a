//! SOCKS 5, as RFC 1928 has it: connections to names and addresses, nothing else.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::target::{BadTarget, Host, Target};

/// The first byte of every message.
pub(super) const VERSION: u8 = 5;
/// The answer to a greeting that offers to go on without a password.
pub(super) const NO_PASSWORD: [u8; 2] = [VERSION, 0];
/// The answer to a greeting that does not.
pub(super) const NO_METHOD: [u8; 2] = [VERSION, 0xff];
/// The longest message of a client, in bytes.
pub(super) const LONGEST: usize = 262;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// A connection.
    Connect(Target),
    /// A connection to what is no host.
    Unreadable {
        /// What it was.
        text: String,
        /// What is wrong with it.
        reason: BadTarget,
    },
    /// Something that this gateway does not do: to be called, or datagrams.
    OtherCommand,
    /// An address of an unknown kind.
    OtherAddress,
}

/// How a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Reply {
    /// The connection is there.
    Granted = 0,
    /// The policy forbids it.
    NotAllowed = 2,
    /// The host does not answer, or there is no such host.
    HostUnreachable = 4,
    /// The host refuses the connection.
    Refused = 5,
    /// Only connections are made.
    OtherCommand = 7,
    /// Only names and addresses are taken.
    OtherAddress = 8,
}

/// Bytes that are not SOCKS 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not SOCKS 5")]
pub(super) struct NotSocks;

/// Reads the greeting: whether it offers to go on without a password, and its length. `None` is: more is needed.
///
/// # Errors
/// [`NotSocks`].
pub(super) fn greeting(bytes: &[u8]) -> Result<Option<(bool, usize)>, NotSocks> {
    match bytes {
        [] => Ok(None),
        [VERSION, rest @ ..] => {
            let Some((n_methods, methods)) = rest.split_first() else { return Ok(None) };
            let methods = methods.get(..usize::from(*n_methods));
            Ok(methods.map(|methods| (methods.contains(&0), 2 + methods.len())))
        }
        _ => Err(NotSocks),
    }
}

/// Reads a request, and its length. `None` is: more is needed.
///
/// # Errors
/// [`NotSocks`].
pub(super) fn request(bytes: &[u8]) -> Result<Option<(Request, usize)>, NotSocks> {
    let Some((&VERSION, rest)) = bytes.split_first() else {
        return if bytes.is_empty() { Ok(None) } else { Err(NotSocks) };
    };
    let [command, _reserved, kind, rest @ ..] = rest else { return Ok(None) };
    let (host, length) = match (kind, rest) {
        (1, [a, b, c, d, ..]) => (Ok(Host::Address(Ipv4Addr::new(*a, *b, *c, *d).into())), 4),
        (4, _) => {
            let Some(address) = rest.first_chunk::<16>() else { return Ok(None) };
            (Ok(Host::Address(Ipv6Addr::from(*address).into())), 16)
        }
        (3, [length, rest @ ..]) => {
            let length = usize::from(*length);
            let Some(name) = rest.get(..length) else { return Ok(None) };
            let text = String::from_utf8_lossy(name).into_owned();
            (Host::parse(&text).map_err(|reason| (text, reason)), 1 + length)
        }
        (1 | 3, _) => return Ok(None),
        // Its length is unknown, so nothing behind it can be read.
        _ => return Ok(Some((Request::OtherAddress, bytes.len()))),
    };
    let Some([high, low]) = rest.get(length..length + 2) else { return Ok(None) };
    let port = u16::from_be_bytes([*high, *low]);
    let request = match host {
        _ if *command != 1 => Request::OtherCommand,
        Ok(host) if port > 0 => Request::Connect(Target { host, port }),
        Ok(host) => Request::Unreadable { text: host.to_string(), reason: BadTarget::Port },
        Err((text, reason)) => Request::Unreadable { text, reason },
    };
    Ok(Some((request, 4 + length + 2)))
}

/// The answer to a request. The address in it is that of no host: where a connection really comes from is not told.
#[must_use]
pub(super) const fn reply(reply: Reply) -> [u8; 10] {
    [VERSION, reply as u8, 0, 1, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads whole bytes, and sees that every shorter beginning asks for more.
    fn whole(bytes: &[u8]) -> Request {
        for n_bytes in 0..bytes.len() {
            assert_eq!(request(&bytes[..n_bytes]), Ok(None), "{n_bytes} of {bytes:?}");
        }
        let (request, length) = request(bytes).unwrap().unwrap();
        assert_eq!(length, bytes.len());
        assert_eq!(super::request(&[bytes, b"more"].concat()), Ok(Some((request.clone(), length))));
        request
    }

    fn named(name: &[u8], port: u16) -> Vec<u8> {
        [&[5, 1, 0, 3, name.len() as u8], name, &port.to_be_bytes()].concat()
    }

    #[test]
    fn names_and_addresses_are_read() {
        let check = |bytes: &[u8], expected: &str| {
            let Request::Connect(target) = whole(bytes) else { panic!("{bytes:?}") };
            assert_eq!(target.to_string(), expected);
        };
        check(&named(b"Example.com", 443), "example.com:443");
        check(&named(b"10.0.0.1", 80), "10.0.0.1:80");
        check(&[5, 1, 0, 1, 127, 0, 0, 1, 0, 80], "127.0.0.1:80");
        let six = [&[5, 1, 0, 4][..], &Ipv6Addr::LOCALHOST.octets(), &[1, 187]].concat();
        check(&six, "[::1]:443");
        assert!(named(&[b'a'; 255], 1).len() <= LONGEST);
    }

    #[test]
    fn what_is_not_done_is_told_apart() {
        assert_eq!(whole(&[5, 2, 0, 1, 1, 1, 1, 1, 0, 80]), Request::OtherCommand, "to be called");
        assert_eq!(whole(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]), Request::OtherCommand, "datagrams");
        assert_eq!(request(&[5, 1, 0, 9]), Ok(Some((Request::OtherAddress, 4))));
        for name in [b"2130706433".as_slice(), b"", b"a\0b", b"\xff\xfe", b"localhost"] {
            assert!(matches!(whole(&named(name, 80)), Request::Unreadable { .. }), "{name:?}");
        }
        assert!(matches!(whole(&named(b"example.com", 0)), Request::Unreadable { reason: BadTarget::Port, .. }));
        assert_eq!(request(b"\x04\x01\x00\x50"), Err(NotSocks));
        assert_eq!(greeting(b"GET / HTTP/1.1"), Err(NotSocks));
    }

    #[test]
    fn a_greeting_has_to_offer_no_password() {
        assert_eq!(greeting(&[5, 1, 0]), Ok(Some((true, 3))));
        assert_eq!(greeting(&[5, 2, 2, 0, 5]), Ok(Some((true, 4))));
        assert_eq!(greeting(&[5, 1, 2]), Ok(Some((false, 3))));
        assert_eq!(greeting(&[5, 0]), Ok(Some((false, 2))));
        for cut in [&[][..], &[5], &[5, 2, 0]] {
            assert_eq!(greeting(cut), Ok(None), "{cut:?}");
        }
    }
}
