//! `/api/chat/`: the conversation about a request, and approvals.

use astraforge_core::{command::ChatReview, id::RequestId};
use axum::{Json, extract::State, http::StatusCode};

use super::{
    AppState,
    audit::About,
    body::JsonBody,
    caller::Authenticated,
    error::ApiError,
    fields::{self, Fields, FromFields},
    path::PathId,
    refusals::{Conflict, Invalid, Missing, Refused},
    requests,
};
use crate::wire::{
    chat::{ApproveBody, Approved, ChatBody},
    outcome::Queued,
};

/// Say something about a request.
///
/// The agent goes on from it, in the same conversation. While it is at work the message waits.
#[utoipa::path(
    post, path = "/api/chat/", tag = "chat", operation_id = "chat", request_body = ChatBody,
    responses((status = 202, description = "Received; a run is queued.", body = Queued), Invalid, Refused, Missing, Conflict),
)]
pub(super) async fn say(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    JsonBody(body): JsonBody<ChatBody>,
) -> Result<(StatusCode, About, Json<Queued>), ApiError> {
    let about = About::new(body.request_id);
    let command = ChatReview { caller, request: body.request_id, message: body.message };
    let run = state.forge().chat(command).await?;
    Ok((StatusCode::ACCEPTED, about, Json(Queued { status: "received".to_owned(), run_id: run.id })))
}

/// Approve the change of a request, at the contract's address.
///
/// With a digest exactly that change is approved; without one, the change that is current now.
#[utoipa::path(
    post, path = "/api/chat/{id}/approve/", tag = "chat", operation_id = "chat_approve",
    params(("id" = uuid::Uuid, Path, description = "The request.")), request_body = Option<ApproveBody>,
    responses((status = 202, description = "Approved; publication is queued.", body = Approved), Invalid, Refused, Missing, Conflict),
)]
pub(super) async fn approve(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
    PathId(request): PathId<RequestId>,
    JsonBody(body): JsonBody<ApproveBody>,
) -> Result<(StatusCode, Json<Approved>), ApiError> {
    requests::approve(State(state), Authenticated(caller), PathId(request), JsonBody(body)).await
}

impl FromFields for ChatBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let request_id = fields.required("request_id", fields::id);
        let message = fields.required("message", fields::prompt);
        Some(Self { request_id: request_id?, message: message? })
    }
}

impl FromFields for ApproveBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let digest = fields.nullable("digest", |value| {
            let text = fields::text(128)(value)?;
            text.parse().map_err(|error| fields::mistake(format!("{error}")))
        });
        Some(Self { digest: digest.flatten() })
    }
}
