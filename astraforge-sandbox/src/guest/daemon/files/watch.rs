//! Watches: changes of files, told to the host as they happen.
//!
//! A watch is an errand of its own, which waits for the kernel's news and for the end of its host.

use std::{io, mem::MaybeUninit, path::Path};

use astraforge_core::files::{FileChange, FileErrorKind, FileEvent, WatchRequest};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::inotify::Reader,
    io::Errno,
};

use self::folders::{Folders, News};
use super::place::{fail, failure, shown};
use crate::guest::{
    daemon::{
        Daemon, FrameSink, Frames, answer,
        errand::{self, Input, Outcome, Reply},
    },
    frame::{Failure, GuestFrame},
};

mod folders;

/// Watches that may be open at once in a sandbox.
pub(in crate::guest::daemon) const MAX_WATCHES: usize = 16;

/// Follows changes until the host goes away or what is watched does.
pub(in crate::guest::daemon) async fn follow(
    daemon: &Daemon,
    request: WatchRequest,
    frames: Frames,
    mut sink: FrameSink,
) {
    let Ok(_room) = daemon.watches.try_acquire() else {
        let reason = format!("there are {MAX_WATCHES} watches already: end one first");
        return answer(&mut sink, GuestFrame::Failed(fail(FileErrorKind::Other, &reason))).await;
    };
    errand::run(daemon, frames, sink, |input, reply| watch(&request, input, reply)).await;
}

fn watch(request: &WatchRequest, input: &Input, reply: &mut Reply) -> Outcome {
    let mut folders = Folders::begin(request)?;
    let mut teller = Teller { reply, last: None };
    match teller.tell(&folders.shown(), FileChange::Watching).and_then(|()| teller.flush()) {
        Ok(()) => follow_news(&mut folders, input, &mut teller),
        Err(_) => Ok(None), // nobody listens
    }
}

fn follow_news(folders: &mut Folders, input: &Input, teller: &mut Teller<'_>) -> Outcome {
    let mut buffer = vec![MaybeUninit::uninit(); 64 * 1024];
    loop {
        match wait(folders, input) {
            Ok(true) => {}
            Ok(false) => return Ok(None), // the host went away
            Err(errno) => return Err(failure(errno)),
        }
        match read_all(folders, &mut buffer, teller) {
            Ok(true) => {}
            Ok(false) => return Ok(None), // what was watched is gone
            Err(Stop::Unheard) => return Ok(None),
            Err(Stop::Failed(failure)) => return Err(failure),
        }
    }
}

/// Waits for news; tells whether the host is still there.
fn wait(folders: &Folders, input: &Input) -> Result<bool, Errno> {
    let mut fds = [PollFd::new(folders, PollFlags::IN), PollFd::new(input, PollFlags::IN)];
    match poll(&mut fds, None) {
        Ok(_) => Ok(fds[1].revents().is_empty()),
        Err(Errno::INTR) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// Tells all news that there are; whether there can be more.
fn read_all(folders: &mut Folders, buffer: &mut [MaybeUninit<u8>], teller: &mut Teller<'_>) -> Result<bool, Stop> {
    let inotify = folders.inotify().map_err(|errno| Stop::Failed(failure(errno)))?;
    let mut reader = Reader::new(inotify, buffer);
    loop {
        let news = match reader.next() {
            Ok(event) => News::from(&event),
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(Stop::Failed(failure(errno))),
        };
        if !folders.learn(&news, &mut |path, change| teller.tell(path, change))? {
            teller.flush()?;
            return Ok(false);
        }
    }
    folders.caught_up();
    teller.flush()?;
    Ok(true)
}

/// Why a watch ends before what is watched does.
pub(super) enum Stop {
    /// Nobody listens any more.
    Unheard,
    Failed(Failure),
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Unheard
    }
}

/// Tells the host. What changes many times in a row is told once.
struct Teller<'a> {
    reply: &'a mut Reply,
    last: Option<std::path::PathBuf>,
}

impl Teller<'_> {
    fn tell(&mut self, path: &Path, change: FileChange) -> io::Result<()> {
        if change == FileChange::Modified && self.last.as_deref() == Some(path) {
            return Ok(());
        }
        self.last = matches!(change, FileChange::Created | FileChange::Modified).then(|| path.to_owned());
        let event = FileEvent { path: shown(path), change };
        self.reply.item(&serde_json::to_vec(&event).map_err(io::Error::other)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.last = None;
        io::Write::flush(self.reply)
    }
}
