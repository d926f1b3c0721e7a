//! Files and archives, seen from the host.

use astraforge_core::{
    archive::{ArchiveSummary, CompareRequest, Comparison, PackRequest, UnpackRequest},
    files::{
        DownloadRequest, Existing, FileEvent, FileReply, FileRequest, FileVerb, Roots, UploadRequest, WatchRequest,
    },
    ports::{
        machines::{ByteStream, Usage, read_whole},
        sessions::SessionError,
    },
};
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};

use super::{
    GuestClient,
    transfer::{self, Deed, ask, receive, send},
};
use crate::guest::header::Operation;

impl GuestClient {
    /// Reads a regular file of at most `max_bytes` bytes. Symbolic links are followed, inside the sandbox.
    ///
    /// # Errors
    /// [`SessionError::FileNotFound`], [`SessionError::TooLarge`], [`SessionError::File`] or [`SessionError::Lost`].
    pub async fn read_file(&self, path: &str, max_bytes: u64) -> Result<Bytes, SessionError> {
        let request = DownloadRequest {
            roots: Roots::everywhere(),
            path: path.to_owned(),
            offset: 0,
            // One more than is wanted tells that there is more.
            limit: Some(max_bytes.saturating_add(1)),
        };
        read_whole(self.download(request).await?, path, max_bytes).await
    }

    /// Writes a file whole or not at all, making the folders above it. A symbolic link at `path` is replaced.
    ///
    /// # Errors
    /// [`SessionError::File`] or [`SessionError::Lost`].
    pub async fn write_file(&self, path: &str, contents: Bytes, mode: u32) -> Result<(), SessionError> {
        let request =
            UploadRequest { roots: Roots::everywhere(), path: path.to_owned(), mode, existing: Existing::Replace };
        self.upload(request, stream::iter([Ok(contents)]).boxed()).await.map(drop)
    }

    /// Carries out a file verb.
    ///
    /// # Errors
    /// [`SessionError::FileNotFound`], [`SessionError::File`] or [`SessionError::Lost`].
    pub async fn file(&self, request: FileRequest) -> Result<FileReply, SessionError> {
        let deed = deed_of(&request.verb);
        ask(self, &Operation::File(request), deed).await
    }

    /// Follows changes below a path, from the moment this returns on. The first event says that it is watched, and the
    /// stream ends when the path is gone. Dropping the stream ends the watch.
    ///
    /// # Errors
    /// [`SessionError::FileNotFound`], [`SessionError::File`] or [`SessionError::Lost`].
    pub async fn watch(
        &self,
        request: WatchRequest,
    ) -> Result<BoxStream<'static, Result<FileEvent, SessionError>>, SessionError> {
        transfer::watch(self, request).await
    }

    /// Reads a file as a stream.
    ///
    /// # Errors
    /// [`SessionError::FileNotFound`], [`SessionError::File`] or [`SessionError::Lost`].
    pub async fn download(&self, request: DownloadRequest) -> Result<ByteStream, SessionError> {
        let deed = Deed::new("read", &request.path);
        receive(self, &Operation::Download(request), deed).await
    }

    /// Writes a file from a stream, whole or not at all; returns its size in bytes.
    ///
    /// # Errors
    /// [`SessionError::File`], [`SessionError::Lost`], or that of the stream.
    ///
    /// # Cancel safety
    /// Dropping the future leaves what was there before.
    pub async fn upload(&self, request: UploadRequest, contents: ByteStream) -> Result<u64, SessionError> {
        let deed = Deed::new("write", &request.path);
        let mut n_bytes = 0;
        let counted = contents.inspect(|piece| n_bytes += piece.as_ref().map_or(0, |bytes| bytes.len() as u64));
        match send(self, &Operation::Upload(request), deed.clone(), counted).await {
            // A folder on the way is missing only when it cannot be made.
            Err(SessionError::FileNotFound { path }) => Err(SessionError::File {
                operation: deed.operation,
                path,
                kind: astraforge_core::files::FileErrorKind::NotFound,
                reason: "a folder on the way does not exist and cannot be made".to_owned(),
            }),
            sent => sent.map(|_| n_bytes),
        }
    }

    /// Packs files into an archive.
    ///
    /// # Errors
    /// [`SessionError::File`] or [`SessionError::Lost`]; also as the stream's last item.
    pub async fn pack(&self, request: PackRequest) -> Result<ByteStream, SessionError> {
        let deed = Deed::new("pack", &request.include.join(" "));
        receive(self, &Operation::Pack(request), deed).await
    }

    /// Replaces files by an archive's.
    ///
    /// # Errors
    /// [`SessionError::File`], [`SessionError::Lost`], or that of the stream.
    pub async fn unpack(&self, request: UnpackRequest, archive: ByteStream) -> Result<ArchiveSummary, SessionError> {
        let deed = Deed::new("restore", &request.replace.join(" "));
        transfer::value(&send(self, &Operation::Unpack(request), deed, archive).await?)
    }

    /// Compares an archive with the files as they are.
    ///
    /// # Errors
    /// [`SessionError::File`], [`SessionError::Lost`], or that of the stream.
    pub async fn compare(&self, request: CompareRequest, archive: ByteStream) -> Result<Comparison, SessionError> {
        let deed = Deed::new("compare", &request.pack.include.join(" "));
        transfer::value(&send(self, &Operation::Compare(request), deed, archive).await?)
    }

    /// Measures from inside what the sandbox uses. What runs in there could hold it up for good: bound the wait.
    ///
    /// # Errors
    /// [`SessionError::File`] or [`SessionError::Lost`].
    pub async fn usage(&self) -> Result<Usage, SessionError> {
        ask(self, &Operation::Usage {}, Deed::new("measure", "the sandbox")).await
    }
}

fn deed_of(verb: &FileVerb) -> Deed {
    match verb {
        FileVerb::Stat { path } => Deed::new("describe", path),
        FileVerb::List { path, .. } => Deed::new("list", path),
        FileVerb::ReadText { path, .. } => Deed::new("read", path),
        FileVerb::Edit { path, .. } => Deed::new("edit", path),
        FileVerb::Glob { path, .. } | FileVerb::Grep { path, .. } => Deed::new("search", path),
        FileVerb::MakeDir { path } => Deed::new("make", path),
        FileVerb::Move { from, .. } => Deed::new("move", from),
        FileVerb::Remove { path, .. } => Deed::new("remove", path),
        _ => Deed::new("use", ""),
    }
}
