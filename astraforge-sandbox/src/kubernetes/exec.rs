//! A byte stream to the guest of a pod: its relay, run in the pod and reached over a websocket.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{AttachParams, AttachedProcess},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pod::CONTAINER;
use crate::container::GUEST;

/// Bytes on the way in each direction before the writer waits.
const BUFFER: usize = 256 * 1024;

/// Starts a relay to the guest.
///
/// What both sides speak on it has its own frames and its own end, so it does not matter that older clusters cannot
/// close one direction, nor that a broken connection ends without a status.
pub(super) async fn relay(pods: &Api<Pod>, name: &str) -> kube::Result<Relay> {
    let params = AttachParams::default()
        .container(CONTAINER)
        .stdin(true)
        .stdout(true)
        .stderr(false)
        .max_stdin_buf_size(BUFFER)
        .max_stdout_buf_size(BUFFER);
    let mut process = pods.exec(name, [GUEST, "connect"], &params).await?;
    let lost = || kube::Error::ReadEvents(io::ErrorKind::NotConnected.into());
    let (input, output) = process.stdin().zip(process.stdout()).ok_or_else(lost)?;
    let ended = process.take_status().ok_or_else(lost)?.map(drop).boxed();
    Ok(Relay { input: Box::pin(input), output: Box::pin(output), ended: Some(ended), _process: process })
}

/// The running relay as a stream; dropped, the connection is closed and the relay ends.
pub(super) struct Relay {
    input: Pin<Box<dyn AsyncWrite + Send>>,
    output: Pin<Box<dyn AsyncRead + Send>>,
    /// Resolves when the connection is over, however it ended; the two streams do not tell by themselves.
    ended: Option<BoxFuture<'static, ()>>,
    _process: AttachedProcess,
}

impl Relay {
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(ended) = &mut self.ended {
            ready!(ended.as_mut().poll(cx));
            self.ended = None;
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Relay {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = self.output.as_mut().poll_read(cx, buffer) {
            return Poll::Ready(read);
        }
        ready!(self.poll_ended(cx));
        // What came before the end is there by now.
        match self.output.as_mut().poll_read(cx, buffer) {
            Poll::Pending => Poll::Ready(Ok(())),
            read => read,
        }
    }
}

impl AsyncWrite for Relay {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.poll_ended(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.input.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.as_mut().poll_shutdown(cx)
    }
}
