//! The file verbs. They run inside the sandbox with its rights, so a planted link reaches nothing the agent can't.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use astraforge_core::files::{DownloadRequest, FileErrorKind, UploadRequest};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{FrameSink, Frames, answer};
use crate::guest::frame::{Failure, GuestFrame, HostFrame, MAX_PAYLOAD};

/// Sends a file's contents.
pub(super) async fn read(request: &DownloadRequest, sink: &mut FrameSink) {
    let last = match send_contents(request, sink).await {
        Ok(()) => GuestFrame::Done,
        Err(failure) => GuestFrame::Failed(failure),
    };
    answer(sink, last).await;
}

async fn send_contents(request: &DownloadRequest, sink: &mut FrameSink) -> Result<(), Failure> {
    let mut file = open_regular(checked(&request.path)?)?;
    file.seek(io::SeekFrom::Start(request.offset)).map_err(failure)?;
    let (mut buffer, mut left) = (vec![0; MAX_PAYLOAD], request.limit.unwrap_or(u64::MAX));
    while left > 0 {
        let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n_bytes = file.read(&mut buffer[..room]).map_err(failure)?;
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
fn open_regular(path: &Path) -> Result<File, Failure> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
        // A kernel or a filter without it.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => rustix::fs::open(path, flags, Mode::empty()),
        opened => opened,
    };
    let file = File::from(file.map_err(|errno| failure(errno.into()))?);
    let kind = file.metadata().map_err(failure)?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    let (kind, what) = if kind.is_dir() {
        (FileErrorKind::IsDirectory, "it is a folder")
    } else {
        (FileErrorKind::NotAFile, "it is not a regular file")
    };
    Err(Failure::File { kind, reason: what.to_owned() })
}

/// Takes a file's contents from the host and puts them in place once they are complete.
pub(super) async fn write(request: &UploadRequest, mut frames: Frames, sink: &mut FrameSink) {
    let mut draft = match checked(&request.path).and_then(|path| Draft::create(path).map_err(failure)) {
        Ok(draft) => draft,
        Err(failure) => return answer(sink, GuestFrame::Failed(failure)).await,
    };
    let done = loop {
        let step = match frames.next().await {
            Some(Ok(HostFrame::Contents(bytes))) => draft.file.write_all(&bytes),
            Some(Ok(HostFrame::ContentsEnd)) => break draft.publish(request.mode),
            // The host went away in the middle: nothing is written.
            _ => return,
        };
        if let Err(error) = step {
            break Err(error);
        }
    };
    let last = done.map_or_else(|error| GuestFrame::Failed(failure(error)), |()| GuestFrame::Done);
    answer(sink, last).await;
}

/// A file that is not in place yet; dropped before that, it is removed.
struct Draft {
    file: File,
    draft: Option<PathBuf>,
    target: PathBuf,
}

impl Draft {
    fn create(target: &Path) -> io::Result<Self> {
        let folder = target.parent().ok_or(io::ErrorKind::IsADirectory)?;
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        for attempt in 0..1000 {
            let draft = folder.join(format!(".astraforge-{}-{attempt}.part", std::process::id()));
            match options.open(&draft) {
                Ok(file) => return Ok(Self { file, draft: Some(draft), target: target.to_owned() }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("too many unfinished files in this folder"))
    }

    fn publish(&mut self, mode: u32) -> io::Result<()> {
        self.file.set_permissions(std::fs::Permissions::from_mode(mode & 0o777))?;
        if let Some(draft) = &self.draft {
            std::fs::rename(draft, &self.target)?;
        }
        // From here on the name may belong to another draft.
        self.draft = None;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(draft) = &self.draft {
            drop(std::fs::remove_file(draft));
        }
    }
}

/// Lets through absolute paths that the kernel can be asked for.
fn checked(path: &str) -> Result<&Path, Failure> {
    let refused = |reason: &str| Err(Failure::File { kind: FileErrorKind::InvalidArgument, reason: reason.to_owned() });
    match path {
        "" => refused("the path is empty"),
        path if path.contains('\0') => refused("the path contains a NUL byte"),
        path if !path.starts_with('/') => refused("the path is not absolute"),
        path => Ok(Path::new(path)),
    }
}

fn failure(error: io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => FileErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => FileErrorKind::PermissionDenied,
        io::ErrorKind::IsADirectory => FileErrorKind::IsDirectory,
        io::ErrorKind::NotADirectory => FileErrorKind::NotADirectory,
        io::ErrorKind::AlreadyExists => FileErrorKind::AlreadyExists,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FileErrorKind::NoSpace,
        _ => FileErrorKind::Other,
    };
    Failure::File { kind, reason: error.to_string() }
}
