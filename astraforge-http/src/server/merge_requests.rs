//! `/api/merge-requests/`: look at merge requests and their reviews.

use astraforge_core::{
    id::MergeRequestId,
    merge_request::MergeRequest,
    page::Paged,
    ports::store::{Store, StoreError},
};
use axum::{Json, extract::State, response::Response};
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    AT_A_TIME, AppState,
    caller::Authenticated,
    error::ApiError,
    paging::{PageParams, Paging},
    path::{Named, PathId},
    query::QueryOf,
    refusals::{BadQuery, Missing, Refused},
    runs::{OfRequest, titles},
};
use crate::wire::merge_request::MergeRequestView;

/// List merge requests, the newest first.
#[utoipa::path(
    get, path = "/api/merge-requests/", tag = "merge-requests", operation_id = "list_merge_requests",
    params(PageParams, ("request" = Option<uuid::Uuid>, Query, description = "Only those of this request.")),
    responses(
        (status = 200, description = "The merge requests of the tenant.", body = Vec<MergeRequestView>),
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
    let Paged { items, next } = store.merge_requests_page(&caller.tenant, filter.id()?, paging.page).await?;
    let titles = titles(store, &caller, items.iter().map(|merge_request| merge_request.request)).await?;
    let views = items.into_iter().map(|merge_request| {
        let title = titles.get(&merge_request.request).cloned().unwrap_or_default();
        view(store, merge_request, title)
    });
    let views: Vec<_> = stream::iter(views).buffered(AT_A_TIME).try_collect().await?;
    Ok(paging.answer(next, views))
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
