//! The file verbs, seen from the host.

use astraforge_core::{
    files::{DownloadRequest, Existing, FileErrorKind, Roots, UploadRequest},
    ports::sessions::SessionError,
};
use bytes::{Bytes, BytesMut};
use futures::SinkExt;

use super::{Call, FrameSink, GuestClient, next, printable, violation};
use crate::guest::{
    frame::{Failure, GuestFrame, HostFrame, MAX_PAYLOAD, ProtocolError},
    header::Operation,
};

pub(super) async fn read(client: &GuestClient, path: &str, max_bytes: u64) -> Result<Bytes, SessionError> {
    let request = DownloadRequest {
        roots: Roots::everywhere(),
        path: path.to_owned(),
        offset: 0,
        // One more than is wanted tells that there is more.
        limit: Some(max_bytes.saturating_add(1)),
    };
    let mut call = client.call(&Operation::Download(request)).await?;
    let mut contents = BytesMut::new();
    loop {
        match call.next().await? {
            GuestFrame::Contents(bytes) if (contents.len() + bytes.len()) as u64 <= max_bytes => {
                contents.extend_from_slice(&bytes);
            }
            GuestFrame::Contents(_) => return Err(SessionError::TooLarge { path: path.to_owned(), max_bytes }),
            GuestFrame::Done => return Ok(contents.freeze()),
            GuestFrame::Failed(Failure::File { kind: FileErrorKind::NotFound, .. }) => {
                return Err(SessionError::FileNotFound { path: path.to_owned() });
            }
            GuestFrame::Failed(failure) => return Err(file_error("read", path, failure)),
            _ => return Err(violation(ProtocolError::Unexpected("answer to reading a file"))),
        }
    }
}

pub(super) async fn write(client: &GuestClient, path: &str, contents: Bytes, mode: u32) -> Result<(), SessionError> {
    let request =
        UploadRequest { roots: Roots::everywhere(), path: path.to_owned(), mode, existing: Existing::Replace };
    let Call { mut frames, mut sink, held: _held } = client.call(&Operation::Upload(request)).await?;
    // A guest that fails early reads no further, so its answer is awaited all along; it also tells why sending broke.
    let send = async {
        drop(send(&mut sink, contents).await);
        std::future::pending().await
    };
    let answer = tokio::select! {
        answer = next(&mut frames) => answer?,
        never = send => never,
    };
    match answer {
        GuestFrame::Done => Ok(()),
        GuestFrame::Failed(failure) => Err(file_error("write", path, failure)),
        _ => Err(violation(ProtocolError::Unexpected("answer to writing a file"))),
    }
}

async fn send(sink: &mut FrameSink, mut contents: Bytes) -> Result<(), ProtocolError> {
    while !contents.is_empty() {
        let piece = contents.split_to(contents.len().min(MAX_PAYLOAD));
        sink.send(HostFrame::Contents(piece)).await?;
    }
    sink.send(HostFrame::ContentsEnd).await
}

fn file_error(operation: &'static str, path: &str, failure: Failure) -> SessionError {
    let path = path.to_owned();
    let (kind, reason) = match failure {
        Failure::File { kind, reason } => (kind, printable(&reason)),
        Failure::Spawn { reason } | Failure::Refused { reason } => (FileErrorKind::Other, printable(&reason)),
        Failure::NoSuchProcess => (FileErrorKind::Other, "the guest answered something else".to_owned()),
    };
    SessionError::File { operation, path, kind, reason }
}
