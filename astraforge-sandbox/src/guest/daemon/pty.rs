//! Terminals for commands.

use std::io;

use astraforge_core::session::PtySize;
use rustix::{
    fd::{AsFd, OwnedFd},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tokio::net::unix::pipe::{Receiver, Sender};

/// The daemon's side of a terminal.
pub(super) struct Pty {
    /// What the command reads.
    pub(super) input: Sender,
    /// What it writes.
    pub(super) output: Receiver,
    /// What its size is set with.
    pub(super) master: OwnedFd,
    /// Where the command opens its side.
    pub(super) path: String,
}

impl Pty {
    pub(super) fn open(size: PtySize) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let path = ptsname(&master, Vec::new())?.into_string().map_err(io::Error::other)?;
        resize(&master, size)?;
        let input = Sender::from_owned_fd_unchecked(master.try_clone()?)?;
        let output = Receiver::from_owned_fd_unchecked(master.try_clone()?)?;
        Ok(Self { input, output, master, path })
    }
}

/// Changes the size; the kernel tells the command.
pub(super) fn resize(master: &impl AsFd, size: PtySize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(master, size)?)
}
