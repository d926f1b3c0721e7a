//! Headers: what a stream is for. The first thing on every stream, as JSON after its length (four bytes, big endian).

use std::{collections::BTreeMap, path::PathBuf};

use astraforge_core::{
    archive::{CompareRequest, PackRequest, UnpackRequest},
    files::{DownloadRequest, FileRequest, UploadRequest, WatchRequest},
    process::{ProcessName, ProcessTag},
    session::{PtySize, Signal},
};
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{GuestConfig, frame::ProtocolError};

/// The longest header a guest takes: arguments and environment, of which the kernel takes 2 MiB, spelled as JSON.
pub(super) const MAX_OPERATION: usize = 4 * 1024 * 1024;
/// The longest header a host takes.
pub(super) const MAX_CALL: usize = 256;

/// What a host asks of its guest.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Operation {
    /// Runs a command. The host sends input, signals and terminal sizes; the guest sends `Started`, output, and
    /// `Exited`, or `Failed`. Unless it is kept, the command ends with the stream.
    Exec(ExecRequest),
    /// Follows a kept command from byte `from` of its output on, like `Exec` from `Started` on.
    Attach { process: ProcessName, from: u64 },
    /// Lists kept commands. The guest sends `Contents` with the JSON of a list of `Process` and `Done`.
    Processes {},
    /// Sends a signal to a kept command. The guest answers `Done` or `Failed`.
    Signal { process: ProcessName, signal: Signal },
    /// Carries out a file verb. The guest sends `Contents` with the JSON of a `FileReply` and `Done`, or `Failed`.
    File(FileRequest),
    /// Follows changes of files. The guest sends an `Item` with the JSON of a `FileEvent` for each, or `Failed`.
    Watch(WatchRequest),
    /// Reads a file. The guest sends its contents and `Done`, or `Failed`.
    Download(DownloadRequest),
    /// Writes a file. The host sends its contents and their end; the guest answers `Done` or `Failed`.
    Upload(UploadRequest),
    /// Packs an archive. The guest sends it as contents and `Done`, or `Failed`.
    Pack(PackRequest),
    /// Unpacks an archive, which the host sends as contents. The guest sends `Contents` with the JSON of an
    /// `ArchiveSummary` and `Done`, or `Failed`.
    Unpack(UnpackRequest),
    /// Compares with an archive, which the host sends as contents. The guest sends `Contents` with the JSON of a
    /// `Comparison` and `Done`, or `Failed`.
    Compare(CompareRequest),
    /// Measures. The guest sends `Contents` with the JSON of a `Usage` and `Done`.
    Usage {},
    /// Tells a guest that was started ahead of time whom it serves, before anything else is asked of it. The guest
    /// answers `Done`, or `Failed` when it was told before.
    Begin(GuestConfig),
    /// Ends the sandbox. The guest answers `Done` and goes.
    Shutdown {},
}

/// A command, without its input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ExecRequest {
    /// Program and arguments.
    pub(super) argv: Vec<String>,
    /// Working directory.
    pub(super) cwd: PathBuf,
    /// Environment, on top of the guest's own.
    pub(super) env: BTreeMap<String, String>,
    /// How long the whole process tree may run, in milliseconds.
    pub(super) timeout_ms: Option<u64>,
    /// The terminal it runs in.
    pub(super) pty: Option<PtySize>,
    /// Whether it goes on without the stream that started it, and under which name.
    pub(super) keep: Option<Keep>,
}

/// That a command is kept when nobody watches it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Keep {
    /// The name its caller gave it.
    pub(super) tag: Option<ProcessTag>,
}

/// What a guest asks of its host: to serve a connection made inside the sandbox. Its bytes follow as they are.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ServiceCall {
    /// The in-guest port that was connected to.
    pub(super) service: u16,
}

/// Reads a header of at most `max` bytes.
pub(super) async fn read_header<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> Result<T, ProtocolError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > max {
        return Err(ProtocolError::TooLong { length, max });
    }
    // Grows as bytes arrive: announcing a length alone takes no memory.
    let mut json = Vec::new();
    stream.take(length as u64).read_to_end(&mut json).await?;
    if json.len() < length {
        return Err(ProtocolError::Ended);
    }
    serde_json::from_slice(&json).map_err(|_| ProtocolError::Malformed("header"))
}

/// Writes a header of at most `max` bytes.
pub(super) async fn write_header<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    header: &T,
    max: usize,
) -> Result<(), ProtocolError> {
    let mut wire = vec![0; 4];
    serde_json::to_writer(&mut wire, header).map_err(|_| ProtocolError::Malformed("header"))?;
    let length = wire.len() - 4;
    match u32::try_from(length) {
        Ok(head) if length <= max => wire[..4].copy_from_slice(&head.to_be_bytes()),
        _ => return Err(ProtocolError::TooLong { length, max }),
    }
    stream.write_all(&wire).await?;
    stream.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(mut wire: &[u8]) -> Result<ServiceCall, ProtocolError> {
        futures::executor::block_on(read_header(&mut wire, MAX_CALL))
    }

    #[track_caller]
    fn check_refused(wire: &[u8], expected: &str) {
        assert_eq!(read(wire).unwrap_err().to_string(), expected);
    }

    #[test]
    fn what_no_guest_asks_is_refused() {
        check_refused(b"\xff\xff\xff\xff", "a message of 4294967295 bytes is longer than 256");
        check_refused(b"\x00\x00\x00\x10{}", "the stream ended early");
        check_refused(b"\x00\x00\x00\x02{}", "malformed header frame");
        check_refused(b"\x00\x00\x00\x11{\"service\":65536}", "malformed header frame");
        check_refused(b"\x00\x00", "the connection broke");
    }

    #[test]
    fn a_header_survives_the_wire() {
        let mut wire = Vec::new();
        futures::executor::block_on(write_header(&mut wire, &ServiceCall { service: 8080 }, MAX_CALL)).unwrap();
        assert_eq!(read(&wire).unwrap().service, 8080);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(wire in prop::collection::vec(any::<u8>(), 0..300)) {
            drop(read(&wire));
        }
    }
}
