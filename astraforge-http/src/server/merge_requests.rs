//! `/api/merge-requests/`: look at merge requests and their reviews.

use astraforge_core::{
    access::Action,
    error::ForgeError,
    id::MergeRequestId,
    merge_request::MergeRequest,
    ports::store::{Store, StoreError},
};
use axum::{Json, extract::State};
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    AT_A_TIME, AppState,
    caller::Authenticated,
    error::ApiError,
    path::{Named, PathId},
    refusals::{Missing, Refused},
    runs::titles,
};
use crate::wire::merge_request::MergeRequestView;

/// List merge requests, the newest first.
#[utoipa::path(
    get, path = "/api/merge-requests/", tag = "merge-requests", operation_id = "list_merge_requests",
    responses((status = 200, description = "All merge requests of the tenant.", body = Vec<MergeRequestView>), Refused),
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
) -> Result<Json<Vec<MergeRequestView>>, ApiError> {
    caller.may(Action::Read).map_err(ForgeError::from)?;
    let store = state.store();
    let titles = titles(store, &caller).await?;
    let views = store.merge_requests(&caller.tenant).await?.into_iter().map(|merge_request| {
        let title = titles.get(&merge_request.request).cloned().unwrap_or_default();
        view(store, merge_request, title)
    });
    Ok(Json(stream::iter(views).buffered(AT_A_TIME).try_collect().await?))
}

/// Show a merge request with its review.
#[utoipa::path(
    get, path = "/api/merge-requests/{id}/", tag = "merge-requests", operation_id = "show_merge_request",
    params(("id" = uuid::Uuid, Path, description = "The merge request.")),
    responses((status = 200, description = "The merge request.", body = MergeRequestView), Refused, Missing),
)]
pub(super) async fn show(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<MergeRequestId>,
) -> Result<Json<MergeRequestView>, ApiError> {
    caller.may(Action::Read).map_err(ForgeError::from)?;
    let store = state.store();
    let merge_request = store.merge_request(&caller.tenant, id).await?;
    let merge_request = merge_request.ok_or_else(|| ApiError::not_found(MergeRequestId::not_found("")))?;
    let request = store.request(&caller.tenant, merge_request.request).await?;
    let title = request.map(|request| request.title).unwrap_or_default();
    Ok(Json(view(store, merge_request, title).await?))
}

async fn view(store: &dyn Store, merge_request: MergeRequest, title: String) -> Result<MergeRequestView, StoreError> {
    let change_set = store.change_set(merge_request.change_set).await?;
    let diff = change_set.map(|set| set.change.diff).unwrap_or_default();
    Ok(MergeRequestView::new(merge_request, title, diff))
}
