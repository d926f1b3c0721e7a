//! Frames: what flows on a stream after its header.
//!
//! A frame is its kind (one byte), the length of its payload (four bytes, big endian) and the payload.

use std::{io, marker::PhantomData};

use astraforge_core::{
    files::FileErrorKind,
    process::ProcessId,
    session::{Exit, PtySize, Signal},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio_util::codec::{Decoder, Encoder};

/// The longest payload of a frame, in bytes.
pub(super) const MAX_PAYLOAD: usize = 64 * 1024;
/// The longest piece of output in one frame: a payload less its sequence number.
pub(super) const MAX_OUTPUT: usize = MAX_PAYLOAD - SEQUENCE_BYTES;
/// How much standard input may be on its way before the command has read any of it, in bytes.
pub(super) const STDIN_WINDOW: usize = 4 * MAX_PAYLOAD;
const HEAD_BYTES: usize = 5;
const SEQUENCE_BYTES: usize = 8;

/// What a peer sent that the protocol has no place for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// A length above the protocol's bound.
    #[error("a message of {length} bytes is longer than {max}")]
    TooLong {
        /// The length announced.
        length: usize,
        /// The bound.
        max: usize,
    },
    /// A kind of frame that this side does not take.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// A payload that does not fit its kind.
    #[error("malformed {0} frame")]
    Malformed(&'static str),
    /// A frame that has no place here, however well formed.
    #[error("unexpected frame: {0}")]
    Unexpected(&'static str),
    /// The stream ended before the operation did.
    #[error("the stream ended early")]
    Ended,
}

/// What a host sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HostFrame {
    /// Bytes for standard input.
    Stdin(Bytes),
    /// The end of standard input.
    StdinEnd,
    /// A signal for the command.
    Signal(Signal),
    /// The size of the command's terminal.
    Resize(PtySize),
    /// Bytes of a file.
    Contents(Bytes),
    /// The end of a file.
    ContentsEnd,
}

/// What a guest sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum GuestFrame {
    /// The command runs; its number among the sandbox's commands.
    Started(ProcessId),
    /// So many bytes of output are no longer kept.
    Lost(u64),
    /// One of many answers, as JSON.
    Item(Bytes),
    /// Bytes of standard output.
    Stdout(Output),
    /// Bytes of standard error.
    Stderr(Output),
    /// So many more bytes of standard input were taken.
    StdinTaken(u32),
    /// The command ended; nothing follows.
    Exited(Exit),
    /// Bytes of a file.
    Contents(Bytes),
    /// The operation is done; nothing follows.
    Done,
    /// The operation failed; nothing follows.
    Failed(Failure),
}

/// A piece of a command's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Output {
    /// How many bytes the command wrote before, to both streams together.
    pub(super) sequence: u64,
    /// The bytes.
    pub(super) bytes: Bytes,
}

/// Why the guest could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "cause")]
pub(super) enum Failure {
    /// The program could not be started.
    Spawn { reason: String },
    /// No kept command has that name.
    NoSuchProcess,
    /// A file verb failed.
    File { kind: FileErrorKind, reason: String },
    /// The guest does not know the operation or its arguments.
    Refused { reason: String },
}

/// One direction's frames.
pub(super) trait Frame: Sized {
    /// The frame's kind, on the wire.
    fn kind(&self) -> u8;
    /// Appends the payload.
    fn write_payload(&self, out: &mut BytesMut);
    /// Understands a whole frame.
    fn parse(kind: u8, payload: Bytes) -> Result<Self, ProtocolError>;
}

/// Reads and writes frames; never holds more than one.
#[derive(Debug)]
pub(super) struct FrameCodec<F>(PhantomData<fn() -> F>);

impl<F> FrameCodec<F> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<F: Frame> Decoder for FrameCodec<F> {
    type Item = F;
    type Error = ProtocolError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<F>, ProtocolError> {
        let Some((&[kind, a, b, c, d], rest)) = source.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > MAX_PAYLOAD {
            return Err(ProtocolError::TooLong { length, max: MAX_PAYLOAD });
        }
        if rest.len() < length {
            source.reserve(HEAD_BYTES + length - source.len());
            return Ok(None);
        }
        source.advance(HEAD_BYTES);
        F::parse(kind, source.split_to(length).freeze()).map(Some)
    }

    fn decode_eof(&mut self, source: &mut BytesMut) -> Result<Option<F>, ProtocolError> {
        match self.decode(source)? {
            None if !source.is_empty() => Err(ProtocolError::Ended),
            frame => Ok(frame),
        }
    }
}

impl<F: Frame> Encoder<F> for FrameCodec<F> {
    type Error = ProtocolError;

    fn encode(&mut self, frame: F, out: &mut BytesMut) -> Result<(), ProtocolError> {
        let start = out.len();
        out.put_u8(frame.kind());
        out.put_u32(0);
        frame.write_payload(out);
        let length = out.len() - start - HEAD_BYTES;
        match u32::try_from(length) {
            Ok(wire) if length <= MAX_PAYLOAD => {
                out[start + 1..start + HEAD_BYTES].copy_from_slice(&wire.to_be_bytes());
                Ok(())
            }
            _ => Err(ProtocolError::TooLong { length, max: MAX_PAYLOAD }),
        }
    }
}

const STDIN: u8 = 1;
const STDIN_END: u8 = 2;
const SIGNAL: u8 = 3;
const CONTENTS: u8 = 4;
const CONTENTS_END: u8 = 5;
const RESIZE: u8 = 6;

impl Frame for HostFrame {
    fn kind(&self) -> u8 {
        match self {
            Self::Stdin(_) => STDIN,
            Self::StdinEnd => STDIN_END,
            Self::Signal(_) => SIGNAL,
            Self::Contents(_) => CONTENTS,
            Self::ContentsEnd => CONTENTS_END,
            Self::Resize(_) => RESIZE,
        }
    }

    fn write_payload(&self, out: &mut BytesMut) {
        match self {
            Self::Stdin(bytes) | Self::Contents(bytes) => out.extend_from_slice(bytes),
            Self::Signal(signal) => write_json(signal, out),
            Self::Resize(size) => write_json(size, out),
            Self::StdinEnd | Self::ContentsEnd => {}
        }
    }

    fn parse(kind: u8, payload: Bytes) -> Result<Self, ProtocolError> {
        match kind {
            STDIN => Ok(Self::Stdin(payload)),
            STDIN_END => empty(&payload, Self::StdinEnd, "end of input"),
            SIGNAL => read_json(&payload, "signal").map(Self::Signal),
            CONTENTS => Ok(Self::Contents(payload)),
            CONTENTS_END => empty(&payload, Self::ContentsEnd, "end of file"),
            RESIZE => read_json(&payload, "terminal size").map(Self::Resize),
            other => Err(ProtocolError::UnknownKind(other)),
        }
    }
}

const STARTED: u8 = 32;
const STDOUT: u8 = 33;
const STDERR: u8 = 34;
const STDIN_TAKEN: u8 = 35;
const EXITED: u8 = 36;
const FILE: u8 = 37;
const DONE: u8 = 38;
const FAILED: u8 = 39;
const LOST: u8 = 40;
const ITEM: u8 = 41;

impl Frame for GuestFrame {
    fn kind(&self) -> u8 {
        match self {
            Self::Started(_) => STARTED,
            Self::Lost(_) => LOST,
            Self::Item(_) => ITEM,
            Self::Stdout(_) => STDOUT,
            Self::Stderr(_) => STDERR,
            Self::StdinTaken(_) => STDIN_TAKEN,
            Self::Exited(_) => EXITED,
            Self::Contents(_) => FILE,
            Self::Done => DONE,
            Self::Failed(_) => FAILED,
        }
    }

    fn write_payload(&self, out: &mut BytesMut) {
        match self {
            Self::Stdout(output) | Self::Stderr(output) => {
                out.put_u64(output.sequence);
                out.extend_from_slice(&output.bytes);
            }
            Self::StdinTaken(n_bytes) => out.put_u32(*n_bytes),
            Self::Exited(exit) => write_json(exit, out),
            Self::Contents(bytes) | Self::Item(bytes) => out.extend_from_slice(bytes),
            Self::Started(ProcessId(n)) | Self::Lost(n) => out.put_u64(*n),
            Self::Failed(failure) => write_json(failure, out),
            Self::Done => {}
        }
    }

    fn parse(kind: u8, payload: Bytes) -> Result<Self, ProtocolError> {
        match kind {
            STARTED => number(&payload, "start").map(|n| Self::Started(ProcessId(n))),
            LOST => number(&payload, "loss").map(Self::Lost),
            ITEM => Ok(Self::Item(payload)),
            STDOUT => output(payload).map(Self::Stdout),
            STDERR => output(payload).map(Self::Stderr),
            STDIN_TAKEN => taken(&payload).map(Self::StdinTaken),
            EXITED => read_json(&payload, "exit").and_then(plausible).map(Self::Exited),
            FILE => Ok(Self::Contents(payload)),
            DONE => empty(&payload, Self::Done, "end"),
            FAILED => read_json(&payload, "failure").map(Self::Failed),
            other => Err(ProtocolError::UnknownKind(other)),
        }
    }
}

fn empty<F>(payload: &[u8], frame: F, name: &'static str) -> Result<F, ProtocolError> {
    payload.is_empty().then_some(frame).ok_or(ProtocolError::Malformed(name))
}

fn output(mut payload: Bytes) -> Result<Output, ProtocolError> {
    let sequence = payload.try_get_u64().map_err(|_| ProtocolError::Malformed("output"))?;
    Ok(Output { sequence, bytes: payload })
}

fn number(payload: &[u8], name: &'static str) -> Result<u64, ProtocolError> {
    payload.try_into().map(u64::from_be_bytes).map_err(|_| ProtocolError::Malformed(name))
}

fn taken(payload: &[u8]) -> Result<u32, ProtocolError> {
    let bytes = payload.try_into().map_err(|_| ProtocolError::Malformed("input credit"))?;
    Ok(u32::from_be_bytes(bytes))
}

/// Lets through only what the kernel of a sandbox can have reported.
fn plausible(exit: Exit) -> Result<Exit, ProtocolError> {
    match exit {
        Exit::Exited { code: 0..=255 } | Exit::Signaled { signal: 1..=64 } | Exit::TimedOut | Exit::OutOfMemory => {
            Ok(exit)
        }
        Exit::Exited { .. } | Exit::Signaled { .. } => Err(ProtocolError::Malformed("exit")),
    }
}

fn read_json<T: DeserializeOwned>(payload: &[u8], name: &'static str) -> Result<T, ProtocolError> {
    serde_json::from_slice(payload).map_err(|_| ProtocolError::Malformed(name))
}

fn write_json<T: Serialize>(value: &T, out: &mut BytesMut) {
    // None of the types above has a value that JSON cannot hold; were there one, the peer would refuse the frame.
    drop(serde_json::to_writer(out.writer(), value));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host_frame() -> impl Strategy<Value = HostFrame> {
        prop_oneof![
            bytes(MAX_PAYLOAD).prop_map(HostFrame::Stdin),
            Just(HostFrame::StdinEnd),
            prop_oneof![Just(Signal::Interrupt), Just(Signal::Terminate), Just(Signal::Kill)]
                .prop_map(HostFrame::Signal),
            bytes(MAX_PAYLOAD).prop_map(HostFrame::Contents),
            Just(HostFrame::ContentsEnd),
            (any::<u16>(), any::<u16>()).prop_map(|(rows, columns)| HostFrame::Resize(PtySize { rows, columns })),
        ]
    }

    fn guest_frame() -> impl Strategy<Value = GuestFrame> {
        let output = || (any::<u64>(), bytes(MAX_OUTPUT)).prop_map(|(sequence, bytes)| Output { sequence, bytes });
        prop_oneof![
            any::<u64>().prop_map(|n| GuestFrame::Started(ProcessId(n))),
            any::<u64>().prop_map(GuestFrame::Lost),
            bytes(MAX_PAYLOAD).prop_map(GuestFrame::Item),
            output().prop_map(GuestFrame::Stdout),
            output().prop_map(GuestFrame::Stderr),
            any::<u32>().prop_map(GuestFrame::StdinTaken),
            (0..=255).prop_map(|code| GuestFrame::Exited(Exit::Exited { code })),
            (1..=64).prop_map(|signal| GuestFrame::Exited(Exit::Signaled { signal })),
            Just(GuestFrame::Exited(Exit::TimedOut)),
            bytes(MAX_PAYLOAD).prop_map(GuestFrame::Contents),
            Just(GuestFrame::Done),
            ".{0,64}".prop_map(|reason| GuestFrame::Failed(Failure::Spawn { reason })),
        ]
    }

    fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
        prop_oneof![
            9 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from),
            1 => Just(Bytes::from(vec![b'x'; max])),
        ]
    }

    /// Feeds `input` in pieces of `step` bytes; returns the frames, the error if any, and the most memory held.
    fn decode_all<F: Frame>(input: &[u8], step: usize) -> (Vec<F>, Option<ProtocolError>, usize) {
        let (mut codec, mut buffer) = (FrameCodec::<F>::new(), BytesMut::new());
        let (mut frames, mut most) = (Vec::new(), 0);
        for piece in input.chunks(step.max(1)) {
            buffer.extend_from_slice(piece);
            loop {
                match codec.decode(&mut buffer) {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error), most),
                }
            }
            most = most.max(buffer.capacity());
        }
        (frames, codec.decode_eof(&mut buffer).err(), most)
    }

    fn encode_all<F: Frame + Clone>(frames: &[F]) -> BytesMut {
        let mut wire = BytesMut::new();
        for frame in frames {
            FrameCodec::<F>::new().encode(frame.clone(), &mut wire).unwrap();
        }
        wire
    }

    proptest! {
        #[test]
        fn guest_frames_survive_the_wire_however_it_cuts_them(
            frames in prop::collection::vec(guest_frame(), 0..8), step in 1_usize..70_000,
        ) {
            let (read, error, _) = decode_all::<GuestFrame>(&encode_all(&frames), step);
            prop_assert!(error.is_none());
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn host_frames_survive_the_wire_however_it_cuts_them(
            frames in prop::collection::vec(host_frame(), 0..8), step in 1_usize..70_000,
        ) {
            let (read, error, _) = decode_all::<HostFrame>(&encode_all(&frames), step);
            prop_assert!(error.is_none());
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn arbitrary_bytes_neither_panic_nor_take_memory(
            input in prop::collection::vec(any::<u8>(), 0..4096), step in 1_usize..512,
        ) {
            let (_, _, most) = decode_all::<GuestFrame>(&input, step);
            prop_assert!(most <= 2 * (MAX_PAYLOAD + HEAD_BYTES) + 4096, "held {most}");
        }

        #[test]
        fn known_kinds_with_arbitrary_payloads_never_panic(
            kind in 28_u8..44, payload in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            drop(GuestFrame::parse(kind, Bytes::from(payload)));
        }
    }

    #[track_caller]
    fn check_refused(wire: &[u8], expected: &str) {
        let (frames, error, most) = decode_all::<GuestFrame>(wire, 7);
        assert!(frames.is_empty());
        assert_eq!(error.map(|e| e.to_string()).as_deref(), Some(expected));
        assert!(most <= 4096, "held {most}");
    }

    #[test]
    fn what_no_guest_says_is_refused() {
        check_refused(b"\x21\xff\xff\xff\xff", "a message of 4294967295 bytes is longer than 65536");
        check_refused(b"\x21\x00\x01\x00\x01", "a message of 65537 bytes is longer than 65536");
        check_refused(b"\x00\x00\x00\x00\x00", "unknown frame kind 0");
        check_refused(b"\x01\x00\x00\x00\x00", "unknown frame kind 1"); // a host's frame
        check_refused(b"\x20\x00\x00\x00\x01x", "malformed start frame");
        check_refused(b"\x21\x00\x00\x00\x07seven..", "malformed output frame");
        check_refused(b"\x23\x00\x00\x00\x03abc", "malformed input credit frame");
        check_refused(b"\x24\x00\x00\x00\x02{}", "malformed exit frame");
        check_refused(b"\x24\x00\x00\x00\x1f{\"cause\":\"exited\",\"code\": 1000}", "malformed exit frame");
        check_refused(b"\x24\x00\x00\x00\x20{\"cause\":\"signaled\",\"signal\":-9}", "malformed exit frame");
        check_refused(b"\x27\x00\x00\x00\x02\xff\xff", "malformed failure frame");
        check_refused(b"\x21\x00\x00", "the stream ended early");
        check_refused(b"\x21\x00\x00\x00\x09\x00", "the stream ended early");
    }

    #[test]
    fn a_frame_too_long_to_be_read_is_not_written() {
        let frame = HostFrame::Stdin(Bytes::from(vec![0; MAX_PAYLOAD + 1]));
        assert!(FrameCodec::new().encode(frame, &mut BytesMut::new()).is_err());
    }
}
