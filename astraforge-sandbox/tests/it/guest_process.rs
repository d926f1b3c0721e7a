//! The guest daemon as a process: this test binary, started once more, with its socket as standard input.

use std::{fs::File, io::stdin, os::fd::AsFd, os::unix::net::UnixListener};

use astraforge_sandbox::guest::{GuestConfig, daemon};

/// Arguments that make this binary run [`daemon_of_another_test`] and nothing else.
pub(crate) const ARGUMENTS: [&str; 4] =
    ["guest_process::daemon_of_another_test", "--exact", "--ignored", "--nocapture"];

#[test]
#[ignore = "not a test: the daemon's process, started by other tests"]
fn daemon_of_another_test() {
    let listener = UnixListener::from(stdin().as_fd().try_clone_to_owned().unwrap());
    let Ok(address) = listener.local_addr() else { return };
    let Some(socket) = address.as_pathname() else { return };
    let config: GuestConfig = serde_json::from_reader(File::open(socket.with_extension("json")).unwrap()).unwrap();
    daemon::run(listener, config).unwrap();
}
