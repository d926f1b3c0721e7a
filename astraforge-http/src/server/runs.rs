//! `/api/runs/`: look at runs and cancel them.

use std::collections::HashMap;

use astraforge_core::{
    access::{Action, Caller},
    command::{CancelRun, CancelTarget},
    error::ForgeError,
    id::{RequestId, RunId},
    ports::store::{Store, StoreError},
    request::change_set::ChangeSet,
    run::Run,
};
use axum::{Json, extract::State, http::StatusCode};
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    AT_A_TIME, AppState,
    caller::Authenticated,
    error::ApiError,
    path::{Named, PathId},
    refusals::{Conflict, Missing, Refused},
    requests::cancelled,
};
use crate::wire::{
    outcome::Cancelled,
    run::{RunDetail, RunSummary},
};

/// List runs, the newest first.
#[utoipa::path(
    get, path = "/api/runs/", tag = "runs", operation_id = "list_runs",
    responses((status = 200, description = "All runs of the tenant.", body = Vec<RunSummary>), Refused),
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
) -> Result<Json<Vec<RunSummary>>, ApiError> {
    caller.may(Action::Read).map_err(ForgeError::from)?;
    let store = state.store();
    let titles = titles(store, &caller).await?;
    let summaries = store.runs(&caller.tenant).await?.into_iter().map(|run| {
        let title = titles.get(&run.request).cloned().unwrap_or_default();
        async move { Ok::<_, StoreError>(RunSummary::new(&run, title, change_of(store, &run).await?.as_ref())) }
    });
    let mut summaries: Vec<_> = stream::iter(summaries).buffered(AT_A_TIME).try_collect().await?;
    // Those that have not begun go last, as the contract has it; the sort keeps the store's order otherwise.
    summaries.sort_by_key(|summary| std::cmp::Reverse(summary.started_at));
    Ok(Json(summaries))
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
    caller.may(Action::Read).map_err(ForgeError::from)?;
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

/// The titles of all requests of the caller's tenant.
pub(super) async fn titles(store: &dyn Store, caller: &Caller) -> Result<HashMap<RequestId, String>, StoreError> {
    Ok(store.requests(&caller.tenant).await?.into_iter().map(|request| (request.id, request.title)).collect())
}
