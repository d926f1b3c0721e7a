//! Whether the server is up, for those who watch it. Outside `/api`, and open to all.

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use tracing::error;

use super::{AppState, error::chain, sandbox_metrics};
use crate::wire::outcome::Health;

pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/healthz/", get(healthz))
        .route("/readyz", get(readyz))
        .route("/readyz/", get(readyz))
        .route("/metrics", get(sandbox_metrics::metrics))
}

/// Tell that the process answers.
#[utoipa::path(
    get, path = "/healthz", tag = "server", security(()),
    responses((status = 200, description = "The process answers.", body = Health)),
)]
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok".to_owned() })
}

/// Tell whether calls can be served: the store answers.
#[utoipa::path(
    get, path = "/readyz", tag = "server", security(()),
    responses(
        (status = 200, description = "Calls can be served.", body = Health),
        (status = 503, description = "The store does not answer.", body = Health),
    ),
)]
pub(super) async fn readyz(State(state): State<AppState>) -> (StatusCode, Json<Health>) {
    match state.store().count_api_keys().await {
        Ok(_) => (StatusCode::OK, Json(Health { status: "ok".to_owned() })),
        Err(failure) => {
            error!(error = chain(&failure), "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, Json(Health { status: failure.to_string() }))
        }
    }
}
