//! `/api/sandbox/sessions/{id}/snapshots/`: files that are kept, and brought back.

use astraforge_core::{
    archive::Comparison,
    control_plane::{ControlPlane, NewSnapshot},
    error::ForgeError,
    id::SnapshotId,
    page::Paged,
    sandbox::Snapshot,
};
use axum::{Json, extract::RawPathParams, http::StatusCode, response::Response};

use super::{
    super::{
        body::JsonBody,
        error::ApiError,
        fields::{self, Fields, FromFields},
        paging::{PageParams, Paging},
        path::PathId,
        refusals::{BadQuery, Elsewhere, Invalid, Missing, Refused},
    },
    session::{Session, absolute},
};
use crate::wire::sandbox::{NewSnapshotBody, RestoreBody, SnapshotList, SnapshotView};

/// The most changes that are told of one comparison.
const MAX_CHANGES: usize = 10_000;

/// Keep the files of a sandbox.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/snapshots/", tag = "sandboxes", operation_id = "take_snapshot",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")), request_body = NewSnapshotBody,
    responses((status = 201, description = "Kept.", body = SnapshotView), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn take(
    session: Session,
    JsonBody(body): JsonBody<NewSnapshotBody>,
) -> Result<(StatusCode, Json<SnapshotView>), ApiError> {
    let NewSnapshotBody { label, include_paths, exclude_paths } = body;
    let mut new = NewSnapshot { label, exclude: exclude_paths, ..NewSnapshot::default() };
    if !include_paths.is_empty() {
        new.include = include_paths.iter().map(|path| absolute(path)).collect();
    }
    let taken = session.during(session.plane.snapshot(&session.caller, session.id, new)).await?;
    let snapshot = taken.map_err(|error| match error {
        ForgeError::Session(_) | ForgeError::Artifact(_) => {
            ApiError::new(StatusCode::BAD_REQUEST, format!("Snapshot failed: {error}"))
        }
        error => error.into(),
    })?;
    Ok((StatusCode::CREATED, Json(view(&session.plane, snapshot))))
}

/// The same, by the contract's other name.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/snapshot/", tag = "sandboxes", operation_id = "take_one_snapshot",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")), request_body = NewSnapshotBody,
    responses((status = 201, description = "Kept.", body = SnapshotView), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn take_one(
    session: Session,
    body: JsonBody<NewSnapshotBody>,
) -> Result<(StatusCode, Json<SnapshotView>), ApiError> {
    take(session, body).await
}

/// List the snapshots of a sandbox, the newest first. It is not woken for that.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/snapshots/", tag = "sandboxes", operation_id = "list_snapshots",
    params(("id" = uuid::Uuid, Path, description = "The sandbox."), PageParams),
    responses(
        (status = 200, description = "Its snapshots.", body = SnapshotList),
        BadQuery, Refused, Missing,
    ),
)]
pub(in crate::server) async fn list(session: Session, paging: Paging) -> Result<Response, ApiError> {
    let Session { plane, caller, id } = &session;
    let Paged { items, next } = plane.snapshots_page(caller, *id, paging.page).await?;
    let snapshots = items.into_iter().map(|snapshot| view(plane, snapshot)).collect();
    Ok(paging.answer(next, SnapshotList { session_id: *id, snapshots }))
}

/// Replace the files of a sandbox by those of a snapshot.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/restore/", tag = "sandboxes", operation_id = "restore_snapshot",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")), request_body = RestoreBody,
    responses((status = 204, description = "The files are those of the snapshot."), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn restore(
    session: Session,
    JsonBody(body): JsonBody<RestoreBody>,
) -> Result<StatusCode, ApiError> {
    session.during(session.plane.restore(&session.caller, session.id, body.snapshot_id)).await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Tell how the files of a sandbox differ from a snapshot.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/snapshots/{snapshot}/diff/", tag = "sandboxes", operation_id = "diff_snapshot",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("snapshot" = uuid::Uuid, Path, description = "The snapshot, of this sandbox or another of the tenant."),
    ),
    responses(
        (status = 200, description = "`changes`, each with `path`, `change` (`added`, `modified`, `removed`), `old_size` \
            and `new_size`, and whether it was `truncated` at 10,000.", body = Object),
        Refused, Missing, Elsewhere,
    ),
)]
pub(in crate::server) async fn diff(session: Session, segments: RawPathParams) -> Result<Json<Comparison>, ApiError> {
    let text = segments.iter().find(|(name, _)| *name == "snapshot").map_or("", |(_, text)| text);
    let snapshot: SnapshotId = PathId::parse(text)?;
    let diff = session.plane.diff(&session.caller, session.id, snapshot, MAX_CHANGES);
    Ok(Json(session.during(diff).await??))
}

fn view(plane: &ControlPlane, snapshot: Snapshot) -> SnapshotView {
    let place = plane.place_of(&snapshot);
    SnapshotView::new(snapshot, place)
}

impl FromFields for NewSnapshotBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let label = fields.optional("label", fields::text(255)).unwrap_or_default();
        let include_paths = fields.optional("include_paths", fields::list(fields::raw)).unwrap_or_default();
        let exclude_paths = fields.optional("exclude_paths", fields::list(fields::raw)).unwrap_or_default();
        Some(Self { label, include_paths, exclude_paths })
    }
}

impl FromFields for RestoreBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self { snapshot_id: fields.required("snapshot_id", fields::id)? })
    }
}
