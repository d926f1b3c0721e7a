//! Ways out over the network.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket},
    time::Duration,
};

use crate::{Attack, say};

pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("connect", connect),
    ("send", send),
    ("resolve", resolve),
    ("listen", listen),
    ("spread", spread),
    ("proxy", proxy),
];

const PATIENCE: Duration = Duration::from_secs(2);

/// Connects to each of the addresses by TCP.
fn connect(addresses: &[String]) {
    for text in addresses {
        let Some(address) = first(text) else { continue };
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(mut stream) => {
                let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
                say::open(format_args!("{text} takes connections"));
            }
            Err(error) => say::held(format_args!("{text}: {error}")),
        }
    }
}

/// The address that a text means to the system's own resolver, in whatever way it is written.
fn first(text: &str) -> Option<SocketAddr> {
    match text.to_socket_addrs().map(|mut it| it.next()) {
        Ok(Some(address)) => Some(address),
        Ok(None) => None,
        Err(error) => {
            say::held(format_args!("{text}: {error}"));
            None
        }
    }
}

/// Sends to each of the addresses by UDP, and waits for an answer.
fn send(addresses: &[String]) {
    for text in addresses {
        let Some(address) = first(text) else { continue };
        let own: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        let sent = UdpSocket::bind(own).and_then(|socket| {
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
            socket.set_broadcast(true)?;
            socket.send_to(QUESTION, address)?;
            Ok(socket.recv_from(&mut [0; 512]))
        });
        match sent {
            Ok(Ok(_)) => say::open(format_args!("{text} answers")),
            Ok(Err(error)) => say::note("sent", format_args!("{text}: {error}")),
            Err(error) => say::held(format_args!("{text}: {error}")),
        }
    }
}

/// A question for the address of `secret.example.com`, as a tunnel through DNS would ask.
const QUESTION: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06secret\x07example\x03com\x00\x00\x01\x00\x01";

/// Asks the system's own resolver.
fn resolve(names: &[String]) {
    for name in names {
        match (name.as_str(), 80).to_socket_addrs() {
            Ok(found) => say::open(format_args!("{name} is {:?}", found.collect::<Vec<_>>())),
            Err(error) => say::held(format_args!("{name}: {error}")),
        }
    }
}

/// Listens on every address at a port, and says who comes.
fn listen(args: &[String]) {
    let port = args.first().and_then(|it| it.parse().ok()).unwrap_or(0);
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(listener) => {
            say::ready();
            while let Ok((mut stream, from)) = listener.accept() {
                let mut answer = [0; 64];
                let _ = stream.set_read_timeout(Some(PATIENCE));
                let n_bytes = stream.read(&mut answer).unwrap_or(0);
                say::open(format_args!("{from} came and said {n_bytes} bytes"));
            }
        }
        Err(error) => say::held(format_args!("listen: {error}")),
    }
}

/// Connects to one port of every address near its own.
///
/// Argument: the port.
fn spread(args: &[String]) {
    let port: u16 = args.first().and_then(|it| it.parse().ok()).unwrap_or(0);
    for address in
        ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.1.2.3", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]"]
    {
        match first(&format!("{address}:{port}")).map(|it| TcpStream::connect_timeout(&it, PATIENCE)) {
            Some(Ok(_)) => say::open(format_args!("{address}:{port} takes connections")),
            Some(Err(error)) => say::held(format_args!("{address}:{port}: {error}")),
            None => {}
        }
    }
}

/// Asks a proxy for a way to each of the targets, in every language that it may speak.
///
/// Arguments: the proxy's address, the targets.
fn proxy(args: &[String]) {
    let Some((gateway, targets)) = args.split_first() else { return say::open("a proxy is needed") };
    for target in targets {
        let (host, port) = target.rsplit_once(':').unwrap_or((target, "80"));
        let port: u16 = port.parse().unwrap_or(80);
        let [high, low] = port.to_be_bytes();
        let name = host.trim_matches(['[', ']']);
        let mut by_name = vec![5, 1, 0, 3, u8::try_from(name.len()).unwrap_or(255)];
        by_name.extend(name.as_bytes());
        by_name.extend([high, low]);
        let mut questions = vec![
            ("CONNECT", format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").into_bytes()),
            (
                "CONNECT with another Host",
                format!("CONNECT {target} HTTP/1.1\r\nHost: example.com:443\r\n\r\n").into_bytes(),
            ),
            (
                "GET",
                format!("GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").into_bytes(),
            ),
            (
                "GET with another Host",
                format!("GET http://{target}/ HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n").into_bytes(),
            ),
            (
                "GET by Host alone",
                format!("GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").into_bytes(),
            ),
            ("SOCKS by name", by_name),
        ];
        if let Ok(std::net::IpAddr::V4(address)) = name.parse() {
            questions.push(("SOCKS by address", [&[5, 1, 0, 1][..], &address.octets(), &[high, low]].concat()));
            questions.push(("SOCKS 4", [&[4, 1, high, low][..], &address.octets(), &[0]].concat()));
        }
        if let Ok(std::net::IpAddr::V6(address)) = name.parse() {
            questions.push(("SOCKS by address", [&[5, 1, 0, 4][..], &address.octets(), &[high, low]].concat()));
        }
        for (how, question) in questions {
            match ask(gateway, &question) {
                Ok(true) => say::open(format_args!("{how}: a way to {target}")),
                Ok(false) => say::held(format_args!("{how}: no way to {target}")),
                Err(error) => say::held(format_args!("{how}, {target}: {error}")),
            }
        }
    }
}

/// Tells whether a proxy gives what it is asked for.
fn ask(gateway: &str, question: &[u8]) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(gateway)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut answer = [0; 64];
    if question[0] == 5 {
        stream.write_all(&[5, 1, 0])?;
        stream.read_exact(&mut answer[..2])?;
        if answer[1] != 0 {
            return Ok(false);
        }
    }
    stream.write_all(question)?;
    let n_bytes = stream.read(&mut answer)?;
    let text = String::from_utf8_lossy(&answer[..n_bytes]);
    Ok(match question[0] {
        5 => n_bytes > 1 && answer[1] == 0,
        4 => n_bytes > 1 && answer[1] == 90,
        _ => text.split(' ').nth(1).and_then(|it| it.parse::<u16>().ok()).is_some_and(|it| it < 400),
    })
}
