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
    master: OwnedFd,
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
        Ok(Self { master, path })
    }

    /// What the command reads, what it writes, and what its size is set with.
    pub(super) fn split(self) -> io::Result<(Sender, Receiver, OwnedFd)> {
        let sender = Sender::from_owned_fd_unchecked(self.master.try_clone()?)?;
        let receiver = Receiver::from_owned_fd_unchecked(self.master.try_clone()?)?;
        Ok((sender, receiver, self.master))
    }
}

/// Changes the size; the kernel tells the command.
pub(super) fn resize(master: &impl AsFd, size: PtySize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(master, size)?)
}
