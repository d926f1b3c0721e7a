//! The daemon: answers hosts on a unix socket, from inside the sandbox.

use std::{io, os::unix::net::UnixListener};

use super::GuestConfig;

/// Serves hosts until the sandbox is to end: told so by a host, or without one for the orphan timeout.
///
/// Blocks the calling thread, which must be the process's only one, and is the sandbox's init: it reaps every orphan.
///
/// # Errors
/// When the listener or the runtime cannot be set up.
pub fn run(listener: UnixListener, config: GuestConfig) -> io::Result<()> {
    drop((listener, config));
    Err(io::Error::other("not built yet"))
}
