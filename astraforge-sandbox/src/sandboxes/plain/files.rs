//! Whole files of a sandbox without a guest, and the few verbs that `sh` has.

use std::sync::Arc;

use astraforge_core::{
    BoxError,
    files::{DownloadRequest, Existing, FileErrorKind, FileReply, FileRequest, FileVerb, Roots, UploadRequest},
    id::SandboxId,
    ports::{machines::ByteStream, sessions::SessionError},
};
use async_stream::stream;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use tokio::io::AsyncWriteExt;

use super::{
    needs_guest,
    start::{Ended, Litter, Starter, broken, finish},
};
use crate::plain::PlainOutput;

/// How many bytes are sent at a time.
const PIECE: usize = 4 << 20;

/// Begins every script: `place PATH` answers the path with every link of its folder followed, or ends with the reason.
/// The caller's roots stand in `$roots`, one a line.
const PLACE: &str = r#"place() {
    folder=$(dirname -- "$1"); name=$(basename -- "$1")
    [ -d "$folder" ] || exit 44
    folder=$(cd -- "$folder" && pwd -P) || exit 43
    place=${folder%/}/$name
    while IFS= read -r root; do
        case $place/ in "${root%/}"/*) return 0 ;; esac
    done <<ROOTS
$roots
ROOTS
    exit 47
}
"#;

const READ: &str = r#"roots=$1; place "$2"
file=$place
if [ -L "$file" ]; then file=$(readlink -f -- "$file") || exit 44; place "$file"; fi
[ -e "$file" ] || exit 44
[ -d "$file" ] && exit 45
[ -f "$file" ] || exit 46
[ -r "$file" ] || exit 43
if [ "$4" = - ]; then exec tail -c "+$(($3 + 1))" -- "$file"; fi
tail -c "+$(($3 + 1))" -- "$file" | head -c "$4""#;

/// Answers where the file really is to be.
const FIND: &str = r#"roots=$1
mkdir -p -- "$(dirname -- "$2")" || exit 43
place "$2"; [ -d "$place" ] && exit 45
[ "$3" = keep ] && [ -e "$place" ] && exit 48
printf '%s' "$place""#;

/// Adds so many bytes of its input to a file.
const APPEND: &str = r#"[ "$2" = 0 ] || exec head -c "$2" >>"$1"; : >>"$1""#;

/// Puts a draft of so many bytes in place.
const COMMIT: &str = r#"[ "$(wc -c <"$1")" -eq "$4" ] && chmod "$3" -- "$1" || { rm -f -- "$1"; exit 49; }
exec mv -f -- "$1" "$2""#;

const MAKE: &str = r#"roots=$1; mkdir -p -- "$2" && place "$2""#;

const REMOVE: &str = r#"roots=$1; place "$2"; [ -e "$place" ] || [ -L "$place" ] || exit 44
if [ "$3" = all ]; then exec rm -rf -- "$place"; fi
if [ -d "$place" ] && ! [ -L "$place" ]; then exec rmdir -- "$place"; fi
exec rm -f -- "$place""#;

const MOVE: &str = r#"roots=$1; place "$2"; from=$place; [ -e "$from" ] || [ -L "$from" ] || exit 44
place "$3"; [ "$4" = keep ] && [ -e "$place" ] && exit 48
[ -d "$place" ] && exit 45
exec mv -f -- "$from" "$place""#;

/// Carries out a verb.
pub(super) async fn verb(starter: &Starter, request: FileRequest) -> Result<FileReply, SessionError> {
    let roots = lines(&request.roots)?;
    let (operation, path, ended) = match &request.verb {
        FileVerb::MakeDir { path } => ("make", path, run(starter, MAKE, &[&roots, path]).await?),
        FileVerb::Remove { path, recursive } => {
            let what = if *recursive { "all" } else { "one" };
            ("remove", path, run(starter, REMOVE, &[&roots, path, what]).await?)
        }
        FileVerb::Move { from, to, existing } => {
            ("move", from, run(starter, MOVE, &[&roots, from, to, word(*existing)]).await?)
        }
        _ => return Err(needs_guest("that file verb")),
    };
    done(operation, path, &ended).map(|()| FileReply::Done)
}

/// Reads a file as a stream.
pub(super) async fn read(starter: &Starter, request: DownloadRequest) -> Result<ByteStream, SessionError> {
    checked("read", &request.path)?;
    let (roots, offset) = (lines(&request.roots)?, request.offset.to_string());
    let limit = request.limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
    let script = format!("{PLACE}{READ}");
    let mut process = starter.script(&script, &[&roots, &request.path, &offset, &limit]).await?;
    drop(process.stdin.shutdown().await);
    let path = request.path;
    let mut pieces = stream! {
        let (mut output, mut words) = (process.output, Vec::new());
        while let Some(next) = output.next().await {
            match next {
                Ok(PlainOutput::Stdout(bytes)) => yield Ok(bytes),
                Ok(PlainOutput::Stderr(bytes)) if words.len() < 2000 => words.extend_from_slice(&bytes),
                Ok(PlainOutput::Stderr(_)) => {}
                Ok(PlainOutput::Exited(code)) => {
                    let words = String::from_utf8_lossy(&words).trim().to_owned();
                    if let Err(error) = done("read", &path, &Ended { code, words, ..Ended::default() }) {
                        yield Err(error);
                    }
                    return;
                }
                Err(error) => {
                    yield Err(broken(error));
                    return;
                }
            }
        }
        yield Err(SessionError::Lost);
    }
    .boxed();
    // A first answer that is a failure is told at once.
    let first = pieces.try_next().await?;
    Ok(futures::stream::iter(first.map(Ok)).chain(pieces).boxed())
}

/// Writes a file from a stream, whole or not at all.
pub(super) async fn write(
    starter: &Arc<Starter>,
    request: UploadRequest,
    mut contents: ByteStream,
) -> Result<u64, SessionError> {
    checked("write", &request.path)?;
    let (roots, mode) = (lines(&request.roots)?, format!("{:o}", request.mode & 0o777));
    let found = run(starter, FIND, &[&roots, &request.path, word(request.existing)]).await?;
    done("write", &request.path, &found)?;
    let place = String::from_utf8_lossy(&found.stdout).into_owned();
    let folder = place.rsplit_once('/').map_or("", |(folder, _)| folder);
    let draft = Litter::new(starter, format!("{folder}/.astraforge-{}.part", SandboxId::random()));
    let (mut n_bytes, mut piece) = (0, BytesMut::new());
    loop {
        let next = contents.next().await.transpose()?;
        let ended = next.is_none();
        piece.extend_from_slice(&next.unwrap_or_default());
        if piece.len() >= PIECE || ended {
            n_bytes += piece.len() as u64;
            let added = append(starter, &draft, &piece.split().freeze()).await?;
            done("write", &request.path, &added)?;
        }
        if ended {
            break;
        }
    }
    let put = starter.run(COMMIT, &[draft.path(), &place, &mode, &n_bytes.to_string()]).await?;
    done("write", &request.path, &put)?;
    draft.clear();
    Ok(n_bytes)
}

/// Adds bytes to a draft. The script knows how many, because not every transport can end a program's input.
async fn append(starter: &Starter, draft: &Litter, bytes: &Bytes) -> Result<Ended, SessionError> {
    let mut process = starter.script(APPEND, &[draft.path(), &bytes.len().to_string()]).await?;
    // One that breaks off says why when it ends.
    drop(process.stdin.write_all(bytes).await);
    drop(process.stdin.flush().await);
    finish(process, 0).await
}

async fn run(starter: &Starter, script: &str, arguments: &[&str]) -> Result<Ended, SessionError> {
    for path in &arguments[1..] {
        if path.contains('/') {
            checked("use", path)?;
        }
    }
    starter.run(&format!("{PLACE}{script}"), arguments).await
}

const fn word(existing: Existing) -> &'static str {
    match existing {
        Existing::Replace => "replace",
        Existing::Keep => "keep",
    }
}

fn lines(roots: &Roots) -> Result<String, SessionError> {
    match roots.0.iter().find(|root| root.contains('\n')) {
        Some(root) => Err(failed("use", root, FileErrorKind::InvalidArgument, "a root has no line ends")),
        None => Ok(roots.0.join("\n")),
    }
}

/// Refuses paths that are none.
fn checked(operation: &'static str, path: &str) -> Result<(), SessionError> {
    let invalid = |reason| Err(failed(operation, path, FileErrorKind::InvalidArgument, reason));
    match path {
        "" => invalid("the path is empty"),
        _ if path.contains('\0') => invalid("the path holds a NUL"),
        _ if !path.starts_with('/') => invalid("the path is not absolute"),
        _ if path.ends_with('\n') => invalid("a path that ends in a line end needs the guest program"),
        _ => Ok(()),
    }
}

/// What a script's code means.
fn done(operation: &'static str, path: &str, ended: &Ended) -> Result<(), SessionError> {
    let (kind, reason) = match ended.code {
        0 => return Ok(()),
        44 => return Err(SessionError::FileNotFound { path: path.to_owned() }),
        43 => (FileErrorKind::PermissionDenied, "permission denied"),
        45 => (FileErrorKind::IsDirectory, "it is a folder"),
        46 => (FileErrorKind::NotAFile, "it is not a regular file"),
        47 => (FileErrorKind::OutsideRoots, "it lies outside the folders that may be used"),
        48 => (FileErrorKind::AlreadyExists, "something is there already"),
        49 => (FileErrorKind::NoSpace, "it could not be written whole"),
        127 => {
            let source = BoxError::from(format!("the image lacks a program that this needs: {}", ended.words));
            return Err(SessionError::Backend { operation, source });
        }
        _ => (FileErrorKind::Other, ended.words.as_str()),
    };
    Err(failed(operation, path, kind, reason))
}

fn failed(operation: &'static str, path: &str, kind: FileErrorKind, reason: &str) -> SessionError {
    SessionError::File { operation, path: path.to_owned(), kind, reason: reason.to_owned() }
}
