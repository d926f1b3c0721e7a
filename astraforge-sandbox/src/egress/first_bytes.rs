//! What the first bytes that a client sends into a tunnel tell about the host that is meant.

use rustls::server::Acceptor;

/// The longest beginning that is looked at, in bytes.
pub(super) const LONGEST: usize = 32 * 1024;

/// What a tunnel begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FirstBytes {
    /// A TLS greeting, and the host that it names.
    Tls {
        /// The name, as the client spells it; none too when the greeting cannot be read.
        name: Option<String>,
    },
    /// An HTTP request.
    Http,
    /// Anything else.
    Other,
}

/// Reads the beginning of what a client sends. `None` is: more of it is needed, of which there may be up to
/// [`LONGEST`] bytes.
#[must_use]
pub(super) fn read(bytes: &[u8]) -> Option<FirstBytes> {
    match bytes.first()? {
        &HANDSHAKE => greeting(bytes),
        _ => request_line(bytes),
    }
    .or_else(|| (bytes.len() >= LONGEST).then(|| settle(bytes)))
}

/// Says what a beginning is of which no more comes: in doubt, that of which more is asked.
#[must_use]
pub(super) fn settle(bytes: &[u8]) -> FirstBytes {
    let is_text = |bytes: &[u8]| !bytes.iter().any(|b| b.is_ascii_control() && !matches!(b, b'\r' | b'\n' | b'\t'));
    match bytes.first() {
        Some(&HANDSHAKE) => FirstBytes::Tls { name: None },
        Some(_) if is_text(bytes) && bytes.contains(&b' ') => FirstBytes::Http,
        _ => FirstBytes::Other,
    }
}

/// Tells whether a beginning is that of a TLS greeting.
#[must_use]
pub(super) fn may_be_tls(bytes: &[u8]) -> bool {
    bytes.first() == Some(&HANDSHAKE)
}

/// The record of a TLS handshake, of any version since SSL 3.
const HANDSHAKE: u8 = 0x16;

fn greeting(bytes: &[u8]) -> Option<FirstBytes> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    loop {
        // It takes one read's worth at a time.
        match acceptor.read_tls(&mut rest) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(_) => return Some(FirstBytes::Tls { name: None }),
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_owned);
                return Some(FirstBytes::Tls { name });
            }
            Ok(None) => {}
            Err(_) => return Some(FirstBytes::Tls { name: None }),
        }
    }
}

/// Servers take a request whose first line has little right in it, so anything that ends like one counts.
fn request_line(bytes: &[u8]) -> Option<FirstBytes> {
    // Servers skip empty lines.
    let blank = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    let line = &bytes[blank..];
    let end = line.iter().position(|b| *b == b'\n');
    let line = &line[..end.unwrap_or(line.len())];
    if line.iter().any(|b| b.is_ascii_control() && !matches!(b, b'\r' | b'\t')) {
        return Some(FirstBytes::Other);
    }
    end?;
    let has_version = line.windows(5).any(|window| window.eq_ignore_ascii_case(b"HTTP/"));
    Some(if has_version { FirstBytes::Http } else { FirstBytes::Other })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::samples::client_hello;

    #[test]
    fn the_name_in_a_greeting_is_found_however_it_is_cut() {
        let hello = client_hello(Some("example.com"));
        for n_bytes in 1..hello.len() {
            assert_eq!(read(&hello[..n_bytes]), None, "{n_bytes} bytes");
        }
        let expected = Some(FirstBytes::Tls { name: Some("example.com".to_owned()) });
        assert_eq!(read(&hello), expected);
        assert_eq!(read(&[hello.as_slice(), b"early data"].concat()), expected);
        assert_eq!(read(&client_hello(None)), Some(FirstBytes::Tls { name: None }));
        assert_eq!(read(&in_small_records(&hello)), expected, "one greeting in many records");
    }

    /// The same greeting, in records of a few bytes each.
    fn in_small_records(hello: &[u8]) -> Vec<u8> {
        let mut cut = Vec::new();
        for piece in hello[5..].chunks(7) {
            cut.extend_from_slice(&hello[..3]);
            cut.extend_from_slice(&(piece.len() as u16).to_be_bytes());
            cut.extend_from_slice(piece);
        }
        cut
    }

    #[test]
    fn what_only_looks_like_a_greeting_is_none() {
        assert_eq!(read(b"\x16\x03\x01\x00\x05hello"), Some(FirstBytes::Tls { name: None }));
        let mut endless = client_hello(Some("example.com"));
        endless[6..9].copy_from_slice(&[0xff; 3]);
        endless.resize(LONGEST, 0);
        assert_eq!(read(&endless), Some(FirstBytes::Tls { name: None }));
        assert_eq!(settle(b"\x16\x03"), FirstBytes::Tls { name: None });
    }

    #[test]
    fn requests_are_told_from_other_lines() {
        let check = |bytes: &[u8], expected: Option<FirstBytes>| assert_eq!(read(bytes), expected, "{bytes:?}");
        check(b"", None);
        check(b"GET / HT", None);
        check(b"GET / HTTP/1.1\r\n", Some(FirstBytes::Http));
        check(b"\r\n\nget  /  http/1.0\n", Some(FirstBytes::Http));
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(FirstBytes::Http));
        check(b"SSH-2.0-OpenSSH_9.2\r\n", Some(FirstBytes::Other));
        check(b"EHLO example.com\r\n", Some(FirstBytes::Other));
        check(b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Some(FirstBytes::Other));
        check(&vec![b'a'; LONGEST], Some(FirstBytes::Other));
        check(&[b"GET /".as_slice(), &[b'a'; LONGEST]].concat(), Some(FirstBytes::Http));
        assert_eq!(settle(b"GET / HT"), FirstBytes::Http, "the rest may come later");
        assert_eq!(settle(b""), FirstBytes::Other);
    }
}
