//! Long answers over HTTP/1.1, written without hyper, which would hold the buffers of a next call for as long as they last.

use std::{
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use axum::{
    Router,
    body::{Body, HttpBody},
    response::Response,
};
use chrono::Utc;
use futures::{FutureExt, future::BoxFuture};
use http::{
    Method, Request, Version,
    header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING},
};
use hyper::{
    body::Incoming,
    service::{Service, service_fn},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::WriteHalf},
};
use tower::ServiceExt;

use super::{Peer, arrived};

/// How much is written at a time, about, in bytes.
const MOST_AT_ONCE: usize = 16 * 1024;

/// Marks an answer that its reader holds for minutes or hours, in its extensions. The connection ends with it.
#[derive(Debug, Clone, Copy)]
pub(in crate::server) struct LongAnswer;

/// The answer to a call is a long one, so hyper is to let go of the connection.
#[derive(Debug)]
pub(super) struct LetGo;

impl fmt::Display for LetGo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer is written without hyper")
    }
}

impl std::error::Error for LetGo {}

/// Where a long answer waits until hyper has let go of its connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Handover {
    answer: Arc<Mutex<Option<Response>>>,
    /// Whether a call had a body. hyper may read on after such a one before its answer is written.
    had_body: Arc<AtomicBool>,
}

impl Handover {
    /// The router as the service of one connection. The future of a call is boxed, so that a connection between two calls
    /// has no room for one.
    pub(super) fn service(
        &self,
        app: Router,
        peer: Peer,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response,
        Error = LetGo,
        Future = BoxFuture<'static, Result<Response, LetGo>>,
    > + use<> {
        let handover = self.clone();
        service_fn(move |request: Request<Incoming>| {
            let (app, handover) = (app.clone(), handover.clone());
            let had_body = handover.had_body.fetch_or(!request.body().is_end_stream(), Ordering::Relaxed);
            let takes_chunks = request.version() == Version::HTTP_11 && request.method() == Method::GET;
            async move {
                let Ok(answer) = app.oneshot(arrived(request, peer)).await;
                if takes_chunks && !had_body && answer.extensions().get::<LongAnswer>().is_some() {
                    // All answers before this one are written: hyper reads no call before, if there was no body.
                    *handover.waiting() = Some(answer);
                    return Err(LetGo);
                }
                Ok(answer)
            }
            .boxed()
        })
    }

    /// The long answer that hyper let go of the connection for, if it did.
    pub(super) fn take(&self) -> Option<Response> {
        self.waiting().take()
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Response>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes an answer to its end, or until its reader hangs up.
pub(super) async fn write(mut stream: TcpStream, answer: Response) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let gone = async {
        // The connection ends with the answer, so nothing that comes now will be answered.
        let mut ignored = [0; 64];
        while reader.read(&mut ignored).await? > 0 {}
        Ok(())
    };
    let written = async {
        let mut body = begin(&mut writer, answer).await?;
        loop {
            let (chunks, is_last) = next_chunks(&mut body).await?;
            writer.write_all(&chunks).await?;
            if is_last {
                return writer.shutdown().await;
            }
        }
    };
    tokio::select! {
        gone = gone => gone,
        written = written => written,
    }
}

/// Writes the head of an answer, and returns its body.
async fn begin(writer: &mut WriteHalf<'_>, answer: Response) -> io::Result<Body> {
    let (head, body) = answer.into_parts();
    let mut bytes = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        // Those tell of the connection, which is not the router's.
        if ![CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING].contains(name) {
            bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
    }
    let date = Utc::now().format("%a, %d %b %Y %H:%M:%S GMT");
    bytes.extend(format!("date: {date}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes());
    writer.write_all(&bytes).await?;
    Ok(body)
}

/// The next part of a body in chunks, as they are written: all that is there already, up to a limit. Tells whether it is
/// the last one.
async fn next_chunks(body: &mut Body) -> io::Result<(Vec<u8>, bool)> {
    poll_fn(|cx| {
        let mut chunks = Vec::new();
        while chunks.len() < MOST_AT_ONCE {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // An empty chunk would be the last one.
                    if let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) {
                        chunks.extend(format!("{:x}\r\n", data.len()).into_bytes());
                        chunks.extend([data, &b"\r\n"[..]].concat());
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
                Poll::Ready(None) => {
                    chunks.extend(b"0\r\n\r\n");
                    return Poll::Ready(Ok((chunks, true)));
                }
                Poll::Pending if chunks.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok((chunks, false)))
    })
    .await
}
