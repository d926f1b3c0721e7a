//! Many streams on one connection.

use std::task::Poll;

use futures::{
    future::poll_fn,
    io::{AsyncRead, AsyncWrite, BufReader, BufWriter},
};
use tokio::sync::{mpsc, oneshot};
pub(super) use yamux::{Mode, Stream};

/// Streams that may be open at once, both sides' together.
const MAX_STREAMS: usize = 512;
/// The most one stream holds that was not read yet, in bytes.
const STREAM_WINDOW: usize = yamux::DEFAULT_CREDIT as usize;

/// Opens streams on a connection; the connection lasts until the last clone is gone.
#[derive(Debug, Clone)]
pub(super) struct Opener(mpsc::Sender<oneshot::Sender<Stream>>);

impl Opener {
    /// Opens a stream; `None` when the connection is gone or full.
    pub(super) async fn open(&self) -> Option<Stream> {
        let (reply, stream) = oneshot::channel();
        self.0.send(reply).await.ok()?;
        stream.await.ok()
    }

    /// Returns once the connection is gone.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }

    /// Tells whether the connection is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// Puts streams on `socket`. Returns what opens them, those that the peer opens, and what must be polled for any to move.
pub(super) fn multiplex(
    socket: impl AsyncRead + AsyncWrite + Unpin,
    mode: Mode,
) -> (Opener, mpsc::Receiver<Stream>, impl Future<Output = ()>) {
    let mut config = yamux::Config::default();
    // Both at once: each is checked against the other. No stream's window grows beyond its first size.
    config.set_max_num_streams(MAX_STREAMS);
    config.set_max_connection_receive_window(Some(MAX_STREAMS * STREAM_WINDOW));
    config.set_split_send_size(STREAM_WINDOW);
    // A frame's head and body are read and written in one go.
    let socket = BufReader::with_capacity(STREAM_WINDOW / 4, BufWriter::with_capacity(STREAM_WINDOW / 4, socket));
    let connection = yamux::Connection::new(socket, config, mode);
    let (opener, requests) = mpsc::channel(16);
    // Room for all there can be.
    let (accepted, inbound) = mpsc::channel(MAX_STREAMS);
    (Opener(opener), inbound, drive(connection, requests, accepted))
}

async fn drive<S: AsyncRead + AsyncWrite + Unpin>(
    mut connection: yamux::Connection<S>,
    mut requests: mpsc::Receiver<oneshot::Sender<Stream>>,
    inbound: mpsc::Sender<Stream>,
) {
    let mut waiting: Option<oneshot::Sender<Stream>> = None;
    poll_fn(|cx| {
        loop {
            if waiting.is_none() {
                match requests.poll_recv(cx) {
                    Poll::Ready(Some(reply)) => waiting = Some(reply),
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            if let Some(reply) = waiting.take() {
                match connection.poll_new_outbound(cx) {
                    Poll::Ready(Ok(stream)) => {
                        drop(reply.send(stream));
                        continue;
                    }
                    Poll::Ready(Err(yamux::ConnectionError::TooManyStreams)) => continue,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => waiting = Some(reply),
                }
            }
            match connection.poll_next_inbound(cx) {
                // Dropped, and so reset, when nobody takes streams.
                Poll::Ready(Some(Ok(stream))) => drop(inbound.try_send(stream)),
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}
