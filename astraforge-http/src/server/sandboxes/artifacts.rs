//! `/api/sandbox/sessions/{id}/artifacts/` and `/api/sandbox/artifacts/`: files that were taken out of sandboxes, and
//! links to them.

use astraforge_core::{
    control_plane::NewExport,
    download_link::LinkClaim,
    error::ForgeError,
    id::{ArtifactId, TenantId},
    page::Paged,
    ports::{artifacts::ArtifactStream, sessions::SessionError},
    sandbox::Artifact,
};
use axum::{
    Json,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, ETAG},
    },
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

use super::{
    super::{
        AppState,
        body::JsonBody,
        caller::Authenticated,
        disposition::attachment,
        error::ApiError,
        fields::{self, Fields, FromFields, Mistake, mistake},
        paging::{PageParams, Paging},
        path::{Named, PathId},
        refusals::{BadQuery, Conflict, Elsewhere, Invalid, Missing, Refused},
    },
    session::{Session, absolute, plane},
};
use crate::wire::{
    outcome::Problem,
    sandbox::{ArtifactList, ArtifactView, ExportBody, LinkBody, LinkView},
};

/// For how long a link that comes with an artifact is of use, in seconds.
const LINK_SECONDS: u32 = 3600;

/// Take a file out of a sandbox: its bytes are kept when the sandbox is gone.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/files/export/", tag = "sandboxes", operation_id = "export_file",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")), request_body = ExportBody,
    responses((status = 201, description = "Kept.", body = ArtifactView), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn export(
    State(state): State<AppState>,
    session: Session,
    JsonBody(body): JsonBody<ExportBody>,
) -> Result<(StatusCode, Json<ArtifactView>), ApiError> {
    let path = absolute(&body.path);
    let mut new = NewExport { filename: body.filename, ..NewExport::new(path.clone()) };
    if let Some(content_type) = body.content_type {
        new.content_type = content_type;
    }
    let exported = session.during(session.plane.export(&session.caller, session.id, new)).await?;
    let artifact = exported.map_err(|error| match error {
        ForgeError::Session(error @ (SessionError::File { .. } | SessionError::FileNotFound { .. })) => {
            ApiError::new(StatusCode::BAD_REQUEST, format!("Failed to read file {path}: {error}")).with_failure(&error)
        }
        error => error.into(),
    })?;
    Ok((StatusCode::CREATED, Json(view(&state, &session, artifact)?)))
}

/// List the files that were taken out of a sandbox, the newest first.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/artifacts/", tag = "sandboxes", operation_id = "list_artifacts",
    params(("id" = uuid::Uuid, Path, description = "The sandbox."), PageParams),
    responses(
        (status = 200, description = "Its files.", body = ArtifactList),
        BadQuery, Refused, Missing,
    ),
)]
pub(in crate::server) async fn list(
    State(state): State<AppState>,
    session: Session,
    paging: Paging,
) -> Result<Response, ApiError> {
    let Paged { items, next } = session.plane.artifacts_page(&session.caller, session.id, paging.page).await?;
    let artifacts = items.into_iter().map(|artifact| view(&state, &session, artifact)).collect::<Result<_, _>>()?;
    Ok(paging.answer(next, ArtifactList { session_id: session.id, artifacts }))
}

fn view(state: &AppState, session: &Session, artifact: Artifact) -> Result<ArtifactView, ApiError> {
    let link = match session.plane.link_to(&artifact, LINK_SECONDS) {
        Ok(link) => format!("{}{}", state.link_base, link.path_and_query()),
        Err(ForgeError::Conflict { .. }) => String::new(), // this server signs no links
        Err(error) => return Err(error.into()),
    };
    Ok(ArtifactView::new(artifact, link))
}

impl FromFields for ExportBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let path = fields.required("path", fields::path);
        let filename = fields.optional("filename", fields::text(255)).filter(|name| !name.is_empty());
        let content_type = fields.optional("content_type", content_type).filter(|it| !it.is_empty());
        Some(Self { path: path?, filename, content_type })
    }
}

impl FromFields for LinkBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self { expires_sec: fields.optional("expires_sec", fields::count).unwrap_or(LINK_SECONDS) })
    }
}

/// A type that fits in a header, or nothing.
fn content_type(value: Value) -> Result<String, Mistake> {
    let text = fields::text(100)(value)?;
    let sound = |text: &str| text.contains('/') && HeaderValue::from_str(text).is_ok();
    if text.is_empty() || sound(&text) { Ok(text) } else { Err(mistake("Enter a type such as text/plain.")) }
}

/// Make a link with which anybody can download a file that was taken out, for a while.
#[utoipa::path(
    post, path = "/api/sandbox/artifacts/{id}/link/", tag = "sandboxes", operation_id = "link_artifact",
    params(("id" = uuid::Uuid, Path, description = "The artifact.")), request_body = LinkBody,
    responses((status = 201, description = "Made.", body = LinkView), Invalid, Refused, Missing, Conflict),
)]
pub(in crate::server) async fn link(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    PathId(artifact): PathId<ArtifactId>,
    JsonBody(body): JsonBody<LinkBody>,
) -> Result<(StatusCode, Json<LinkView>), ApiError> {
    let link = plane(&state)?.link(&caller, artifact, body.expires_sec).await.map_err(unknown_artifact)?;
    let url = format!("{}{}", state.link_base, link.path_and_query());
    let expires_at = DateTime::from_timestamp(link.claim.expires, 0).unwrap_or(DateTime::<Utc>::MAX_UTC);
    Ok((StatusCode::CREATED, Json(LinkView { url, expires_at })))
}

/// Download a file that was taken out of a sandbox, which may be gone by now.
#[utoipa::path(
    get, path = "/api/sandbox/artifacts/{id}/content/", tag = "sandboxes", operation_id = "read_artifact",
    params(("id" = uuid::Uuid, Path, description = "The artifact.")),
    responses(
        (status = 200, description = "The file, offered under its name.", body = Vec<u8>,
            content_type = "application/octet-stream"),
        Refused, Missing,
    ),
)]
pub(in crate::server) async fn content(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    PathId(artifact): PathId<ArtifactId>,
) -> Result<Response, ApiError> {
    let (artifact, bytes) = plane(&state)?.artifact(&caller, artifact).await.map_err(unknown_artifact)?;
    Ok(offered(&artifact, bytes))
}

fn unknown_artifact(error: ForgeError) -> ApiError {
    match error {
        ForgeError::NotFound { .. } => ApiError::not_found(ArtifactId::not_found("")),
        error => error.into(),
    }
}

/// The rest of a link.
#[derive(Debug, Deserialize)]
pub(in crate::server) struct LinkQuery {
    /// Who the file belongs to.
    tenant: String,
    /// When the link is of no use any more, in seconds since 1970.
    expires: i64,
    /// That the link was made by this server.
    proof: String,
}

/// Download a file by a signed link. The link is all that is needed.
#[utoipa::path(
    get, path = "/api/sandbox/artifacts/{id}/download/", tag = "sandboxes", operation_id = "download_artifact",
    security(()),
    params(
        ("id" = String, Path, description = "The artifact."),
        ("tenant" = String, Query, description = "Who the file belongs to."),
        ("expires" = i64, Query, description = "When the link is of no use any more, in seconds since 1970."),
        ("proof" = String, Query, description = "That the link was made by this server."),
    ),
    responses(
        (status = 200, description = "The file, offered under its name.", body = Vec<u8>,
            content_type = "application/octet-stream"),
        (status = 404, description = "There is no such file, or the link is none that this server made, or of no use any \
            more.", body = Problem),
    ),
)]
pub(in crate::server) async fn download(
    State(state): State<AppState>,
    PathId(artifact): PathId<ArtifactId>,
    query: Result<Query<LinkQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let missing = || ApiError::not_found(ArtifactId::not_found(""));
    let (Some(sandboxes), Ok(Query(link))) = (&state.sandboxes, query) else { return Err(missing()) };
    let claim = LinkClaim { tenant: TenantId::new(link.tenant), artifact, expires: link.expires };
    let (artifact, bytes) = sandboxes.download(&claim, &link.proof).await?;
    Ok(offered(&artifact, bytes))
}

/// The answer that is a file.
fn offered(artifact: &Artifact, bytes: ArtifactStream) -> Response {
    let mut headers = HeaderMap::new();
    let binary = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, artifact.content_type.parse().unwrap_or(binary));
    headers.insert(CONTENT_LENGTH, artifact.size.into());
    // Never shown in place: what a sandbox wrote must not run as a page of this server.
    if let Ok(offered) = attachment(&artifact.filename).parse() {
        headers.insert(CONTENT_DISPOSITION, offered);
    }
    if let Ok(tag) = format!("\"{}\"", artifact.sha256).parse() {
        headers.insert(ETAG, tag);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    (headers, Body::from_stream(bytes)).into_response()
}
