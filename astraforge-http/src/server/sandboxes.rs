//! `/api/sandbox/sessions/`: make sandboxes, look at them, end them.

use std::{collections::BTreeMap, time::Duration};

use astraforge_core::{
    access::Caller,
    control_plane::{ControlPlane, NewSandbox},
    egress::Egress,
    error::ForgeError,
    id::SandboxId,
    image::Image,
    page::Paged,
    ports::machines::Usage,
    sandbox::{Lifetime, Sandbox},
    session::{ByteSize, Cpus, Limit, SandboxSpec, Strictness, Workspace},
};
use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION},
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use self::session::Session;
use super::{
    AppState,
    body::{JsonBody, read_bytes, read_json},
    caller::Authenticated,
    error::ApiError,
    fields::{self, Fields, FromFields},
    idempotency::Makes,
    paging::{PageParams, Paging},
    peers,
    refusals::{BadQuery, Elsewhere, Invalid, Missing, Refused},
};
use crate::wire::{
    outcome::Problem,
    sandbox::{FilesOn, HeartbeatView, NewSession, SessionPatch, SessionView, UsageView},
};

pub(super) mod archives;
pub(super) mod artifacts;
pub(super) mod egress;
pub(super) mod exec;
pub(super) mod executions;
pub(super) mod files;
pub(super) mod metrics;
pub(super) mod processes;
pub(super) mod screen;
mod session;
pub(super) mod snapshots;
pub(super) mod transfer;

/// List sandboxes, the newest first.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/", tag = "sandboxes", operation_id = "list_sandboxes",
    params(PageParams),
    responses(
        (status = 200, description = "The sandboxes of the tenant but those that were deleted.", body = Vec<SessionView>),
        BadQuery, Refused,
    ),
)]
pub(in crate::server) async fn list(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    paging: Paging,
) -> Result<Response, ApiError> {
    let plane = session::plane(&state)?;
    let Paged { items, next } = plane.list_page(&caller, paging.page).await?;
    Ok(paging.answer(next, views(plane, &caller, items).await?))
}

/// Make a sandbox, or find the one of that id, and answer when it is ready.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/", tag = "sandboxes", operation_id = "create_sandbox", request_body = NewSession,
    responses(
        (status = 201, description = "Made, and ready.", body = SessionView,
            headers(("Location" = String, description = "Its id."))),
        (status = 200, description = "It was there already, and is ready.", body = SessionView),
        (status = 404, description = "There is no such snapshot, or the id is another tenant's.", body = Problem),
        Invalid, Refused, Elsewhere,
    ),
)]
pub(in crate::server) async fn create(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    made: Makes,
    request: Request,
) -> Result<Response, ApiError> {
    let plane = session::plane(&state)?;
    let (mut parts, body) = request.into_parts();
    let mut bytes = read_bytes(body, state.limits.body_bytes).await?;
    let mut body: NewSession = read_json(&parts.headers, &bytes)?;
    if let (None, Makes(Some(made))) = (body.id, made) {
        body.id = Some(made.into());
        // Another server that has it is told its id too.
        bytes = as_json(&mut parts.headers, &body)?;
    }
    let new = new_sandbox(plane, body)?;
    let created = match plane.create(&caller, new).await {
        Ok(created) => created,
        // Which sandbox is meant is in the body only.
        Err(ForgeError::Elsewhere { node, .. }) => {
            return peers::pass_to(&state, node, parts, Body::from(bytes)).await;
        }
        // What cannot be had is said of the call, as the contract does it, whoever is to blame.
        Err(error @ ForgeError::Session(_)) => {
            return Err(ApiError::from(error).with_status(StatusCode::BAD_REQUEST));
        }
        Err(error) => return Err(error.into()),
    };
    let status = if created.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let location = [(LOCATION, created.sandbox.id.to_string())];
    Ok((status, location, Json(view(plane, &caller, created.sandbox).await?)).into_response())
}

/// A body as it is sent, with what headers say of it.
fn as_json(headers: &mut HeaderMap, body: &NewSession) -> Result<Bytes, ApiError> {
    let broken = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "The body cannot be written anew.");
    let bytes = serde_json::to_vec(body).map_err(broken)?;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    Ok(bytes.into())
}

fn new_sandbox(plane: &ControlPlane, body: NewSession) -> Result<NewSandbox, ApiError> {
    if let Some(mode) = &body.mode
        && !plane.modes().any(|known| known == mode)
    {
        let known: Vec<_> = plane.modes().collect();
        let message = format!("\"{mode}\" is not a valid choice. What this server has: {}.", known.join(", "));
        return Err(ApiError::field("mode", message));
    }
    let default = Lifetime::default();
    let seconds = |given: Option<u64>, default: Duration| given.map_or(default, Duration::from_secs);
    let idle = seconds(body.idle_timeout_sec, default.idle());
    let max = seconds(body.max_lifetime_sec, default.max());
    let lifetime = Lifetime::new(idle, max).map_err(|error| ApiError::field(error.field, error.message))?;
    let mut spec = SandboxSpec::durable(lifetime);
    spec.image = body.image;
    spec.env = body.env;
    let strictness = if body.enforced { Strictness::Required } else { Strictness::BestEffort };
    let memory = body.memory.unwrap_or(spec.limits.memory.max);
    let size = body.ephemeral_storage.unwrap_or(ByteSize::gib(10));
    spec.limits.cpu_millis = body.cpu.map(|cpu| Limit { max: cpu.as_millis(), strictness });
    spec.limits.memory = Limit { max: memory, strictness };
    spec.workspace = match body.files_on.unwrap_or_default() {
        FilesOn::Disk => Workspace::Disk { size: Limit { max: size, strictness } },
        FilesOn::Memory => Workspace::Tmpfs { size },
    };
    if let Some(max) = body.processes {
        spec.limits.processes = Limit::required(max);
    }
    if let Some(egress) = body.egress {
        spec.egress = egress;
    }
    Ok(NewSandbox { id: body.id, mode: body.mode, spec, lifetime, restore: body.restore_snapshot_id })
}

/// Show a sandbox. It is not woken for that.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/", tag = "sandboxes", operation_id = "show_sandbox",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")),
    responses((status = 200, description = "The sandbox.", body = SessionView), Refused, Missing),
)]
pub(in crate::server) async fn show(session: Session) -> Result<Json<SessionView>, ApiError> {
    let sandbox = session.row().await?;
    Ok(Json(view(&session.plane, &session.caller, sandbox).await?))
}

/// Change what a sandbox may reach, for good.
#[utoipa::path(
    patch, path = "/api/sandbox/sessions/{id}/", tag = "sandboxes", operation_id = "change_sandbox",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")), request_body = SessionPatch,
    responses((status = 200, description = "Changed.", body = SessionView), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn change(
    session: Session,
    JsonBody(body): JsonBody<SessionPatch>,
) -> Result<Json<SessionView>, ApiError> {
    let Session { plane, caller, id } = &session;
    let sandbox = match body.egress {
        Some(egress) => plane.set_egress(caller, *id, egress).await?,
        None => session.row().await?,
    };
    Ok(Json(view(plane, caller, sandbox).await?))
}

/// Delete a sandbox for good. One that was deleted already is fine.
#[utoipa::path(
    delete, path = "/api/sandbox/sessions/{id}/", tag = "sandboxes", operation_id = "delete_sandbox",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")),
    responses((status = 204, description = "Deleted."), Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn delete(session: Session) -> Result<StatusCode, ApiError> {
    session.plane.delete(&session.caller, session.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stop a sandbox. It comes back with its files when it is used.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/stop/", tag = "sandboxes", operation_id = "stop_sandbox",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")),
    responses((status = 204, description = "Stopped."), Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn stop(session: Session) -> Result<StatusCode, ApiError> {
    session.plane.stop(&session.caller, session.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Say that somebody is there: the sandbox is not stopped for lying unused. Its lifetime stays.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/heartbeat/", tag = "sandboxes", operation_id = "note_heartbeat",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")),
    responses((status = 200, description = "Noted.", body = HeartbeatView), Refused, Missing),
)]
pub(in crate::server) async fn heartbeat(session: Session) -> Result<Json<HeartbeatView>, ApiError> {
    let sandbox = session.plane.heartbeat(&session.caller, session.id).await?;
    Ok(Json(HeartbeatView { status: sandbox.status, last_heartbeat_at: sandbox.last_heartbeat_at }))
}

/// Make a new sandbox with the files that this one has now.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/fork/", tag = "sandboxes", operation_id = "fork_sandbox",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")),
    responses(
        (status = 201, description = "Made, and ready.", body = SessionView,
            headers(("Location" = String, description = "Its id."))),
        Refused, Missing, Elsewhere,
    ),
)]
pub(in crate::server) async fn fork(
    session: Session,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<SessionView>), ApiError> {
    let Session { plane, caller, id } = session.clone();
    // It is seen through though the caller goes away: half a copy must not be taken for one.
    let forking = tokio::spawn(async move { plane.fork(&caller, id).await });
    let broken =
        |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "Something of ours broke; the server's log has details.");
    let fork = session.during(forking).await?.map_err(broken)??;
    let location = [(LOCATION, fork.id.to_string())];
    Ok((StatusCode::CREATED, location, Json(view(&session.plane, &session.caller, fork).await?)))
}

/// Measure what a sandbox uses now. It is not woken for that, and it does not count as use.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/usage/", tag = "sandboxes", operation_id = "measure_sandbox",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")),
    responses(
        (status = 200, description = "What it uses; null while it has no machine.", body = Option<UsageView>),
        Refused, Missing, Elsewhere,
    ),
)]
pub(in crate::server) async fn usage(session: Session) -> Result<Json<Option<UsageView>>, ApiError> {
    let usage = session.plane.usage(&session.caller, session.id).await?;
    Ok(Json(usage.map(UsageView::from)))
}

async fn view(plane: &ControlPlane, caller: &Caller, sandbox: Sandbox) -> Result<SessionView, ApiError> {
    let view = views(plane, caller, vec![sandbox]).await?.pop();
    view.ok_or_else(|| ApiError::not_found("Not found."))
}

async fn views(plane: &ControlPlane, caller: &Caller, sandboxes: Vec<Sandbox>) -> Result<Vec<SessionView>, ApiError> {
    let kept = plane.kept(&sandboxes).await?;
    let samples = plane.usage_samples(caller)?.into_iter();
    let mut samples: BTreeMap<SandboxId, Usage> = samples.map(|sample| (sample.id, sample.usage)).collect();
    let views = sandboxes.into_iter().zip(kept).map(|(sandbox, kept)| {
        let usage = samples.remove(&sandbox.id);
        SessionView::new(sandbox, kept, usage)
    });
    Ok(views.collect())
}

impl FromFields for NewSession {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let id = fields.nullable("id", fields::id).flatten();
        let mode = fields.optional("mode", fields::name(32));
        let image = fields.optional("image", |value| fields::parsed::<Image>(fields::name(4096)(value)?));
        let cpu = fields.optional("cpu", fields::blank_or::<Cpus>(32)).flatten();
        let memory = fields.optional("memory", fields::blank_or::<ByteSize>(32)).flatten();
        let ephemeral_storage = fields.optional("ephemeral_storage", fields::blank_or::<ByteSize>(32)).flatten();
        let restore_snapshot_id = fields.nullable("restore_snapshot_id", fields::id).flatten();
        let idle_timeout_sec = fields.optional("idle_timeout_sec", fields::seconds(60));
        let max_lifetime_sec = fields.optional("max_lifetime_sec", fields::seconds(300));
        let egress = fields.optional("egress", |value| fields::parsed::<Egress>(fields::name(64 * 1024)(value)?));
        let env = fields.optional("env", fields::variables).unwrap_or_default();
        let processes = fields.optional("processes", fields::count);
        let files_on = fields.optional("files_on", fields::choice(FilesOn::named));
        let enforced = fields.optional("enforced", fields::boolean).unwrap_or_default();
        Some(Self {
            id,
            mode,
            image,
            cpu,
            memory,
            ephemeral_storage,
            restore_snapshot_id,
            idle_timeout_sec,
            max_lifetime_sec,
            egress,
            env,
            processes,
            files_on,
            enforced,
        })
    }
}

impl FromFields for SessionPatch {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            egress: fields.optional("egress", |value| fields::parsed::<Egress>(fields::name(64 * 1024)(value)?)),
        })
    }
}
