//! The OpenAPI document: made from the routes themselves, so that neither can lack what the other has.

use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use bytes::Bytes;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        self,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    AppState,
    accounts::{self, single_sign_on},
    actions, api_keys, audit, chat, deepagent, docs, health, merge_requests, paging, plans, repository_links, requests,
    root, run_log, runs,
    sandboxes::{
        self, archives, artifacts, egress, exec, executions, files, metrics, processes, screen, snapshots, transfer,
    },
};
use crate::wire::outcome::Problem;

mod conventions;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "AstraForge API",
        description = "Turn a request in plain language into a reviewed merge request.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    servers((url = "/", description = "This server.")),
    security(("api_key" = []), ("bearer" = []), ("token" = []), ("login" = [])),
    components(schemas(Problem)),
    tags(
        (name = "requests", description = "What people ask for, and what came of it."),
        (name = "chat", description = "The conversation about a request, and approvals."),
        (name = "runs", description = "Times that an agent worked on a request, and their logs."),
        (name = "merge-requests", description = "Approved changes on their way into a repository."),
        (name = "repository-links", description = "Repositories that requests may work on."),
        (name = "accounts", description = "People who log in, with a name and a password or at an identity provider."),
        (name = "api-keys", description = "Who may call, and what they may do."),
        (name = "audit", description = "What was done, by whom and with which outcome."),
        (name = "sandboxes", description = "Machines of one's own: commands and files in them, and what is kept of them."),
        (name = "processes", description = "Commands that go on in a sandbox when nobody watches."),
        (name = "deepagent", description = "Conversations with an agent in a sandbox; not served yet."),
        (name = "server", description = "The server itself."),
    ),
    modifiers(&Security),
)]
struct Document;

/// The ways in which a caller shows its key.
struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let header = ApiKeyValue::with_description("X-Api-Key", "An API key, such as `afk_…`.");
        components.add_security_scheme("api_key", SecurityScheme::ApiKey(ApiKey::Header(header)));
        let bearer =
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("The same key as a bearer token."));
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
        let token = "An access token of the OpenID provider that the server is configured for, made for its audience.";
        let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").description(Some(token));
        components.add_security_scheme("token", SecurityScheme::Http(token.build()));
        let cookie = "The cookie of `/api/auth/login/`. Calls that change something bring `X-CSRFToken` too.";
        let cookie = ApiKeyValue::with_description("sessionid", cookie);
        components.add_security_scheme("login", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    }
}

/// All routes below `/api`.
pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(accounts::csrf))
        .routes(routes!(accounts::register))
        .routes(routes!(accounts::log_in))
        .routes(routes!(accounts::log_out))
        .routes(routes!(accounts::me))
        .routes(routes!(single_sign_on::methods))
        .routes(routes!(single_sign_on::begin))
        .routes(routes!(single_sign_on::end))
        .routes(routes!(requests::list, requests::submit))
        .routes(routes!(plans::plan))
        .routes(routes!(plans::execute))
        .routes(routes!(requests::show))
        .routes(routes!(requests::execute))
        .routes(routes!(requests::cancel))
        .routes(routes!(requests::approve))
        .routes(routes!(requests::diff))
        .routes(routes!(chat::say))
        .routes(routes!(chat::approve))
        .routes(routes!(runs::list))
        .routes(routes!(runs::show))
        .routes(routes!(runs::cancel))
        .routes(routes!(run_log::stream))
        .routes(routes!(merge_requests::list))
        .routes(routes!(merge_requests::show))
        .routes(routes!(repository_links::list, repository_links::link))
        .routes(routes!(repository_links::show, repository_links::change, repository_links::unlink))
        .routes(routes!(api_keys::list, api_keys::make))
        .routes(routes!(api_keys::revoke))
        .routes(routes!(audit::list))
        .routes(routes!(audit::export))
        .routes(routes!(audit::verify))
        .routes(routes!(artifacts::link))
        .routes(routes!(deepagent::converse))
        .routes(routes!(deepagent::say))
        .routes(routes!(root::resources))
        .routes(routes!(schema))
        .routes(routes!(docs::page))
}

/// The routes of sandboxes whose calls take moments.
pub(super) fn quick_sandbox_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(sandboxes::list))
        .routes(routes!(sandboxes::show))
        .routes(routes!(sandboxes::heartbeat))
        .routes(routes!(sandboxes::usage))
        .routes(routes!(artifacts::list))
        .routes(routes!(snapshots::list))
        .routes(routes!(screen::view))
}

/// The routes of sandboxes whose calls take as long as what is asked for does.
pub(super) fn long_sandbox_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(sandboxes::create))
        .routes(routes!(sandboxes::change, sandboxes::delete))
        .routes(routes!(sandboxes::stop))
        .routes(routes!(sandboxes::fork))
        .routes(routes!(exec::exec))
        .routes(routes!(exec::shell))
        .routes(routes!(transfer::write))
        .routes(routes!(transfer::upload))
        .routes(routes!(transfer::content))
        .routes(routes!(files::stat))
        .routes(routes!(files::list))
        .routes(routes!(files::text))
        .routes(routes!(files::glob))
        .routes(routes!(files::grep))
        .routes(routes!(files::edit))
        .routes(routes!(files::make_dir))
        .routes(routes!(files::move_file))
        .routes(routes!(files::remove))
        .routes(routes!(files::watch))
        .routes(routes!(artifacts::export))
        .routes(routes!(snapshots::take))
        .routes(routes!(snapshots::take_one))
        .routes(routes!(snapshots::restore))
        .routes(routes!(snapshots::diff))
        .routes(routes!(archives::pack))
        .routes(routes!(archives::unpack))
        .routes(routes!(archives::compare))
        .routes(routes!(archives::restore))
        .routes(routes!(egress::show))
        .routes(routes!(screen::screenshot))
        .routes(routes!(screen::mouse))
        .routes(routes!(screen::keyboard))
        .routes(routes!(processes::list, processes::start))
        .routes(routes!(processes::show))
        .routes(routes!(processes::signal))
        .routes(routes!(processes::input))
        .routes(routes!(processes::resize))
        .routes(routes!(processes::output))
        .routes(routes!(executions::start))
        .routes(routes!(executions::end))
        .routes(routes!(executions::output))
        .routes(routes!(executions::input))
        .routes(routes!(executions::signal))
        .routes(routes!(executions::resize))
}

/// The routes of files that were taken out, which any server of an installation serves.
pub(super) fn link_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(artifacts::download)).routes(routes!(artifacts::content))
}

/// The OpenAPI document of the server: every route, with its parameters, bodies and answers.
///
/// ```
/// let document = astraforge_http::server::openapi();
/// assert!(document.paths.paths.contains_key("/api/requests/"));
/// ```
#[must_use]
pub fn openapi() -> openapi::OpenApi {
    // The health routes lie outside `/api`, where another router serves them.
    let health = OpenApiRouter::new()
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(metrics::metrics));
    let sandboxes = quick_sandbox_routes().merge(long_sandbox_routes()).merge(link_routes());
    let mut document = routes().merge(sandboxes).merge(health).into_openapi();
    actions::tell(&mut document);
    paging::tell(&mut document);
    conventions::describe(&mut document);
    document
}

/// Show the OpenAPI document.
#[utoipa::path(
    get, path = "/api/schema/", tag = "server", security(()),
    responses((status = 200, description = "This document.", body = Object)),
)]
pub(super) async fn schema() -> impl IntoResponse {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| serde_json::to_vec(&openapi()).unwrap_or_default().into());
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.clone())
}
