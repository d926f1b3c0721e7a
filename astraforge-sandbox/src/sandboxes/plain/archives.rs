//! Archives of a sandbox without a guest, made and put in place by the image's `tar`.
//!
//! The host compresses and decompresses; it never reads what is in an archive. Without a guest putting one in place is
//! not crash-safe: a sandbox that dies in the middle has lost files that the archive still has.

use std::{io::Write, sync::Arc};

use astraforge_core::{
    archive::{ArchiveSummary, Compression, PackRequest, UnpackRequest},
    files::FileErrorKind,
    id::SandboxId,
    ports::{machines::ByteStream, sessions::SessionError},
};
use async_stream::stream;
use bytes::Bytes;
use futures::StreamExt;
use tokio::io::AsyncWriteExt;

use super::start::{Ended, Litter, Starter, broken, finish};
use crate::plain::{PlainOutput, PlainProcess};

/// Unpacks beside what is to be replaced. Takes the folder for that.
const UNPACK: &str = r#"command -v tar >/dev/null || exit 127
mkdir -p -- "$1" || exit 43
tar -x -f - -C "$1" || exit 48"#;

/// Takes that folder and the roots; what was unpacked takes the place of what is there.
const SWAP: &str = r#"stage=$1; shift
for root in "$@"; do
    mkdir -p -- "$root" || exit 43
    for old in "$root"/* "$root"/.[!.]* "$root"/..?*; do
        [ "$old" = "$stage" ] || rm -rf -- "$old" || exit 43
    done
    for new in "$stage$root"/* "$stage$root"/.[!.]* "$stage$root"/..?*; do
        if [ -e "$new" ] || [ -L "$new" ]; then mv -f -- "$new" "$root/" || exit 43; fi
    done
done
rm -rf -- "$stage""#;

/// So little at a time that what a bomb makes of it stays small.
const BITE: usize = 256;

/// Packs files.
pub(super) async fn pack(starter: &Starter, request: PackRequest) -> Result<ByteStream, SessionError> {
    let mut argv: Vec<String> = ["tar", "-c", "-f", "-", "-C", "/"].map(str::to_owned).into();
    argv.extend(request.exclude.iter().map(|pattern| format!("--exclude={pattern}")));
    argv.extend(request.include.iter().map(|path| path.trim_start_matches('/').to_owned()));
    let mut process = starter.start(argv).await?;
    drop(process.stdin.shutdown().await);
    let mut encoder = Encoder::new(request.compression)?;
    let bytes = stream! {
        let (mut output, mut words) = (process.output, Vec::new());
        while let Some(next) = output.next().await {
            match next {
                Ok(PlainOutput::Stdout(bytes)) => {
                    match encoder.encode(bytes) {
                        Ok(packed) if packed.is_empty() => {}
                        Ok(packed) => yield Ok(packed),
                        Err(error) => {
                            yield Err(local(error));
                            return;
                        }
                    }
                }
                Ok(PlainOutput::Stderr(bytes)) if words.len() < 2000 => words.extend_from_slice(&bytes),
                Ok(PlainOutput::Stderr(_)) => {}
                Ok(PlainOutput::Exited(0)) => {
                    yield encoder.finish().map_err(local);
                    return;
                }
                Ok(PlainOutput::Exited(code)) => {
                    let words = String::from_utf8_lossy(&words).trim().to_owned();
                    yield Err(refused("pack", &Ended { code, words, ..Ended::default() }));
                    return;
                }
                Err(error) => {
                    yield Err(broken(error));
                    return;
                }
            }
        }
        yield Err(SessionError::Lost);
    };
    Ok(bytes.boxed())
}

/// Replaces files by an archive's.
pub(super) async fn unpack(
    starter: &Arc<Starter>,
    request: UnpackRequest,
    archive: ByteStream,
) -> Result<ArchiveSummary, SessionError> {
    let Some(first) = request.replace.first() else { return Ok(ArchiveSummary::default()) };
    let stage = Litter::new(starter, format!("{first}/.astraforge-restore-{}", SandboxId::random()));
    let process = starter.script(UNPACK, &[stage.path()]).await?;
    let n_bytes = feed(process, &request, archive).await?;
    // Only now the archive is known to be whole, and to be the one that was meant.
    let mut arguments = vec![stage.path()];
    arguments.extend(request.replace.iter().map(String::as_str));
    match starter.run(SWAP, &arguments).await? {
        Ended { code: 0, .. } => {
            stage.clear();
            Ok(ArchiveSummary { n_bytes, ..ArchiveSummary::default() })
        }
        ended => Err(refused("unpack", &ended)),
    }
}

/// Gives an archive to `tar`, whose reading its end ends: nothing depends on a transport that can end input.
async fn feed(
    mut process: PlainProcess,
    request: &UnpackRequest,
    mut archive: ByteStream,
) -> Result<u64, SessionError> {
    let mut decoder = Decoder::new(request.compression)?;
    let mut n_bytes = 0;
    while let Some(bytes) = archive.next().await {
        for bite in bytes?.chunks(BITE) {
            let plain = decoder.decode(bite).map_err(|error| damaged(&error))?;
            n_bytes += plain.len() as u64;
            if n_bytes > request.max_bytes {
                let reason = format!("the archive holds more than {} bytes", request.max_bytes);
                return Err(failed("unpack", FileErrorKind::TooLarge, reason));
            }
            // A tar that reads no more has all of it, or says why when it ends.
            drop(process.stdin.write_all(&plain).await);
        }
    }
    drop(process.stdin.flush().await);
    drop(process.stdin.shutdown().await);
    let ended = finish(process, 0).await?;
    if ended.code == 0 { Ok(n_bytes) } else { Err(refused("unpack", &ended)) }
}

/// A compressor that is given its input piece by piece.
enum Encoder {
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    None,
}

impl Encoder {
    fn new(compression: Compression) -> Result<Self, SessionError> {
        match compression {
            Compression::Zstd => zstd::stream::write::Encoder::new(Vec::new(), 3).map(Self::Zstd).map_err(local),
            Compression::None => Ok(Self::None),
            Compression::Gzip => {
                let reason = "archives are read with gzip, and never written".to_owned();
                Err(failed("pack", FileErrorKind::InvalidArgument, reason))
            }
        }
    }

    fn encode(&mut self, bytes: Bytes) -> std::io::Result<Bytes> {
        match self {
            Self::Zstd(encoder) => {
                encoder.write_all(&bytes)?;
                Ok(std::mem::take(encoder.get_mut()).into())
            }
            Self::None => Ok(bytes),
        }
    }

    fn finish(self) -> std::io::Result<Bytes> {
        match self {
            Self::Zstd(encoder) => encoder.finish().map(Bytes::from),
            Self::None => Ok(Bytes::new()),
        }
    }
}

/// A decompressor that is given its input piece by piece.
enum Decoder {
    None,
    Zstd(zstd::stream::write::Decoder<'static, Vec<u8>>),
    Gzip(flate2::write::MultiGzDecoder<Vec<u8>>),
}

impl Decoder {
    fn new(compression: Compression) -> Result<Self, SessionError> {
        match compression {
            Compression::Zstd => {
                let mut decoder = zstd::stream::write::Decoder::new(Vec::new()).map_err(local)?;
                // A hostile frame may ask for a window of gigabytes.
                decoder.window_log_max(27).map_err(local)?;
                Ok(Self::Zstd(decoder))
            }
            Compression::Gzip => Ok(Self::Gzip(flate2::write::MultiGzDecoder::new(Vec::new()))),
            Compression::None => Ok(Self::None),
        }
    }

    fn decode(&mut self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        match self {
            Self::None => Ok(bytes.to_vec()),
            Self::Zstd(decoder) => {
                decoder.write_all(bytes)?;
                decoder.flush()?;
                Ok(std::mem::take(decoder.get_mut()))
            }
            Self::Gzip(decoder) => {
                decoder.write_all(bytes)?;
                decoder.flush()?;
                Ok(std::mem::take(decoder.get_mut()))
            }
        }
    }
}

fn refused(operation: &'static str, ended: &Ended) -> SessionError {
    let (kind, reason) = match ended.code {
        127 => (FileErrorKind::Other, "the image has no tar".to_owned()),
        43 => (FileErrorKind::PermissionDenied, ended.words.clone()),
        48 => (FileErrorKind::InvalidArgument, format!("the archive is damaged: {}", ended.words)),
        _ => (FileErrorKind::Other, ended.words.clone()),
    };
    failed(operation, kind, reason)
}

fn damaged(error: &std::io::Error) -> SessionError {
    failed("unpack", FileErrorKind::InvalidArgument, format!("the archive is damaged: {error}"))
}

fn failed(operation: &'static str, kind: FileErrorKind, reason: String) -> SessionError {
    SessionError::File { operation, path: "the archive".to_owned(), kind, reason }
}

fn local(error: std::io::Error) -> SessionError {
    SessionError::Backend { operation: "compress an archive", source: error.into() }
}
