//! `/api/sandbox/sessions/{id}/upload/`, `files/upload/` and `files/content/`: files in and out, as streams.

use std::{io, time::Duration};

use astraforge_core::{
    error::ForgeError,
    files::{DownloadRequest, EntryKind, Existing, FileReply, FileVerb, UploadRequest},
    ports::{machines::ByteStream, sessions::SessionError},
};
use axum::{
    Json,
    body::Body,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::Deserialize;

use super::{
    super::{
        body::JsonBody,
        disposition::attachment,
        error::{ApiError, code_of},
        fields::{self, Fields, FromFields},
        query::QueryOf,
        refusals::{Elsewhere, Invalid, Missing, Refused},
    },
    session::{Session, Workplace, absolute},
};
use crate::wire::sandbox::{
    exec::Encoding,
    failure::SandboxFailure,
    files::{WriteBody, WriteView},
};

/// How long a caller may send nothing in the midst of a file.
const SILENCE: Duration = Duration::from_secs(60);
/// The permission bits of a file that was not there.
const NEW_MODE: u32 = 0o644;

/// Write a file from a text.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/upload/", tag = "sandboxes", operation_id = "write_file",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")), request_body = WriteBody,
    responses(
        (status = 200, description = "It was written, or the answer says why not.", body = WriteView),
        Invalid, Refused, Missing, Elsewhere,
    ),
)]
pub(in crate::server) async fn write(
    session: Session,
    JsonBody(body): JsonBody<WriteBody>,
) -> Result<Json<WriteView>, ApiError> {
    let contents = match body.encoding {
        Encoding::Utf8 => Bytes::from(body.content),
        Encoding::Base64 => BASE64_STANDARD
            .decode(body.content.trim())
            .map_err(|_| ApiError::field("content", "Invalid base64 content"))?
            .into(),
    };
    let contents = stream::iter([Ok(contents)]).boxed();
    put(&session, &body.path, None, Existing::Replace, contents).await
}

/// Where an upload goes.
#[derive(Debug, Deserialize)]
pub(in crate::server) struct UploadQuery {
    path: Option<String>,
    mode: Option<String>,
    existing: Option<String>,
}

/// Write a file from the bytes of the body, of any number, whole or not at all.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/files/upload/", tag = "sandboxes", operation_id = "upload_file",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("path" = String, Query, description = "The file; folders above it are made."),
        ("mode" = Option<String>, Query, description = "Its permission bits in octal; those it has, else 644, unless set; \
            additive."),
        ("existing" = Option<String>, Query, description = "`keep` lets a file that is there alone, and says so; it is \
            replaced unless set; additive."),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "It was written, or the answer says why not.", body = WriteView),
        Invalid, Refused, Missing, Elsewhere,
    ),
)]
pub(in crate::server) async fn upload(
    session: Session,
    QueryOf(query): QueryOf<UploadQuery>,
    body: Body,
) -> Result<Json<WriteView>, ApiError> {
    let path = query.path.filter(|path| !path.trim().is_empty()).ok_or_else(no_path)?;
    let mode = query.mode.map(|mode| {
        let bits = u32::from_str_radix(&mode, 8).ok().filter(|bits| *bits <= 0o777);
        bits.ok_or_else(|| ApiError::field("mode", "Write permission bits in octal, such as 644 or 755."))
    });
    let existing = match query.existing.as_deref() {
        None | Some("replace") => Existing::Replace,
        Some("keep") => Existing::Keep,
        Some(_) => return Err(ApiError::field("existing", "Write replace or keep.")),
    };
    put(&session, &path, mode.transpose()?, existing, incoming(body)).await
}

async fn put(
    session: &Session,
    path: &str,
    mode: Option<u32>,
    existing: Existing,
    contents: ByteStream,
) -> Result<Json<WriteView>, ApiError> {
    let workplace = session.ready().await?;
    let path = absolute(path);
    let mode = match mode {
        Some(mode) => mode,
        None => mode_of(&workplace, &path).await.unwrap_or(NEW_MODE),
    };
    let request = UploadRequest { roots: workplace.roots.clone(), path, mode, existing };
    match session.during(workplace.machine.upload(request, contents)).await? {
        Ok(size) => {
            let (stdout, stderr) = (String::new(), String::new());
            let (code, failure) = (None, None);
            Ok(Json(WriteView { exit_code: 0, stdout, stderr, code, failure, size_bytes: Some(size) }))
        }
        // What is wrong with the file is told as a command of the sandbox would tell it.
        Err(
            error @ (SessionError::File { .. } | SessionError::FileNotFound { .. } | SessionError::TooLarge { .. }),
        ) => {
            let (text, code, failure) = (error.to_string(), code_of(&error), SandboxFailure::of(&error));
            let size_bytes = None;
            Ok(Json(WriteView { exit_code: 1, stdout: text.clone(), stderr: text, code, failure, size_bytes }))
        }
        Err(error) => Err(refused_with(error)),
    }
}

/// What is said of work with a body that came to nothing: whose fault it was, the body's or the sandbox's.
pub(super) fn refused_with(error: impl Into<ForgeError>) -> ApiError {
    match error.into() {
        ForgeError::Session(SessionError::Backend { operation: READ_BODY, .. }) => {
            let detail =
                format!("The body broke off, or nothing came for {} s; nothing was written.", SILENCE.as_secs());
            ApiError::new(StatusCode::BAD_REQUEST, detail)
        }
        error => error.into(),
    }
}

/// The permission bits of the file that is there.
async fn mode_of(workplace: &Workplace, path: &str) -> Option<u32> {
    match workplace.file(FileVerb::Stat { path: path.to_owned() }).await.ok()? {
        FileReply::Entry(entry) if entry.kind == EntryKind::File => Some(entry.mode),
        _ => None,
    }
}

/// What is tried when a body breaks off.
const READ_BODY: &str = "read the body";

/// The bytes of a body as they come.
pub(super) fn incoming(body: Body) -> ByteStream {
    let broken = |source| SessionError::Backend { operation: READ_BODY, source };
    let pieces = stream::unfold(Some(body.into_data_stream()), move |body| async move {
        let mut body = body?;
        match tokio::time::timeout(SILENCE, body.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
            Ok(Some(Err(error))) => Some((Err(broken(error.into())), None)),
            Err(_elapsed) => Some((Err(broken(io::Error::from(io::ErrorKind::TimedOut).into())), None)),
        }
    });
    pieces.boxed()
}

/// What is downloaded.
#[derive(Debug, Deserialize)]
pub(in crate::server) struct ContentQuery {
    path: Option<String>,
    filename: Option<String>,
    #[serde(default)]
    offset: u64,
    limit: Option<u64>,
}

/// Read a file as a stream.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/files/content/", tag = "sandboxes", operation_id = "download_file",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("path" = String, Query, description = "The file."),
        ("filename" = Option<String>, Query, description = "The name it is offered under; its own unless set."),
        ("offset" = Option<u64>, Query, description = "How many bytes are left out before the first; additive."),
        ("limit" = Option<u64>, Query, description = "At most so many bytes; additive."),
    ),
    responses(
        (status = 200, description = "The file.", body = Vec<u8>, content_type = "application/octet-stream"),
        Invalid, Refused, Missing, Elsewhere,
    ),
)]
pub(in crate::server) async fn content(
    session: Session,
    QueryOf(query): QueryOf<ContentQuery>,
) -> Result<Response, ApiError> {
    let path = query.path.filter(|path| !path.trim().is_empty()).ok_or_else(no_path)?;
    let path = absolute(&path);
    let workplace = session.ready().await?;
    // A link is followed only when it is opened, so its size is not known before.
    let size = match workplace.file(FileVerb::Stat { path: path.clone() }).await? {
        FileReply::Entry(entry) if entry.kind == EntryKind::File => Some(entry.size.saturating_sub(query.offset)),
        _ => None,
    };
    let size = size.map(|size| query.limit.map_or(size, |limit| size.min(limit)));
    let (roots, limit) = (workplace.roots.clone(), size.or(query.limit));
    let request = DownloadRequest { roots, path: path.clone(), offset: query.offset, limit };
    let mut bytes = workplace.machine.download(request).await?;
    // What is wrong with the file shows when it is first read, and then there still is a status to say so.
    let first = bytes.next().await.transpose()?;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if let Some(size) = size {
        headers.insert(CONTENT_LENGTH, size.into());
    }
    let name = query.filename.filter(|name| !name.trim().is_empty()).unwrap_or(path);
    if let Ok(offered) = attachment(&name).parse() {
        headers.insert(CONTENT_DISPOSITION, offered);
    }
    let body = Body::from_stream(session.while_read(stream::iter(first.map(Ok)).chain(bytes)));
    Ok((headers, body).into_response())
}

fn no_path() -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "path is required")
}

impl FromFields for WriteBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let path = fields.required("path", fields::path);
        let content = fields.required("content", fields::anything);
        let encoding = fields.optional("encoding", fields::choice(Encoding::named)).unwrap_or_default();
        Some(Self { path: path?, content: content?, encoding })
    }
}
