//! `/api/api-keys/`: make and revoke API keys.

use astraforge_core::{
    access::{Action, ApiKey, Role, Scopes},
    error::ForgeError,
    error::chain,
    id::{ApiKeyId, UserId},
    page::Paged,
};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::LOCATION},
    response::Response,
};
use serde_json::Value;

use super::{
    AppState,
    auth::{mint_api_key, prefix_of},
    body::JsonBody,
    caller::{Authenticated, Identity},
    error::ApiError,
    fields::{self, Fields, FromFields, Mistake, mistake},
    paging::{PageParams, Paging},
    path::{Named, PathId},
    refusals::{BadQuery, Conflict, Invalid, Missing, Refused},
};
use crate::wire::api_key::{ApiKeyView, MintedApiKey, NewApiKey};

/// List API keys, the newest first, revoked ones too.
#[utoipa::path(
    get, path = "/api/api-keys/", tag = "api-keys", operation_id = "list_api_keys",
    params(PageParams),
    responses(
        (status = 200, description = "The keys of the tenant.", body = Vec<ApiKeyView>),
        BadQuery, Refused,
    ),
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    paging: Paging,
) -> Result<Response, ApiError> {
    let Paged { items, next } = state.store().api_keys_page(&caller.tenant, paging.page).await?;
    let views: Vec<_> = items.into_iter().map(ApiKeyView::from).collect();
    Ok(paging.answer(next, views))
}

/// Make an API key.
///
/// The key itself is shown in this answer and never again: only its hash is stored.
#[utoipa::path(
    post, path = "/api/api-keys/", tag = "api-keys", operation_id = "make_api_key", request_body = NewApiKey,
    responses((status = 201, description = "The key.", body = MintedApiKey), Invalid, Refused),
)]
pub(super) async fn make(
    State(state): State<AppState>,
    Identity { caller, expires_at: own_end, .. }: Identity,
    JsonBody(body): JsonBody<NewApiKey>,
) -> Result<(StatusCode, [(axum::http::HeaderName, String); 1], Json<MintedApiKey>), ApiError> {
    let now = state.forge().journal().clock().now();
    if body.expires_at.is_some_and(|end| end <= now) {
        return Err(ApiError::field("expires_at", "This is over already; choose a time to come, or leave it out."));
    }
    let expires_at = body.expires_at.or(own_end);
    if own_end.is_some_and(|own| expires_at > Some(own)) {
        return Err(ApiError::field("expires_at", "Your own key ends before that; it makes none that outlives it."));
    }
    if !body.scopes.is_within(&caller.scopes) {
        let detail = format!("Your own key is for less than that; it can make keys for: {}", caller.scopes);
        return Err(ApiError::field("scopes", detail));
    }
    let (key, hash) = mint_api_key().map_err(|error| {
        tracing::error!(error = chain(&error), "cannot make an API key");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    })?;
    let row = ApiKey {
        id: ApiKeyId::random(),
        tenant: caller.tenant,
        user: body.user.map_or(caller.user, UserId::new),
        name: body.name,
        prefix: prefix_of(&key),
        hash,
        role: body.role,
        scopes: body.scopes,
        is_active: true,
        created_at: now,
        expires_at,
        last_used_at: None,
    };
    state.store().add_api_key(row.clone()).await?;
    let location = [(LOCATION, format!("/api/api-keys/{}/", row.id))];
    Ok((StatusCode::CREATED, location, Json(MintedApiKey { view: row.into(), key })))
}

/// Revoke an API key. It opens nothing from the next call on.
#[utoipa::path(
    delete, path = "/api/api-keys/{id}/", tag = "api-keys", operation_id = "revoke_api_key",
    params(("id" = uuid::Uuid, Path, description = "The key's id.")),
    responses((status = 204, description = "Revoked."), Refused, Missing, Conflict),
)]
pub(super) async fn revoke(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<ApiKeyId>,
) -> Result<StatusCode, ApiError> {
    let keys = state.store().api_keys(&caller.tenant).await?;
    let now = state.forge().journal().clock().now();
    let stands_in = |key: &&ApiKey| key.expires_at.is_none() && key.scopes == Scopes::All;
    let mut admins = keys.iter().filter(|key| key.opens(Action::ManageKeys, now)).filter(stands_in);
    if admins.next().is_some_and(|key| key.id == id) && admins.next().is_none() {
        return Err(ForgeError::conflict("this is the last active admin key; make another one first").into());
    }
    let was_there = state.store().revoke_api_key(&caller.tenant, id).await?;
    if was_there { Ok(StatusCode::NO_CONTENT) } else { Err(ApiError::not_found(ApiKeyId::not_found(""))) }
}

impl FromFields for NewApiKey {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let name = fields.required("name", fields::name(255));
        let role = fields.optional("role", fields::choice(|text| text.parse().ok())).unwrap_or(Role::Maintainer);
        let user = fields.optional("user", fields::name(150));
        let scopes = fields.optional("scopes", scopes).unwrap_or_default();
        let expires_at = fields.optional("expires_at", fields::time);
        Some(Self { name: name?, role, user, scopes, expires_at })
    }
}

fn scopes(value: Value) -> Result<Scopes, Mistake> {
    let actions = fields::list(|item| fields::choice(|text| text.parse::<Action>().ok())(item))(value)?;
    if actions.is_empty() {
        return Err(mistake("A key that is for nothing opens nothing; name something, or leave this field out."));
    }
    Ok(Scopes::Only(actions.into_iter().collect()))
}
