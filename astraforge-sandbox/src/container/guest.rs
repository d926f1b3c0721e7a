//! The guest program in a container: its first process, the relay to it, and its way in.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        linux::net::SocketAddrExt,
        unix::{
            fs::OpenOptionsExt,
            net::{SocketAddr, UnixStream},
        },
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::process::DumpableBehavior;

use super::GUEST_MODE;

#[cfg(feature = "native")]
mod lockdown;
#[cfg(feature = "native")]
mod serve;

#[cfg(feature = "native")]
pub use serve::serve;

/// Name of the guest's socket. It is an abstract one: no file that an agent could replace, in a name space that the
/// container's first process was the first to use.
const SOCKET: &[u8] = b"astraforge-guest";

/// How long the guest may take to listen after its container has started.
const PATIENCE: Duration = Duration::from_secs(10);

/// Joins standard input and output with the guest's socket until the guest closes it. Engines run this for a host.
///
/// # Errors
/// When no guest listens in this container.
pub fn connect() -> io::Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let mut socket = reach()?;
    let mut to_guest = socket.try_clone()?;
    let mut input = unbuffered(io::stdin().as_fd())?;
    let mut output = unbuffered(io::stdout().as_fd())?;
    thread::spawn(move || {
        // A host that is gone and one that has said all look alike: the guest sees the end, and ends the rest.
        let _ = pass_on(&mut input, &mut to_guest);
        let _ = to_guest.shutdown(std::net::Shutdown::Write);
    });
    pass_on(&mut socket, &mut output)
}

/// Hands on what comes as it comes. `io::copy` lets the kernel splice, which holds back what is little.
fn pass_on(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n_bytes) => to.write_all(&buffer[..n_bytes])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Puts a copy of this program at `target`, to be run and not read, and makes `folders`, which belong to whoever runs
/// this. The init container of a pod does: a volume's own root belongs to nobody who works in it.
///
/// # Errors
/// When they can't be written.
pub fn install<P: AsRef<Path>>(target: &Path, folders: impl IntoIterator<Item = P>) -> io::Result<()> {
    for folder in folders {
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    let draft = target.with_extension("new");
    // One of an attempt that was interrupted.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut copy = File::options().write(true).create_new(true).mode(GUEST_MODE).open(&draft)?;
    io::copy(&mut File::open("/proc/self/exe")?, &mut copy)?;
    copy.sync_all()?;
    drop(copy);
    fs::rename(&draft, target)
}

fn address() -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(SOCKET)
}

/// Connects to the guest; its container may have started just now.
fn reach() -> io::Result<UnixStream> {
    let began = Instant::now();
    loop {
        match UnixStream::connect_addr(&address()?) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && began.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(5));
            }
            connected => return connected,
        }
    }
}

/// A standard stream as it is: what the guest sends must not wait for a line's end.
fn unbuffered(stream: BorrowedFd<'_>) -> io::Result<File> {
    stream.try_clone_to_owned().map(File::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_installed_program_is_run_and_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("guest");
        let own = folder.path().join("own");
        for _ in 0..2 {
            install(&target, [&own]).unwrap();
        }
        fs::remove_dir(own).unwrap();
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o111);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        assert_eq!(fs::metadata(&target).unwrap().len(), fs::metadata("/proc/self/exe").unwrap().len());
    }
}
