//! Tells the host from programs of the sandbox that find the daemon's socket.

use tokio::net::UnixStream;

use super::process_table::parent_of;

/// Tells whether the peer is outside the sandbox, or was put into it from outside.
///
/// As pid 1 the daemon sees every process of the sandbox. One that lies outside has no number here, and one that was
/// put in (as `docker exec` does) has no parent here; all others descend from the daemon. Where the daemon is not
/// pid 1 there is no sandbox, and nobody to be told apart.
pub(super) fn is_host(socket: &UnixStream) -> bool {
    if !rustix::process::getpid().is_init() {
        return true;
    }
    match socket.peer_cred().map(|peer| peer.pid()) {
        Ok(None | Some(0)) => true,
        Ok(Some(pid)) => parent_of(pid) == Some(0),
        Err(_) => false,
    }
}
