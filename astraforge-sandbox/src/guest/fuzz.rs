//! What fuzzing asks of the guest protocol: bytes of a hostile peer are understood or refused, and never anything else.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "these functions are tests")]

use std::{
    fmt::Debug,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures::io::{AsyncRead, AsyncWrite};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::codec::{Decoder, Encoder};

use super::{
    frame::{Frame, FrameCodec, GuestFrame, HostFrame, MAX_PAYLOAD, Output},
    header::{MAX_CALL, MAX_OPERATION, Operation, ServiceCall, read_header, write_header},
    hello::{HostGreeting, greet_guest, greet_host},
};

/// Frames as a guest reads them.
pub fn host_frames(data: &[u8]) {
    frames::<HostFrame>(data);
}

/// Frames as a host reads them.
pub fn guest_frames(data: &[u8]) {
    frames::<GuestFrame>(data);
}

/// The first byte says in which pieces the others arrive; the frames must not depend on it.
fn frames<F: Frame + Clone + PartialEq + Debug>(data: &[u8]) {
    let Some((&piece, wire)) = data.split_first() else { return };
    let (frames, end) = decode::<F>(wire, wire.len().max(1));
    assert_eq!((&frames, &end), (&decode::<F>(wire, usize::from(piece) + 1).0, &decode::<F>(wire, 7).1));
    for frame in frames {
        let mut again = BytesMut::new();
        // Written out it may be longer than it was, and too long.
        if FrameCodec::new().encode(frame.clone(), &mut again).is_err() {
            continue;
        }
        assert_eq!(FrameCodec::new().decode(&mut again).unwrap(), Some(frame), "written and read again it is another");
    }
}

/// Reads to the first error or the end, as they arrive in pieces of `size` bytes.
fn decode<F: Frame>(wire: &[u8], size: usize) -> (Vec<F>, Option<String>) {
    let (mut codec, mut buffer, mut frames) = (FrameCodec::new(), BytesMut::new(), Vec::new());
    for piece in wire.chunks(size) {
        buffer.extend_from_slice(piece);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error.to_string())),
            }
        }
        assert!(buffer.capacity() <= 4 * (MAX_PAYLOAD + size), "a length that was announced took memory");
    }
    let end = codec.decode_eof(&mut buffer);
    (frames, end.err().map(|error| error.to_string()))
}

/// A greeting. The first byte says who hears it.
pub fn hello(data: &[u8]) {
    let Some((&side, said)) = data.split_first() else { return };
    let mut peer = Peer { said };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        if side % 2 == 0 {
            drop(greet_guest(&mut peer, &HostGreeting { serves: true }).await);
        } else {
            drop(greet_host(&mut peer).await);
        }
    });
}

/// A header. The first byte says who reads it.
pub fn header(data: &[u8]) {
    match data.split_first() {
        Some((side, wire)) if side % 2 == 0 => header_of::<Operation>(wire, MAX_OPERATION),
        Some((_, wire)) => header_of::<ServiceCall>(wire, MAX_CALL),
        None => {}
    }
}

fn header_of<T: Serialize + DeserializeOwned>(mut wire: &[u8], max: usize) {
    futures::executor::block_on(async {
        let Ok(header) = read_header::<T>(&mut wire, max).await else { return };
        let mut again = Vec::new();
        // Written out it may be longer than it was, and too long.
        if write_header(&mut again, &header, max).await.is_ok() {
            let read: T = read_header(&mut again.as_slice(), max).await.expect("what was read can be read again");
            assert_eq!(serde_json::to_value(read).unwrap(), serde_json::to_value(header).unwrap());
        }
    });
}

/// A peer that has said all it will say, and takes all it hears.
struct Peer<'a> {
    said: &'a [u8],
}

impl AsyncRead for Peer<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.said).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Peer<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Inputs that are right, to begin with.
pub(crate) fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let wire = |piece: u8, wire: &[u8]| [&[piece], wire].concat();
    let output = Output { sequence: 7, bytes: Bytes::from_static(b"out") };
    let failure = br#"{"cause":"file","kind":"not_found","reason":"no such file"}"#;
    let host = [
        HostFrame::Stdin(Bytes::from_static(b"input")),
        HostFrame::StdinEnd,
        HostFrame::Signal(astraforge_core::session::Signal::Interrupt),
        HostFrame::Resize(astraforge_core::session::PtySize { rows: 24, columns: 80 }),
        HostFrame::Contents(Bytes::from_static(b"file")),
        HostFrame::ContentsEnd,
    ];
    let guest = [
        GuestFrame::Lost(9),
        GuestFrame::Item(Bytes::from_static(b"{}")),
        GuestFrame::Stdout(output.clone()),
        GuestFrame::Stderr(output),
        GuestFrame::StdinTaken(5),
        GuestFrame::Exited(astraforge_core::session::Exit::Exited { code: 0 }),
        GuestFrame::Contents(Bytes::from_static(b"file")),
        GuestFrame::Done,
        GuestFrame::Failed(serde_json::from_slice(failure).unwrap()),
    ];
    let json = |text: &str| [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat();
    let greeting = |text: &str| [&b"\x00AFguest\x00\x00\x00\x02"[..], &json(text)].concat();
    vec![
        ("host_frames", "all", wire(3, &encode(host))),
        ("guest_frames", "all", wire(3, &encode(guest))),
        ("hello", "guest", wire(0, &greeting(r#"{"version":"0.1.0"}"#))),
        ("hello", "host", wire(1, &greeting(r#"{"serves":true}"#))),
        ("hello", "another-version", wire(0, b"\x00AFguest\x00\x00\x00\x07")),
        ("header", "processes", wire(0, &json(r#"{"processes":{}}"#))),
        ("header", "signal", wire(0, &json(r#"{"signal":{"process":"build","signal":"kill"}}"#))),
        ("header", "exec", {
            let exec = r#"{"exec":{"argv":["sh","-c","true"],"cwd":"/workspace","env":{"A":"b"},"timeout_ms":9,"pty":{"rows":24,"columns":80},"keep":{"tag":"build"}}}"#;
            wire(0, &json(exec))
        }),
        ("header", "call", wire(1, &json(r#"{"service":8080}"#))),
    ]
}

fn encode<F: Frame>(frames: impl IntoIterator<Item = F>) -> Vec<u8> {
    let mut wire = BytesMut::new();
    for frame in frames {
        FrameCodec::new().encode(frame, &mut wire).unwrap();
    }
    wire.to_vec()
}
