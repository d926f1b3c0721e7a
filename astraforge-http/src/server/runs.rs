//! `/api/runs/`: look at runs and cancel them.

use std::collections::{BTreeSet, HashMap};

use astraforge_core::{
    access::Caller,
    command::{CancelRun, CancelTarget},
    id::{RequestId, RunId},
    page::Paged,
    ports::store::{Store, StoreError},
    request::change_set::ChangeSet,
    run::Run,
};
use axum::{Json, extract::State, http::StatusCode, response::Response};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;

use super::{
    AT_A_TIME, AppState,
    caller::Authenticated,
    error::ApiError,
    paging::{PageParams, Paging},
    path::{Named, PathId},
    query::QueryOf,
    refusals::{BadQuery, Conflict, Missing, Refused},
    requests::cancelled,
};
use crate::wire::{
    outcome::Cancelled,
    run::{RunDetail, RunSummary},
};

/// List runs, the newest first.
///
/// A list of all runs has those last that have not begun; pages go by the time at which runs were queued.
#[utoipa::path(
    get, path = "/api/runs/", tag = "runs", operation_id = "list_runs",
    params(PageParams, ("request" = Option<uuid::Uuid>, Query, description = "Only the runs of this request.")),
    responses(
        (status = 200, description = "The runs of the tenant.", body = Vec<RunSummary>),
        BadQuery, Refused,
    ),
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    paging: Paging,
    QueryOf(filter): QueryOf<OfRequest>,
) -> Result<Response, ApiError> {
    let store = state.store();
    let Paged { items, next } = store.runs_page(&caller.tenant, filter.id()?, paging.page).await?;
    let titles = titles(store, &caller, items.iter().map(|run| run.request)).await?;
    let summaries = items.into_iter().map(|run| {
        let title = titles.get(&run.request).cloned().unwrap_or_default();
        async move { Ok::<_, StoreError>(RunSummary::new(&run, title, change_of(store, &run).await?.as_ref())) }
    });
    let mut summaries: Vec<_> = stream::iter(summaries).buffered(AT_A_TIME).try_collect().await?;
    if paging.is_whole() {
        // Those that have not begun go last, as the contract has it; the sort keeps the store's order otherwise.
        summaries.sort_by_key(|summary| std::cmp::Reverse(summary.started_at));
    }
    Ok(paging.answer(next, summaries))
}

/// Whether a list is about one request.
#[derive(Debug, Deserialize)]
pub(super) struct OfRequest {
    request: Option<String>,
}

impl OfRequest {
    /// The request, if it is about one.
    pub(super) fn id(&self) -> Result<Option<RequestId>, ApiError> {
        let refused = |_| ApiError::field("request", "Must be a valid UUID.");
        self.request.as_deref().map(|text| text.parse().map_err(refused)).transpose()
    }
}

/// Show a run with everything about it.
#[utoipa::path(
    get, path = "/api/runs/{run_id}/", tag = "runs", operation_id = "show_run",
    params(("run_id" = uuid::Uuid, Path, description = "The run.")),
    responses((status = 200, description = "The run.", body = RunDetail), Refused, Missing),
)]
pub(super) async fn show(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<RunId>,
) -> Result<Json<RunDetail>, ApiError> {
    let store = state.store();
    let run = store.run(&caller.tenant, id).await?;
    let run = run.ok_or_else(|| ApiError::not_found(RunId::not_found("")))?;
    let request = store.request(&caller.tenant, run.request).await?;
    let title = request.map(|request| request.title).unwrap_or_default();
    let events = state.logs().events_of_run(run.request, id).await?;
    let change_set = change_of(store, &run).await?;
    Ok(Json(RunDetail::new(run, title, events, change_set)))
}

/// Cancel a run.
#[utoipa::path(
    post, path = "/api/runs/{run_id}/cancel/", tag = "runs", operation_id = "cancel_run",
    params(("run_id" = uuid::Uuid, Path, description = "The run.")),
    responses((status = 202, description = "Cancelled, or told to stop.", body = Cancelled), Refused, Missing, Conflict),
)]
pub(super) async fn cancel(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<RunId>,
) -> Result<(StatusCode, Json<Cancelled>), ApiError> {
    let request = state.forge().cancel(CancelRun { caller, target: CancelTarget::Run(id) }).await?;
    Ok((StatusCode::ACCEPTED, Json(cancelled(&request))))
}

/// The change of a run, if it made one.
pub(super) async fn change_of(store: &dyn Store, run: &Run) -> Result<Option<ChangeSet>, StoreError> {
    match run.change_set {
        Some(id) => store.change_set(id).await,
        None => Ok(None),
    }
}

/// The titles of requests of the caller's tenant, each read once.
pub(super) async fn titles(
    store: &dyn Store,
    caller: &Caller,
    ids: impl Iterator<Item = RequestId>,
) -> Result<HashMap<RequestId, String>, StoreError> {
    let ids: BTreeSet<_> = ids.collect();
    let requests = ids.into_iter().map(|id| store.request(&caller.tenant, id));
    let requests: Vec<_> = stream::iter(requests).buffered(AT_A_TIME).try_collect().await?;
    Ok(requests.into_iter().flatten().map(|request| (request.id, request.title)).collect())
}
