//! Whether one container reaches another over the network: what a driver's trial of network policies runs.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// The port that is listened on.
pub const PORT: u16 = 7070;

/// How long it is tried, so that a network that is slow to open, or slow to close, shows itself.
const TRIAL: Duration = Duration::from_secs(4);

/// Takes connections and closes them, until it is ended from outside.
///
/// # Errors
/// When the port cannot be listened on.
pub fn listen() -> io::Result<()> {
    // An address of the newer family takes both, where the kernel has it.
    let listener =
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).or_else(|_| TcpListener::bind(("0.0.0.0", PORT)))?;
    listener.incoming().for_each(drop);
    Ok(())
}

/// Connects to `address`.
///
/// # Errors
/// When no attempt within some seconds got through.
pub fn reach(address: &str) -> io::Result<()> {
    let address: SocketAddr = address.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let began = Instant::now();
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() > TRIAL => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}
