//! `/api/deepagent/`: the contract's conversations with an agent in a sandbox, which this server does not hold yet.

use axum::http::StatusCode;

use super::{
    caller::Authenticated,
    error::ApiError,
    refusals::{NotHere, Refused},
};

/// Begin a conversation with an agent: not served yet.
#[utoipa::path(
    post,
    path = "/api/deepagent/conversations/",
    tag = "deepagent",
    operation_id = "create_conversation",
    responses(Refused, NotHere)
)]
pub(super) async fn converse(_: Authenticated) -> Result<StatusCode, ApiError> {
    Err(not_served())
}

/// Say something in a conversation: not served yet.
#[utoipa::path(
    post, path = "/api/deepagent/conversations/{id}/messages/", tag = "deepagent", operation_id = "send_message",
    params(("id" = String, Path, description = "The conversation.")),
    responses(Refused, NotHere),
)]
pub(super) async fn say(_: Authenticated) -> Result<StatusCode, ApiError> {
    Err(not_served())
}

fn not_served() -> ApiError {
    let detail = "This server holds no conversations with agents yet. Make a sandbox at /api/sandbox/sessions/ and run the \
                  agent on your side, or submit a request at /api/requests/.";
    ApiError::new(StatusCode::NOT_IMPLEMENTED, detail).with_code("not_supported")
}
