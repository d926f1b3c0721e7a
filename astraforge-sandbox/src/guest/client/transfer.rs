//! Operations that move many bytes, or answer with a value, seen from the host.

use std::time::Duration;

use astraforge_core::{
    files::{FileErrorKind, FileEvent, WatchRequest},
    ports::{machines::ByteStream, sessions::SessionError},
};
use bytes::Bytes;
use futures::{
    SinkExt, Stream, StreamExt,
    stream::{self, BoxStream},
};
use serde::de::DeserializeOwned;

use super::{Call, FrameSink, GuestClient, next, printable, violation};
use crate::guest::{
    frame::{Failure, GuestFrame, HostFrame, MAX_PAYLOAD, ProtocolError},
    header::Operation,
};

/// The longest answer that is taken, in bytes.
const MAX_ANSWER: usize = 32 * 1024 * 1024;
/// How long a guest may take to say why it takes no more.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What is done to which path, for errors.
#[derive(Debug, Clone)]
pub(super) struct Deed {
    pub(super) operation: &'static str,
    pub(super) path: String,
}

impl Deed {
    pub(super) fn new(operation: &'static str, path: &str) -> Self {
        Self { operation, path: path.to_owned() }
    }

    pub(super) fn failed(&self, failure: Failure) -> SessionError {
        let (kind, reason) = match failure {
            Failure::File { kind: FileErrorKind::NotFound, .. } => {
                return SessionError::FileNotFound { path: self.path.clone() };
            }
            Failure::File { kind, reason } => (kind, printable(&reason)),
            Failure::Spawn { reason } | Failure::Refused { reason } => (FileErrorKind::Other, printable(&reason)),
            Failure::NoSuchProcess => (FileErrorKind::Other, "the guest answered something else".to_owned()),
        };
        SessionError::File { operation: self.operation, path: self.path.clone(), kind, reason }
    }
}

/// Asks for bytes; a first answer that is a failure is told at once.
pub(super) async fn receive(
    client: &GuestClient,
    operation: &Operation,
    deed: Deed,
) -> Result<ByteStream, SessionError> {
    let mut call = client.call(operation).await?;
    let first = piece(&mut call, &deed).await?;
    let incoming = Incoming { call, deed, ended: first.is_none(), first };
    Ok(stream::unfold(incoming, |mut incoming| async move { Some((incoming.next().await?, incoming)) }).boxed())
}

struct Incoming {
    call: Call,
    deed: Deed,
    first: Option<Bytes>,
    ended: bool,
}

impl Incoming {
    async fn next(&mut self) -> Option<Result<Bytes, SessionError>> {
        if self.ended {
            return None;
        }
        let next = match self.first.take() {
            Some(bytes) => Ok(Some(bytes)),
            None => piece(&mut self.call, &self.deed).await,
        };
        self.ended = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

/// The next bytes; `None` at the end.
async fn piece(call: &mut Call, deed: &Deed) -> Result<Option<Bytes>, SessionError> {
    match call.next().await? {
        GuestFrame::Contents(bytes) => Ok(Some(bytes)),
        GuestFrame::Done => Ok(None),
        GuestFrame::Failed(failure) => Err(deed.failed(failure)),
        _ => Err(violation(ProtocolError::Unexpected("answer to a transfer"))),
    }
}

/// Asks for changes of files; returns once they are watched.
pub(super) async fn watch(
    client: &GuestClient,
    request: WatchRequest,
) -> Result<BoxStream<'static, Result<FileEvent, SessionError>>, SessionError> {
    let deed = Deed::new("watch", &request.path);
    let mut call = client.call(&Operation::Watch(request)).await?;
    let first = event(&mut call, &deed).await?;
    let changes = Changes { call, deed, ended: first.is_none(), first };
    Ok(stream::unfold(changes, |mut changes| async move { Some((changes.next().await?, changes)) }).boxed())
}

/// A watch of files.
struct Changes {
    call: Call,
    deed: Deed,
    first: Option<FileEvent>,
    ended: bool,
}

impl Changes {
    async fn next(&mut self) -> Option<Result<FileEvent, SessionError>> {
        if self.ended {
            return None;
        }
        let next = match self.first.take() {
            Some(event) => Ok(Some(event)),
            None => event(&mut self.call, &self.deed).await,
        };
        self.ended = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

/// The next change; `None` when what was watched is gone.
async fn event(call: &mut Call, deed: &Deed) -> Result<Option<FileEvent>, SessionError> {
    match call.next().await? {
        GuestFrame::Item(json) => value(&json).map(Some),
        // What an errand returns at its end, and a watch has nothing to return.
        GuestFrame::Done => Ok(None),
        GuestFrame::Failed(failure) => Err(deed.failed(failure)),
        _ => Err(violation(ProtocolError::Unexpected("answer to a watch"))),
    }
}

/// Asks for a value.
pub(super) async fn ask<T: DeserializeOwned>(
    client: &GuestClient,
    operation: &Operation,
    deed: Deed,
) -> Result<T, SessionError> {
    let mut call = client.call(operation).await?;
    value(&answer(&mut call, &deed).await?)
}

/// Sends bytes, and returns what the guest answers.
///
/// # Cancel safety
/// Dropping the future tells the guest that the bytes are not all.
pub(super) async fn send(
    client: &GuestClient,
    operation: &Operation,
    deed: Deed,
    bytes: impl Stream<Item = Result<Bytes, SessionError>>,
) -> Result<Vec<u8>, SessionError> {
    let mut call = client.call(operation).await?;
    let Call { frames, sink, .. } = &mut call;
    let mut collected = Vec::new();
    // A guest that fails early reads no further, so its answer is awaited all along; it also tells why sending broke.
    let answer = async {
        loop {
            match next(frames).await? {
                GuestFrame::Contents(bytes) if collected.len() + bytes.len() <= MAX_ANSWER => {
                    collected.extend_from_slice(&bytes);
                }
                GuestFrame::Done => return Ok(()),
                GuestFrame::Failed(failure) => return Err(deed.failed(failure)),
                _ => return Err(violation(ProtocolError::Unexpected("answer to a transfer"))),
            }
        }
    };
    let sending = async {
        match send_all(sink, bytes).await {
            Ok(()) => std::future::pending().await,
            Err(Broken::Source(error)) => Err(error),
            Err(Broken::Guest) => {
                tokio::time::sleep(LAST_WORDS).await;
                Err(SessionError::Lost)
            }
        }
    };
    tokio::select! {
        biased;
        answer = answer => answer?,
        broken = sending => broken?,
    }
    Ok(collected)
}

enum Broken {
    Source(SessionError),
    Guest,
}

async fn send_all(sink: &mut FrameSink, bytes: impl Stream<Item = Result<Bytes, SessionError>>) -> Result<(), Broken> {
    let mut bytes = std::pin::pin!(bytes);
    while let Some(piece) = bytes.next().await {
        let mut piece = piece.map_err(Broken::Source)?;
        while !piece.is_empty() {
            let frame = HostFrame::Contents(piece.split_to(piece.len().min(MAX_PAYLOAD)));
            sink.send(frame).await.map_err(|_| Broken::Guest)?;
        }
    }
    sink.send(HostFrame::ContentsEnd).await.map_err(|_| Broken::Guest)
}

async fn answer(call: &mut Call, deed: &Deed) -> Result<Vec<u8>, SessionError> {
    let mut whole = Vec::new();
    while let Some(bytes) = piece(call, deed).await? {
        if whole.len() + bytes.len() > MAX_ANSWER {
            return Err(violation(ProtocolError::TooLong { length: whole.len() + bytes.len(), max: MAX_ANSWER }));
        }
        whole.extend_from_slice(&bytes);
    }
    Ok(whole)
}

/// Understands an answer.
pub(super) fn value<T: DeserializeOwned>(json: &[u8]) -> Result<T, SessionError> {
    serde_json::from_slice(json).map_err(|_| violation(ProtocolError::Malformed("answer")))
}
