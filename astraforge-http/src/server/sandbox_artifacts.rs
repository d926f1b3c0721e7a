//! `/api/sandbox/artifacts/`: files that were taken out of sandboxes, for whoever has a link.

use astraforge_core::{
    download_link::LinkClaim,
    id::{ArtifactId, TenantId},
};
use axum::{
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::{
        HeaderMap, HeaderValue,
        header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, ETAG},
    },
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    AppState,
    disposition::attachment,
    error::ApiError,
    path::{Named, PathId},
};
use crate::wire::outcome::Problem;

/// The rest of a link.
#[derive(Debug, Deserialize)]
pub(super) struct LinkQuery {
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
pub(super) async fn download(
    State(state): State<AppState>,
    PathId(artifact): PathId<ArtifactId>,
    query: Result<Query<LinkQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let missing = || ApiError::not_found(ArtifactId::not_found(""));
    let (Some(sandboxes), Ok(Query(link))) = (&state.sandboxes, query) else { return Err(missing()) };
    let claim = LinkClaim { tenant: TenantId::new(link.tenant), artifact, expires: link.expires };
    let (artifact, bytes) = sandboxes.download(&claim, &link.proof).await?;
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
    Ok((headers, Body::from_stream(bytes)).into_response())
}
