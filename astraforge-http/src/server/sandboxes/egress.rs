//! `/api/sandbox/sessions/{id}/egress/`: what a sandbox may reach, and what it tried to.

use std::{fmt, sync::Arc};

use astraforge_core::{BoxError, egress::EgressEvent, error::chain, id::SandboxId};
use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;

use super::{
    super::{
        AppState,
        error::ApiError,
        query::QueryOf,
        refusals::{Elsewhere, Invalid, Missing, Refused},
    },
    session::Session,
};
use crate::wire::sandbox::egress::EgressView;

/// The most connections that one call tells of, and how many it does unless the caller says so.
const MOST: usize = 1000;
const USUAL: usize = 20;

/// What tells of the last connections of a sandbox, oldest first. Clones share it.
#[derive(Clone)]
pub(in crate::server) struct EgressLog(Arc<Read>);

type Read = dyn Fn(SandboxId, usize) -> Result<Vec<EgressEvent>, BoxError> + Send + Sync;

impl EgressLog {
    pub(in crate::server) fn new(
        read: impl Fn(SandboxId, usize) -> Result<Vec<EgressEvent>, BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(read))
    }

    /// Reads it where waiting for a disk holds up nobody.
    async fn last(&self, sandbox: SandboxId, n: usize) -> Result<Vec<EgressEvent>, ApiError> {
        let read = Arc::clone(&self.0);
        let events = tokio::task::spawn_blocking(move || read(sandbox, n)).await.map_err(BoxError::from);
        events.flatten().map_err(|error| {
            tracing::error!(error = chain(error.as_ref()), "the log of egress cannot be read");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "The log of connections cannot be read.")
        })
    }
}

impl fmt::Debug for EgressLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EgressLog").finish_non_exhaustive()
    }
}

/// How much is told.
#[derive(Debug, Deserialize)]
pub(in crate::server) struct EgressQuery {
    last: Option<usize>,
}

/// Show what a sandbox may reach, and the last connections that it tried to make.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/egress/", tag = "sandboxes", operation_id = "show_egress",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("last" = Option<u32>, Query, description = "At most so many connections, 1,000 at most; 20 unless set."),
    ),
    responses((status = 200, description = "What it may, and what it tried.", body = EgressView), Invalid, Refused, Missing,
        Elsewhere),
)]
pub(in crate::server) async fn show(
    State(state): State<AppState>,
    session: Session,
    QueryOf(query): QueryOf<EgressQuery>,
) -> Result<Json<EgressView>, ApiError> {
    let egress = session.row().await?.spec.egress.to_string();
    let n = query.last.unwrap_or(USUAL).min(MOST);
    let events = match &state.egress_log {
        Some(log) => log.last(session.id, n).await?,
        // What this process remembers, of a sandbox that is here.
        None => {
            let mut events = session.ready().await?.machine.egress_log().await?;
            events.split_off(events.len().saturating_sub(n))
        }
    };
    Ok(Json(EgressView { egress, events }))
}
