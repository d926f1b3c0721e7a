//! `/api/repository-links/`: link repositories, change how runs on them are set up, unlink them.

use astraforge_core::{
    egress::{HostRule, ParseHostRuleError},
    error::ForgeError,
    id::RepositoryLinkId,
    page::Paged,
    ports::{git::GitError, store::StoreError},
    repository::{RepositoryLink, Secret},
};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use serde_json::Value;

use super::{
    AppState,
    audit::About,
    body::{JsonBody, LaterBody},
    caller::Authenticated,
    error::ApiError,
    fields::{self, Fields, FromFields, Mistake, mistake},
    paging::{PageParams, Paging},
    path::{Named, PathId},
    refusals::{BadQuery, Invalid, Missing, Refused},
};
use crate::wire::repository_link::{EnvironmentBody, NewRepositoryLink, RepositoryLinkPatch, RepositoryLinkView};

/// The provider that needs no credential: repositories on the server's own disk.
const LOCAL: &str = "local";
/// The provider that has several addresses.
const GITLAB: &str = "gitlab";

/// List repository links, the oldest first.
#[utoipa::path(
    get, path = "/api/repository-links/", tag = "repository-links", operation_id = "list_repository_links",
    params(PageParams),
    responses(
        (status = 200, description = "The links of the tenant.", body = Vec<RepositoryLinkView>),
        BadQuery, Refused,
    ),
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    paging: Paging,
) -> Result<Response, ApiError> {
    let Paged { items, next } = state.store().links_page(&caller.tenant, paging.page).await?;
    let views: Vec<_> = items.into_iter().map(RepositoryLinkView::from).collect();
    Ok(paging.answer(next, views))
}

/// Link a repository.
#[utoipa::path(
    post, path = "/api/repository-links/", tag = "repository-links", operation_id = "link_repository",
    request_body = NewRepositoryLink,
    responses((status = 201, description = "Linked.", body = RepositoryLinkView), Invalid, Refused),
)]
pub(super) async fn link(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    body: LaterBody,
) -> Result<(StatusCode, About, Json<RepositoryLinkView>), ApiError> {
    check_provider(&state, body.text("provider").unwrap_or_default())?;
    let body: NewRepositoryLink = body.judge()?;
    check_provider(&state, &body.provider)?;
    let now = state.forge().journal().clock().now();
    let link = RepositoryLink {
        id: RepositoryLinkId::random(),
        tenant: caller.tenant,
        owner: caller.user,
        base_url: body.base_url.unwrap_or_else(|| default_base_url(&body.provider).to_owned()),
        provider: body.provider,
        repository: body.repository,
        access_token: body.access_token,
        environment: body.environment.unwrap_or_default().into(),
        created_at: now,
        updated_at: now,
    };
    check_usable(&state, &link).await?;
    match state.store().add_link(link.clone()).await {
        Ok(()) => Ok((StatusCode::CREATED, About::new(link.id), Json(link.into()))),
        Err(StoreError::AlreadyExists { .. }) => {
            let message = format!("{} repository \"{}\" is linked already.", link.provider, link.repository);
            Err(ApiError::field("repository", message))
        }
        Err(error) => Err(error.into()),
    }
}

/// Refuses a provider that is not there, before anything is asked of the other fields on its account.
fn check_provider(state: &AppState, name: &str) -> Result<(), ApiError> {
    let (name, known) = (name.trim(), state.forge().ports().providers.names());
    if name.is_empty() || known.iter().any(|known| known == name) {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    let message = format!("\"{shown}\" is not a valid choice. What works today: {}.", known.join(", "));
    Err(ApiError::field("provider", message))
}

/// Asks the provider whether it can use the link, so that a mistake shows here and not in the first run.
async fn check_usable(state: &AppState, link: &RepositoryLink) -> Result<(), ApiError> {
    let provider = state.forge().ports().providers.resolve(&link.provider).map_err(ForgeError::from)?;
    match provider.remote(link).await {
        Ok(_) => Ok(()),
        Err(error @ GitError::Backend { .. }) => Err(ForgeError::from(error).into()),
        Err(error) => Err(ApiError::field("repository", error.to_string())),
    }
}

/// Show a repository link.
#[utoipa::path(
    get, path = "/api/repository-links/{id}/", tag = "repository-links", operation_id = "show_repository_link",
    params(("id" = uuid::Uuid, Path, description = "The link.")),
    responses((status = 200, description = "The link.", body = RepositoryLinkView), Refused, Missing),
)]
pub(super) async fn show(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<RepositoryLinkId>,
) -> Result<Json<RepositoryLinkView>, ApiError> {
    let link = state.store().link(&caller.tenant, id).await?;
    Ok(Json(link.ok_or_else(not_found)?.into()))
}

/// Change the credential of a link, or how runs on it are set up.
#[utoipa::path(
    patch, path = "/api/repository-links/{id}/", tag = "repository-links", operation_id = "change_repository_link",
    params(("id" = uuid::Uuid, Path, description = "The link.")), request_body = RepositoryLinkPatch,
    responses((status = 200, description = "Changed.", body = RepositoryLinkView), Invalid, Refused, Missing),
)]
pub(super) async fn change(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<RepositoryLinkId>,
    JsonBody(body): JsonBody<RepositoryLinkPatch>,
) -> Result<Json<RepositoryLinkView>, ApiError> {
    let mut link = state.store().link(&caller.tenant, id).await?.ok_or_else(not_found)?;
    if let Some(token) = body.access_token {
        if token.is_none() && link.provider != LOCAL {
            return Err(ApiError::field("access_token", "This field may not be null."));
        }
        link.access_token = token;
    }
    if let Some(environment) = body.environment {
        link.environment = environment.into();
    }
    link.updated_at = state.forge().journal().clock().now();
    if !state.store().update_link(link.clone()).await? {
        return Err(not_found());
    }
    Ok(Json(link.into()))
}

/// Unlink a repository. Requests that worked on it stay; they cannot run again.
#[utoipa::path(
    delete, path = "/api/repository-links/{id}/", tag = "repository-links", operation_id = "unlink_repository",
    params(("id" = uuid::Uuid, Path, description = "The link.")),
    responses((status = 204, description = "Unlinked."), Refused, Missing),
)]
pub(super) async fn unlink(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    PathId(id): PathId<RepositoryLinkId>,
) -> Result<StatusCode, ApiError> {
    let was_there = state.store().remove_link(&caller.tenant, id).await?;
    if was_there { Ok(StatusCode::NO_CONTENT) } else { Err(not_found()) }
}

fn not_found() -> ApiError {
    ApiError::not_found(RepositoryLinkId::not_found(""))
}

fn default_base_url(provider: &str) -> &'static str {
    if provider == GITLAB { "https://gitlab.com" } else { "" }
}

impl FromFields for NewRepositoryLink {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let provider = fields.required("provider", fields::name(20));
        let repository = fields.required("repository", fields::name(255));
        let access_token: Option<Secret> = if provider.as_deref() == Some(LOCAL) {
            fields.nullable("access_token", fields::secret).flatten()
        } else {
            fields.required("access_token", fields::secret)
        };
        let base_url = fields.optional("base_url", base_url).filter(|url| !url.is_empty());
        if base_url.is_some() && provider.as_deref().is_some_and(|provider| provider != GITLAB) {
            fields.reject("base_url", "Only GitLab links support custom base URLs.");
        }
        let environment = fields.optional("environment", fields::object);
        Some(Self { provider: provider?, repository: repository?, access_token, base_url, environment })
    }
}

impl FromFields for RepositoryLinkPatch {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let access_token = fields.nullable("access_token", fields::secret);
        Some(Self { access_token, environment: fields.optional("environment", fields::object) })
    }
}

impl FromFields for EnvironmentBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        const LONGEST: usize = 16 * 1024;
        let base_branch = fields.nullable("base_branch", branch).flatten();
        let setup = fields.nullable("setup", fields::name(LONGEST)).flatten();
        let test = fields.nullable("test", fields::name(LONGEST)).flatten();
        let env = fields.optional("env", fields::variables).unwrap_or_default();
        let timeout_seconds = fields.nullable("timeout_seconds", timeout).flatten();
        let egress = fields.optional("egress", fields::list(host_rule)).unwrap_or_default();
        Some(Self { base_branch, setup, test, env, timeout_seconds, egress })
    }
}

fn base_url(value: Value) -> Result<String, Mistake> {
    let url = fields::text(200)(value)?;
    let parsed: Option<Uri> = url.parse().ok();
    let usable = parsed.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    });
    if url.is_empty() || usable { Ok(url) } else { Err(mistake("Enter a valid URL.")) }
}

fn host_rule(value: Value) -> Result<HostRule, Mistake> {
    fields::name(300)(value)?.parse().map_err(|error: ParseHostRuleError| mistake(error.to_string()))
}

/// A branch name that git can't take for an option or a range.
fn branch(value: Value) -> Result<String, Mistake> {
    let name = fields::name(255)(value)?;
    let odd = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    if name.starts_with(['-', '/']) || name.ends_with(['/', '.']) || name.contains("..") || name.contains(odd) {
        return Err(mistake("Enter a valid branch name."));
    }
    Ok(name)
}

fn timeout(value: Value) -> Result<u64, Mistake> {
    const LONGEST: u64 = 24 * 3600;
    let seconds = value.as_u64().ok_or_else(|| mistake("A valid integer is required."))?;
    if (1..=LONGEST).contains(&seconds) {
        return Ok(seconds);
    }
    Err(mistake(format!("Ensure this value is between 1 and {LONGEST}.")))
}
