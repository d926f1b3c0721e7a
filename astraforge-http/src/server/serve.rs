//! Serving on a listener: which connections are taken, how long they may hesitate, and how they end.

use std::{fmt, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::connect_info::ConnectInfo};
use http::Request;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tower::ServiceExt;
use tracing::{debug, error};

mod long;

use self::long::Handover;
pub(super) use self::long::LongAnswer;

/// The most that is kept of what a client sends ahead, and of an answer that it does not read, in bytes.
const MOST_BUFFERED: usize = 64 * 1024;

/// Where a connection comes from, as handlers find it.
type Peer = ConnectInfo<SocketAddr>;

/// How long a client may leave unread what is there for it.
const UNREAD: Duration = Duration::from_secs(300);

/// Serves a router on a listener, over HTTP/1.1 and to those who begin with it HTTP/2.
///
/// It does what `axum::serve` does, in less memory for each connection that is open, and leaves no connection to a
/// client who only holds it: one that sends no whole head in time is closed, so is one that reads nothing for five
/// minutes, and there are never more than so many. Handlers find where a call comes from with axum's `ConnectInfo`.
///
/// ```
/// use std::time::Duration;
///
/// use astraforge_http::server::Server;
/// use axum::{Router, routing::get};
/// use tokio::net::TcpListener;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let app = Router::new().route("/", get(|| async { "my own page" }));
/// let server = Server::new(TcpListener::bind("127.0.0.1:0").await?, app).with_grace(Duration::from_secs(10));
/// # let told_to_stop = std::future::ready(());
/// server.run_until(told_to_stop).await;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a server does nothing until it runs"]
pub struct Server {
    listener: TcpListener,
    app: Router,
    most_connections: usize,
    head_timeout: Duration,
    grace: Option<Duration>,
}

impl Server {
    /// A server of `app` on `listener`.
    pub fn new(listener: TcpListener, app: Router) -> Self {
        // The clients of common load balancers keep a silent connection for 60 s; this waits longer, so that it is they
        // who close it and no call meets a closed one.
        let head_timeout = Duration::from_secs(75);
        Self { listener, app, most_connections: 16_384, head_timeout, grace: None }
    }

    /// Sets how many connections are open at most; 16,384 unless set. Further ones wait in the system's queue.
    pub fn with_most_connections(mut self, n_connections: usize) -> Self {
        self.most_connections = n_connections;
        self
    }

    /// Sets how long a client may take to send the head of a call, which is also how long a connection between two calls
    /// stays open; 75 s unless set.
    pub fn with_head_timeout(mut self, timeout: Duration) -> Self {
        self.head_timeout = timeout;
        self
    }

    /// Sets how long calls under way may take once the server is told to stop; as long as they like unless set.
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Serves for ever.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listener and all connections.
    pub async fn run(self) {
        self.run_until(std::future::pending()).await;
    }

    /// Serves until `stop` is done. Then it takes no new connection and no new call, and waits until each call under way
    /// is answered, or its grace is over.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listener and all connections.
    pub async fn run_until(self, stop: impl Future<Output = ()>) {
        let Self { listener, app, most_connections, head_timeout, grace } = self;
        let protocols = Arc::new(Protocols::new(head_timeout));
        let room = Arc::new(Semaphore::new(most_connections));
        // Told once when it stops. Connections whose server is gone end at once.
        let (stopping, stops) = watch::channel(());
        let mut stop = std::pin::pin!(stop);
        loop {
            let next = async { (room.clone().acquire_owned().await, accept(&listener).await) };
            let (place, (stream, peer)) = tokio::select! {
                next = next => next,
                () = &mut stop => break,
            };
            let (app, protocols, stops) = (app.clone(), protocols.clone(), stops.clone());
            tokio::spawn(async move {
                protocols.serve(stream, ConnectInfo(peer), app, stops).await;
                drop(place);
            });
        }
        drop((listener, stops));
        stopping.send_replace(());
        let answered = stopping.closed();
        match grace {
            Some(grace) => _ = timeout(grace, answered).await,
            None => answered.await,
        }
    }
}

/// The next connection, and from where it comes.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of open files, most likely: some come back when others hang up.
                error!(%error, "cannot take connections; will try again");
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// How connections are served.
#[derive(Debug)]
struct Protocols {
    head_timeout: Duration,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Protocols {
    fn new(head_timeout: Duration) -> Self {
        let mut http1 = http1::Builder::new();
        http1.timer(TokioTimer::new()).header_read_timeout(head_timeout).max_buf_size(MOST_BUFFERED);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        // A client that is gone answers no ping.
        http2.timer(TokioTimer::new()).keep_alive_interval(head_timeout);
        Self { head_timeout, http1, http2 }
    }

    /// Serves a connection to its end.
    async fn serve(&self, stream: TcpStream, peer: Peer, app: Router, mut stops: watch::Receiver<()>) {
        // What is written is wanted at once; where it can't be had, it comes a little later.
        drop(stream.set_nodelay(true));
        // Whoever reads nothing of what is there for them holds no place for ever.
        if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD)) {
            debug!(%error, "the system does not close connections that nobody reads");
        }
        let first = tokio::select! {
            first = timeout(self.head_timeout, speaks_http2(&stream)) => first,
            _ = stops.changed() => return,
        };
        match first {
            Ok(Ok(true)) => self.serve_http2(stream, peer, app, stops).await,
            Ok(Ok(false)) => self.serve_http1(stream, peer, app, stops).await,
            Ok(Err(error)) => debug!(%error, "a connection broke off before its first call"),
            Err(_elapsed) => debug!("a connection was closed that made no call"),
        }
    }

    async fn serve_http1(&self, stream: TcpStream, peer: Peer, app: Router, mut stops: watch::Receiver<()>) {
        let handover = Handover::default();
        let (ended, io) = {
            let service = handover.service(app, peer);
            let mut connection = self.http1.serve_connection(TokioIo::new(stream), service).with_upgrades();
            let finish = http1::UpgradeableConnection::graceful_shutdown;
            let ended = drive(Pin::new(&mut connection), finish, &mut stops).await;
            (ended, connection.into_parts().map(|parts| parts.io.into_inner()))
        };
        let (Some(stream), Some(answer)) = (io, handover.take()) else { return tell(ended) };
        let is_gone = async { while stops.changed().await.is_ok() {} };
        tokio::select! {
            ended = long::write(stream, answer) => tell(ended),
            () = is_gone => {}
        }
    }

    async fn serve_http2(&self, stream: TcpStream, peer: Peer, app: Router, mut stops: watch::Receiver<()>) {
        let service = service_fn(move |request: Request<Incoming>| app.clone().oneshot(arrived(request, peer)));
        // It is rare, and larger than a connection otherwise is.
        let mut connection = Box::pin(self.http2.serve_connection(TokioIo::new(stream), service));
        tell(drive(connection.as_mut(), http2::Connection::graceful_shutdown, &mut stops).await);
    }
}

/// A call as handlers see it, with where it comes from.
fn arrived(request: Request<Incoming>, peer: Peer) -> Request<Body> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(peer);
    request
}

fn tell(ended: Result<(), impl fmt::Display>) {
    if let Err(error) = ended {
        debug!(%error, "a connection broke off");
    }
}

/// Whether a client begins with the preface of HTTP/2. It is left to be read.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    // All of it, because hyper waits for the rest without an end.
    const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut first = [0; PREFACE.len()];
    let mut pause = Duration::from_millis(10);
    loop {
        let n = stream.peek(&mut first).await?;
        if n == PREFACE.len() || n == 0 || first[..n] != PREFACE[..n] {
            return Ok(first == PREFACE);
        }
        // Nothing tells when there is more than what was seen already.
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Drives a connection to its end. When the server stops, that is the end of the calls under way; when it is gone, now.
async fn drive<C>(
    mut connection: Pin<&mut C>,
    finish: fn(Pin<&mut C>),
    stops: &mut watch::Receiver<()>,
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    loop {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            told = stops.changed() => match told {
                Ok(()) => finish(connection.as_mut()),
                Err(_gone) => return Ok(()),
            },
        }
    }
}
