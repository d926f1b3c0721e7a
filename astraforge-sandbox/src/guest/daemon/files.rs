//! The file verbs. They run inside the sandbox with its rights, and only in the folders that their caller may use.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read, Seek, Write},
    os::fd::OwnedFd,
};

use astraforge_core::files::{
    DownloadRequest, Existing, FileErrorKind, FileReply, FileRequest, FileVerb, UploadRequest,
};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags, fchmod, openat, renameat, renameat_with, unlinkat},
    io::Errno,
};

use self::place::{Place, fail, failure, io_failure};
use super::{Daemon, FrameSink, Frames, answer, errand, tell};
use crate::guest::frame::{Failure, GuestFrame, HostFrame, MAX_PAYLOAD};

mod edit;
#[cfg(feature = "testing")]
pub(crate) mod fuzz;
mod place;
mod search;
mod text;
mod transfer;
mod tree;
pub(super) mod watch;

/// Larger files are read and edited by an errand, so that nothing waits for it.
const QUICK: u64 = 256 * 1024;

/// Carries out a verb; what may take long is an errand.
pub(super) async fn verb(daemon: &Daemon, request: FileRequest, frames: Frames, mut sink: FrameSink) {
    if !is_quick(&request) {
        return errand::run(daemon, frames, sink, |_, _| carry_out(&request).and_then(|reply| json(&reply)).map(Some))
            .await;
    }
    match carry_out(&request) {
        Ok(reply) => tell(&mut sink, &reply).await,
        Err(failure) => answer(&mut sink, GuestFrame::Failed(failure)).await,
    }
}

fn is_quick(request: &FileRequest) -> bool {
    match &request.verb {
        FileVerb::ReadText { path, .. } | FileVerb::Edit { path, .. } => {
            let size = Place::find(&request.roots, path).and_then(|place| open_regular(&place));
            size.is_ok_and(|file| file.metadata().is_ok_and(|meta| meta.len() <= QUICK))
        }
        FileVerb::List { depth, .. } => *depth <= 1,
        FileVerb::Remove { recursive, .. } => !recursive,
        FileVerb::Stat { .. } | FileVerb::MakeDir { .. } => true,
        // From one root to another it may be a copy.
        FileVerb::Move { from, to, .. } => Place::share_root(&request.roots, from, to),
        _ => false,
    }
}

fn carry_out(FileRequest { roots, verb }: &FileRequest) -> Result<FileReply, Failure> {
    let place = |path: &str| Place::find(roots, path);
    match verb {
        FileVerb::Stat { path } => tree::stat(&place(path)?),
        FileVerb::List { path, depth, limit } => tree::list(&place(path)?, *depth, *limit),
        FileVerb::ReadText { path, offset, limit, max_bytes } => {
            text::read(open_regular(&place(path)?)?, *offset, *limit, *max_bytes).map(FileReply::Text)
        }
        FileVerb::Edit { path, old, new, occurrences } => {
            let n_replaced = edit::edit(roots, &place(path)?, old, new, *occurrences)?;
            Ok(FileReply::Edited { n_replaced })
        }
        FileVerb::Glob { pattern, path, limit } => search::glob(&place(path)?, pattern, *limit),
        FileVerb::Grep { pattern, path, glob, output, limit } => {
            search::grep(&place(path)?, pattern, glob.as_deref(), *output, *limit)
        }
        FileVerb::MakeDir { path } => tree::make_folder(&place(path)?),
        FileVerb::Move { from, to, existing } => tree::rename(&place(from)?, &place(to)?, *existing),
        FileVerb::Remove { path, recursive } => tree::remove(&place(path)?, *recursive),
        _ => Err(Failure::Refused { reason: "this guest does not know the verb".to_owned() }),
    }
}

fn json(reply: &FileReply) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(reply).map_err(|error| Failure::Refused { reason: error.to_string() })
}

/// Sends a file's contents.
pub(super) async fn read(request: &DownloadRequest, sink: &mut FrameSink) {
    let last = match send_contents(request, sink).await {
        Ok(()) => GuestFrame::Done,
        Err(failure) => GuestFrame::Failed(failure),
    };
    answer(sink, last).await;
}

async fn send_contents(request: &DownloadRequest, sink: &mut FrameSink) -> Result<(), Failure> {
    let mut file = open_regular(&Place::find(&request.roots, &request.path)?)?;
    file.seek(io::SeekFrom::Start(request.offset)).map_err(io_failure)?;
    // A file that grows as it is read would never end. The kernel's own files do not know their size.
    let there = match file.metadata().map_err(io_failure)?.len() {
        0 => u64::MAX,
        size => size.saturating_sub(request.offset),
    };
    let (mut buffer, mut left) = (vec![0; MAX_PAYLOAD], request.limit.unwrap_or(u64::MAX).min(there));
    while left > 0 {
        let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n_bytes = file.read(&mut buffer[..room]).map_err(io_failure)?;
        left -= n_bytes as u64;
        if n_bytes == 0 {
            return Ok(());
        }
        let contents = Bytes::copy_from_slice(&buffer[..n_bytes]);
        if sink.send(GuestFrame::Contents(contents)).await.is_err() {
            return Ok(()); // nobody reads any more
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Opens a regular file without ever waiting: a FIFO without writers, or a leased file, is refused instead.
fn open_regular(place: &Place) -> Result<File, Failure> {
    let file = File::from(place.open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
    let kind = file.metadata().map_err(io_failure)?.file_type();
    if kind.is_file() {
        Ok(file)
    } else if kind.is_dir() {
        Err(fail(FileErrorKind::IsDirectory, "it is a folder"))
    } else {
        Err(fail(FileErrorKind::NotAFile, "it is not a regular file"))
    }
}

/// Takes a file's contents from the host and puts them in place once they are complete.
pub(super) async fn write(request: &UploadRequest, mut frames: Frames, sink: &mut FrameSink) {
    let mut draft = match Place::find(&request.roots, &request.path).and_then(|place| Draft::create(&place)) {
        Ok(draft) => draft,
        Err(failure) => return answer(sink, GuestFrame::Failed(failure)).await,
    };
    let done = loop {
        let step = match frames.next().await {
            Some(Ok(HostFrame::Contents(bytes))) => draft.file.write_all(&bytes).map_err(io_failure),
            Some(Ok(HostFrame::ContentsEnd)) => break draft.publish(request.mode, request.existing),
            // The host went away in the middle: nothing is written.
            _ => return,
        };
        if step.is_err() {
            break step;
        }
    };
    let last = done.map_or_else(GuestFrame::Failed, |()| GuestFrame::Done);
    answer(sink, last).await;
}

/// A file that is not in place yet; dropped before that, it is removed.
struct Draft {
    file: File,
    folder: OwnedFd,
    draft: Option<CString>,
    name: CString,
}

impl Draft {
    /// Begins a file; folders above it are made.
    fn create(place: &Place) -> Result<Self, Failure> {
        let (folder, name) = place.make_parent()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for attempt in 0..1000 {
            let draft = format!(".astraforge-{}-{attempt}.part", std::process::id());
            let Ok(draft) = CString::new(draft) else { break };
            match openat(&folder, &draft, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => return Ok(Self { file: file.into(), folder, draft: Some(draft), name }),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failure(errno)),
            }
        }
        Err(fail(FileErrorKind::Other, "too many unfinished files in this folder"))
    }

    fn publish(&mut self, mode: u32, existing: Existing) -> Result<(), Failure> {
        fchmod(&self.file, Mode::from_raw_mode(mode & 0o777)).map_err(failure)?;
        let Some(draft) = &self.draft else { return Ok(()) };
        let renamed = match existing {
            Existing::Replace => renameat(&self.folder, draft, &self.folder, &self.name),
            Existing::Keep => renameat_with(&self.folder, draft, &self.folder, &self.name, RenameFlags::NOREPLACE),
        };
        renamed.map_err(failure)?;
        // From here on the name may belong to another draft.
        self.draft = None;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(draft) = &self.draft {
            let _ = unlinkat(&self.folder, draft, AtFlags::empty());
        }
    }
}
