//! Many streams on one connection.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
};

use futures::{
    future::poll_fn,
    io::{AsyncRead, AsyncWrite, BufReader, BufWriter},
    task::AtomicWaker,
};
use tokio::sync::{mpsc, watch};
pub(super) use yamux::{Mode, Stream};

/// Streams that may be open at once, both sides' together.
const MAX_STREAMS: usize = 512;
/// The most one stream holds that was not read yet, in bytes.
const STREAM_WINDOW: usize = yamux::DEFAULT_CREDIT as usize;

trait Socket: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Socket for T {}

type Connection = yamux::Connection<BufReader<BufWriter<Pin<Box<dyn Socket>>>>>;

/// Opens streams on a connection; clones share it.
#[derive(Clone)]
pub(super) struct Opener {
    shared: Weak<Shared>,
    life: watch::Receiver<()>,
}

/// Held by what drives the connection, so that the streams end with it.
struct Shared {
    connection: Mutex<Connection>,
    driver: AtomicWaker,
}

impl Opener {
    /// Opens a stream; `None` when the connection is gone or full.
    pub(super) async fn open(&self) -> Option<Stream> {
        let stream = poll_fn(|cx| {
            let Some(shared) = self.shared.upgrade() else { return Poll::Ready(None) };
            shared.lock().poll_new_outbound(cx).map(Result::ok)
        })
        .await?;
        // Its first frame is sent by the driver, who doesn't know of the stream yet.
        self.shared.upgrade()?.driver.wake();
        Some(stream)
    }

    /// Returns once the connection is gone.
    pub(super) async fn closed(&self) {
        let mut life = self.life.clone();
        while life.changed().await.is_ok() {}
    }

    /// Tells whether the connection is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.life.has_changed().is_err()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("is_closed", &self.is_closed()).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Connection> {
        // Were the connection to panic, it would be poisoned for itself.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_inbound(&self, cx: &mut Context<'_>) -> Poll<Option<yamux::Result<Stream>>> {
        self.driver.register(cx.waker());
        self.lock().poll_next_inbound(cx)
    }
}

/// Puts streams on `socket`. Returns what opens them, those that the peer opens, and what must be polled for any to
/// move; when that is dropped, or ends because the peer is gone, all streams end.
pub(super) fn multiplex(
    socket: impl AsyncRead + AsyncWrite + Send + 'static,
    mode: Mode,
) -> (Opener, mpsc::Receiver<Stream>, impl Future<Output = ()> + Send) {
    let mut config = yamux::Config::default();
    // Both at once: each is checked against the other. No stream's window grows beyond its first size.
    config.set_max_num_streams(MAX_STREAMS);
    config.set_max_connection_receive_window(Some(MAX_STREAMS * STREAM_WINDOW));
    config.set_split_send_size(STREAM_WINDOW);
    // A frame's head and body are read and written in one go.
    let socket: Pin<Box<dyn Socket>> = Box::pin(socket);
    let socket = BufReader::with_capacity(STREAM_WINDOW / 4, BufWriter::with_capacity(STREAM_WINDOW / 4, socket));
    let connection = Mutex::new(yamux::Connection::new(socket, config, mode));
    let shared = Arc::new(Shared { connection, driver: AtomicWaker::new() });
    // Room for all there can be.
    let (accepted, inbound) = mpsc::channel(MAX_STREAMS);
    let (alive, life) = watch::channel(());
    let opener = Opener { shared: Arc::downgrade(&shared), life };
    let drive = async move {
        let _alive = alive;
        // Ends with the connection. A stream that nobody takes is dropped, and so reset.
        while let Some(Ok(stream)) = poll_fn(|cx| shared.poll_inbound(cx)).await {
            drop(accepted.try_send(stream));
        }
    };
    (opener, inbound, drive)
}
