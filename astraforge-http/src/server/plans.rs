//! `/api/requests/plan/` and `/api/requests/execute/`: plans, and runs that follow them.

use astraforge_core::command::{ExecutePlan, GeneratePlan};
use axum::{Json, extract::State, http::StatusCode};

use super::{
    AppState,
    audit::About,
    body::JsonBody,
    caller::Authenticated,
    error::ApiError,
    fields::{self, Fields, FromFields},
    refusals::{Conflict, Invalid, Missing, Refused},
};
use crate::wire::{
    outcome::{Problem, Queued},
    plan::{PlanBody, PlanView},
};

/// Make a plan for a request.
///
/// For a request that was submitted with `start: after_plan`, or has failed.
#[utoipa::path(
    post, path = "/api/requests/plan/", tag = "requests", operation_id = "make_plan", request_body = PlanBody,
    responses(
        (status = 200, description = "The plan.", body = PlanView), Invalid, Refused, Missing, Conflict,
        (status = 502, description = "The agent could not make one.", body = Problem),
    ),
)]
pub(super) async fn plan(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    JsonBody(body): JsonBody<PlanBody>,
) -> Result<(About, Json<PlanView>), ApiError> {
    let about = About::new(body.request_id);
    let plan = state.forge().plan(GeneratePlan { caller, request: body.request_id }).await?;
    Ok((about, Json(plan.into())))
}

/// Execute the plan of a request.
#[utoipa::path(
    post, path = "/api/requests/execute/", tag = "requests", operation_id = "execute_plan", request_body = PlanBody,
    responses((status = 202, description = "A run is queued.", body = Queued), Invalid, Refused, Missing, Conflict),
)]
pub(super) async fn execute(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    JsonBody(body): JsonBody<PlanBody>,
) -> Result<(StatusCode, About, Json<Queued>), ApiError> {
    let about = About::new(body.request_id);
    let run = state.forge().execute_plan(ExecutePlan { caller, request: body.request_id }).await?;
    Ok((StatusCode::ACCEPTED, about, Json(Queued { status: "queued".to_owned(), run_id: run.id })))
}

impl FromFields for PlanBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self { request_id: fields.required("request_id", fields::id)? })
    }
}
