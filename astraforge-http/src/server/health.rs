//! Whether the server is up, for those who watch it. Outside `/api`, and open to all.

use std::{collections::BTreeMap, sync::Arc};

use astraforge_core::error::chain;
use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use tracing::error;

use super::AppState;
use crate::wire::outcome::Health;

pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/healthz/", get(healthz))
        .route("/readyz", get(readyz))
        .route("/readyz/", get(readyz))
}

/// Tell that the process answers.
#[utoipa::path(
    get, path = "/healthz", tag = "server", security(()),
    responses((status = 200, description = "The process answers.", body = Health)),
)]
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok".to_owned(), trouble: BTreeMap::new() })
}

/// Tell whether calls can be served: the store answers, and every part that is needed works.
#[utoipa::path(
    get, path = "/readyz", tag = "server", security(()),
    responses(
        (status = 200, description = "Calls can be served.", body = Health),
        (status = 503, description = "The store does not answer, or a part that is needed does not work.", body = Health),
    ),
)]
pub(super) async fn readyz(State(state): State<AppState>) -> (StatusCode, Json<Health>) {
    let wrong: Vec<_> = state.parts.iter().filter_map(|part| (part.probe)().err().map(|why| (part, why))).collect();
    let trouble = wrong.iter().map(|(part, why)| (part.name.to_owned(), why.clone())).collect();
    let (code, status) = match state.store().count_api_keys().await {
        Err(failure) => {
            error!(error = chain(&failure), "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, failure.to_string())
        }
        Ok(_) if wrong.is_empty() => (StatusCode::OK, "ok".to_owned()),
        Ok(_) => match wrong.iter().find(|(part, _)| part.need == Need::Needed) {
            Some((part, why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}: {why}", part.name)),
            None => (StatusCode::OK, "degraded".to_owned()),
        },
    };
    (code, Json(Health { status, trouble }))
}

/// A part of the server whose trouble `/readyz` tells.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) need: Need,
    pub(super) probe: Probe,
}

/// What a part is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Without it calls are served all the same, and less well.
    Helps,
    /// Without it the server is of no use.
    Needed,
}

/// Tells what is wrong with a part, at once.
pub(super) type Probe = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;
