//! `/api/requests/`: submit requests, look at them, execute and cancel them.

use std::collections::{BTreeSet, HashMap};

use astraforge_core::{
    access::Caller,
    command::{ApproveChange, CancelRun, CancelTarget, ExecuteRequest, NewAttachment, Start, SubmitRequest},
    id::{RepositoryLinkId, RequestId},
    page::{Page, Paged},
    ports::store::{Store, StoreError},
    repository::RepositoryLink,
    request::{Prompt, Request, RequestState},
    run_log::RunLogs,
};
use axum::{Json, extract::State, http::StatusCode, response::Response};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::Value;
use utoipa::{
    IntoParams,
    openapi::path::{Parameter, ParameterBuilder, ParameterIn},
};

use super::{
    AT_A_TIME, AppState,
    audit::About,
    body::{JsonBody, LaterBody},
    caller::Authenticated,
    error::ApiError,
    fields::{self, Fields, FromFields, Mistake, mistake},
    idempotency::Makes,
    paging::{PageParams, Paging},
    path::{Named, PathId},
    query::QueryOf,
    refusals::{BadQuery, Conflict, Invalid, Missing, Refused},
    runs::change_of,
};
use crate::wire::{
    change_set::ChangeSetView,
    chat::{ApproveBody, Approved},
    outcome::{Cancelled, Problem, Queued},
    request::{ExecuteBody, NewAttachmentBody, NewRequest, RequestRows, RequestView, SpecBody},
    run::RunRecord,
    schema,
};

/// List requests, the newest first.
///
/// Runs, diffs and events are left out; a single request has them.
#[utoipa::path(
    get, path = "/api/requests/", tag = "requests", operation_id = "list_requests",
    params(PageParams, Filter),
    responses(
        (status = 200, description = "The requests of the tenant.", body = Vec<RequestView>),
        BadQuery, Refused,
    ),
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    paging: Paging,
    QueryOf(filter): QueryOf<Filter>,
) -> Result<Response, ApiError> {
    let store = state.store();
    let Paged { items, next } = store.requests_page(&caller.tenant, filter.state()?, paging.page).await?;
    let links = links_of(store, &caller, &items).await?;
    let rows = items.into_iter().map(|request| {
        let link = links.get(&request.repository).cloned();
        rows_of(store, request, link)
    });
    let views: Vec<_> = stream::iter(rows).buffered(AT_A_TIME).map_ok(RequestView::summary).try_collect().await?;
    Ok(paging.answer(next, views))
}

/// Which requests are listed.
#[derive(Debug, Deserialize)]
pub(super) struct Filter {
    state: Option<String>,
}

impl IntoParams for Filter {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let state = ParameterBuilder::new().name("state").parameter_in(ParameterIn::Query);
        let state = state.description(Some("Only requests that stand so.")).schema(Some(schema::request_state()));
        vec![state.build()]
    }
}

impl Filter {
    fn state(&self) -> Result<Option<RequestState>, ApiError> {
        let refused = |text: &str| {
            let shown: String = text.chars().take(80).collect();
            ApiError::field("state", format!("\"{shown}\" is not a valid choice."))
        };
        self.state.as_deref().map(|text| text.parse().map_err(|_| refused(text))).transpose()
    }
}

/// The links that requests work on, each read once.
async fn links_of(
    store: &dyn Store,
    caller: &Caller,
    requests: &[Request],
) -> Result<HashMap<RepositoryLinkId, RepositoryLink>, StoreError> {
    let ids: BTreeSet<_> = requests.iter().map(|request| request.repository).collect();
    let links = ids.into_iter().map(|id| store.link(&caller.tenant, id));
    let links: Vec<_> = stream::iter(links).buffered(AT_A_TIME).try_collect().await?;
    Ok(links.into_iter().flatten().map(|link| (link.id, link)).collect())
}

/// Submit a request.
///
/// Unless `start` says otherwise an agent sets to work at once. The same id with the same content is the same request.
#[utoipa::path(
    post, path = "/api/requests/", tag = "requests", operation_id = "submit_request", request_body = NewRequest,
    responses(
        (status = 201, description = "Accepted.", body = RequestView), Invalid, Refused, Conflict,
        (status = 413, description = "The body is too large.", body = Problem),
    ),
)]
pub(super) async fn submit(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    Makes(made): Makes,
    body: LaterBody,
) -> Result<(StatusCode, About, Json<RequestView>), ApiError> {
    if state.store().links_page(&caller.tenant, Page::first(1)).await?.items.is_empty() {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "Link a project before submitting requests."));
    }
    let mut body: NewRequest = body.judge()?;
    body.id = body.id.or(made.map(RequestId::from));
    let request = state.forge().submit(command(caller.clone(), body)?).await?;
    let about = About::new(request.id);
    Ok((StatusCode::CREATED, about, Json(detail_of(state.logs(), &caller, request).await?)))
}

fn command(caller: Caller, body: NewRequest) -> Result<SubmitRequest, ApiError> {
    if let Some(tenant) = body.tenant_id.filter(|tenant| tenant != caller.tenant.as_str()) {
        let own = &caller.tenant;
        let message = format!("Your key belongs to tenant \"{own}\", not \"{tenant}\"; leave this field out.");
        return Err(ApiError::field("tenant_id", message));
    }
    let attachments = body.attachments.into_iter().map(|file| NewAttachment {
        name: file.name,
        content_type: file.content_type,
        bytes: file.content,
    });
    Ok(SubmitRequest {
        caller,
        id: body.id,
        prompt: body.prompt,
        repository: body.project_id,
        source: body.source.unwrap_or_else(|| "direct_user".to_owned()),
        sender: body.sender.unwrap_or_default(),
        attachments: attachments.collect(),
        start: body.start,
    })
}

/// Show a request with everything about it.
#[utoipa::path(
    get, path = "/api/requests/{id}/", tag = "requests", operation_id = "show_request",
    params(("id" = uuid::Uuid, Path, description = "The request.")),
    responses((status = 200, description = "The request.", body = RequestView), Refused, Missing),
)]
pub(super) async fn show(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<RequestId>,
) -> Result<Json<RequestView>, ApiError> {
    let request = find(&state, &caller, id).await?;
    Ok(Json(detail_of(state.logs(), &caller, request).await?))
}

/// Let an agent work on a request again.
///
/// While another run is at work it waits behind it.
#[utoipa::path(
    post, path = "/api/requests/{id}/execute/", tag = "requests", operation_id = "execute_request",
    params(("id" = uuid::Uuid, Path, description = "The request.")), request_body = Option<ExecuteBody>,
    responses((status = 202, description = "A run is queued.", body = Queued), Invalid, Refused, Missing, Conflict),
)]
pub(super) async fn execute(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    PathId(request): PathId<RequestId>,
    JsonBody(body): JsonBody<ExecuteBody>,
) -> Result<(StatusCode, Json<Queued>), ApiError> {
    let prompt = body.spec.map(|spec| spec.to_prompt().parse::<Prompt>()).transpose();
    let prompt = prompt.map_err(|error| ApiError::field("spec", error.to_string()))?;
    let run = state.forge().execute(ExecuteRequest { caller, request, prompt }).await?;
    Ok((StatusCode::ACCEPTED, Json(Queued { status: "queued".to_owned(), run_id: run.id })))
}

/// Cancel a request: stop what is at work, drop what is queued.
#[utoipa::path(
    post, path = "/api/requests/{id}/cancel/", tag = "requests", operation_id = "cancel_request",
    params(("id" = uuid::Uuid, Path, description = "The request.")),
    responses((status = 202, description = "Cancelled, or told to stop.", body = Cancelled), Refused, Missing, Conflict),
)]
pub(super) async fn cancel(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<RequestId>,
) -> Result<(StatusCode, Json<Cancelled>), ApiError> {
    let request = state.forge().cancel(CancelRun { caller, target: CancelTarget::Request(id) }).await?;
    Ok((StatusCode::ACCEPTED, Json(cancelled(&request))))
}

/// How a cancellation is answered.
pub(super) fn cancelled(request: &Request) -> Cancelled {
    let status = if request.state == RequestState::Executing { "cancelling" } else { "cancelled" };
    Cancelled { status: status.to_owned(), state: request.state }
}

/// Approve the change of a request.
///
/// With a digest exactly that change is approved; without one, the change that is current now.
#[utoipa::path(
    post, path = "/api/requests/{id}/approve/", tag = "requests", operation_id = "approve_request",
    params(("id" = uuid::Uuid, Path, description = "The request.")), request_body = Option<ApproveBody>,
    responses((status = 202, description = "Approved; publication is queued.", body = Approved), Invalid, Refused, Missing, Conflict),
)]
pub(super) async fn approve(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    PathId(request): PathId<RequestId>,
    JsonBody(body): JsonBody<ApproveBody>,
) -> Result<(StatusCode, Json<Approved>), ApiError> {
    let approval = state.forge().approve(ApproveChange { caller, request, digest: body.digest }).await?;
    Ok((StatusCode::ACCEPTED, Json(Approved { status: "queued".to_owned(), approval: approval.into() })))
}

/// Show the latest change of a request: diff, files, verdict, and the digest to approve.
#[utoipa::path(
    get, path = "/api/requests/{id}/diff/", tag = "requests", operation_id = "show_diff",
    params(("id" = uuid::Uuid, Path, description = "The request.")),
    responses((status = 200, description = "The change.", body = ChangeSetView), Refused, Missing),
)]
pub(super) async fn diff(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<RequestId>,
) -> Result<Json<ChangeSetView>, ApiError> {
    find(&state, &caller, id).await?;
    let change_set = state.store().latest_change_set(id).await?;
    let change_set = change_set.ok_or_else(|| ApiError::not_found(format!("Request {id} has no change yet")))?;
    let approvals = state.store().approvals(id).await?;
    Ok(Json(ChangeSetView::new(change_set, approvals)))
}

/// Finds a request of the caller's tenant.
pub(super) async fn find(state: &AppState, caller: &Caller, id: RequestId) -> Result<Request, ApiError> {
    let request = state.store().request(&caller.tenant, id).await?;
    request.ok_or_else(|| ApiError::not_found(RequestId::not_found(&id.to_string())))
}

async fn rows_of(store: &dyn Store, request: Request, link: Option<RepositoryLink>) -> Result<RequestRows, StoreError> {
    let messages = store.messages(request.id).await?;
    let attachments = store.attachments(request.id).await?;
    let merge_request = store.merge_request_of(request.id).await?;
    Ok(RequestRows { request, link, messages, attachments, merge_request })
}

async fn detail_of(logs: &RunLogs, caller: &Caller, request: Request) -> Result<RequestView, ApiError> {
    let store = logs.store();
    let link = store.link(&caller.tenant, request.repository).await?;
    let id = request.id;
    let rows = rows_of(store, request, link).await?;
    let mut events = logs.events_by_run(id).await?;
    let mut runs = Vec::new();
    for run in store.runs_of(id).await? {
        let change_set = change_of(store, &run).await?;
        let events = events.remove(&run.id).unwrap_or_default();
        let record = RunRecord::new(&run, events, change_set.as_ref());
        runs.push((run, record, change_set));
    }
    Ok(RequestView::detail(rows, runs))
}

impl FromFields for NewRequest {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let prompt = fields.required("prompt", fields::prompt);
        let project_id = fields.required("project_id", fields::id);
        let id = fields.optional("id", fields::id);
        let tenant_id = fields.optional("tenant_id", fields::name(100));
        let source = fields.optional("source", fields::name(100));
        let sender = fields.optional("sender", fields::email);
        let attachments = fields.optional("attachments", fields::list(fields::object)).unwrap_or_default();
        let start = fields.optional("start", fields::choice(start)).unwrap_or_default();
        Some(Self { prompt: prompt?, project_id: project_id?, id, tenant_id, source, sender, attachments, start })
    }
}

fn start(name: &str) -> Option<Start> {
    match name {
        "now" => Some(Start::Now),
        "after_plan" => Some(Start::AfterPlan),
        _ => None,
    }
}

impl FromFields for NewAttachmentBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let name = fields.required("name", file_name);
        let content_type = fields.optional("content_type", fields::name(255));
        let content = fields.required("content", |value| {
            let bytes = value.as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
            bytes.map(Into::into).ok_or_else(|| mistake("Enter the file's bytes in base64."))
        });
        let content_type = content_type.unwrap_or_else(|| "application/octet-stream".to_owned());
        Some(Self { name: name?, content_type, content: content? })
    }
}

fn file_name(value: Value) -> Result<String, Mistake> {
    let name = fields::name(255)(value)?;
    if name == "." || name == ".." || name.contains(['/', '\\']) || name.contains(char::is_control) {
        return Err(mistake("Enter a file name without folders."));
    }
    Ok(name)
}

impl FromFields for ExecuteBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self { spec: fields.optional("spec", fields::object) })
    }
}

impl FromFields for SpecBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        const LONGEST: usize = Prompt::MAX_BYTES;
        let title = fields.required("title", fields::name(LONGEST));
        let summary = fields.required("summary", fields::name(LONGEST));
        let mut list = |name| {
            let items = fields::list(|item| fields::name(LONGEST)(item));
            fields.optional(name, items).unwrap_or_default()
        };
        let (requirements, implementation_steps) = (list("requirements"), list("implementation_steps"));
        let (risks, acceptance_criteria) = (list("risks"), list("acceptance_criteria"));
        let (title, summary) = (title?, summary?);
        Some(Self { title, summary, requirements, implementation_steps, risks, acceptance_criteria })
    }
}
