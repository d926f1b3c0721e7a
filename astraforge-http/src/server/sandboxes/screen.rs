//! `/api/sandbox/sessions/{id}/screenshot/` and `input/`: the screen of a sandbox, where its image has one.

use astraforge_core::screen::{self, KeyboardInput, MouseButton, MouseInput};
use axum::{
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
};
use serde_json::Value;

use super::{
    super::{
        body::JsonBody,
        error::ApiError,
        fields::{self, Fields, FromFields, Mistake, mistake},
        refusals::{Elsewhere, Invalid, Missing, NotHere, Refused},
    },
    session::Session,
};
use crate::wire::sandbox::screen::{KeyboardBody, MouseBody};

/// Take a picture of a sandbox's screen.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/screenshot/", tag = "sandboxes", operation_id = "take_screenshot",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")),
    responses(
        (status = 200, description = "The picture.", body = Vec<u8>, content_type = "image/png"),
        Refused, Missing, Elsewhere,
    ),
)]
pub(in crate::server) async fn screenshot(session: Session) -> Result<impl IntoResponse, ApiError> {
    let picture = screen::screenshot(session.ready().await?.machine.as_ref()).await?;
    Ok(([(CONTENT_TYPE, "image/png")], picture))
}

/// Move the mouse of a sandbox, click, or turn its wheel.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/input/mouse/", tag = "sandboxes", operation_id = "use_mouse",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")), request_body = MouseBody,
    responses((status = 204, description = "Done."), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn mouse(
    session: Session,
    JsonBody(Mouse(input)): JsonBody<Mouse>,
) -> Result<StatusCode, ApiError> {
    screen::mouse(session.ready().await?.machine.as_ref(), input).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Type a text in a sandbox, or press keys.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/input/keyboard/", tag = "sandboxes", operation_id = "use_keyboard",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")), request_body = KeyboardBody,
    responses((status = 204, description = "Done."), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn keyboard(
    session: Session,
    JsonBody(Keyboard(input)): JsonBody<Keyboard>,
) -> Result<StatusCode, ApiError> {
    screen::keyboard(session.ready().await?.machine.as_ref(), &input).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Watch a sandbox's screen: not served, whatever the sandbox.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/stream/view/", tag = "sandboxes", operation_id = "watch_screen",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")),
    responses(Refused, Missing, NotHere),
)]
pub(in crate::server) async fn view(session: Session) -> Result<StatusCode, ApiError> {
    session.row().await?;
    let detail = "Live view of a screen is not served; take screenshots instead.";
    Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, detail).with_code("not_supported"))
}

/// What a mouse is to do.
pub(in crate::server) struct Mouse(MouseInput);

/// What a keyboard is to do.
pub(in crate::server) struct Keyboard(KeyboardInput);

impl FromFields for Mouse {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let named = |name: &str| ["move", "click", "scroll"].into_iter().find(|known| *known == name);
        let action = fields.required("action", fields::choice(named))?;
        if action == "scroll" {
            return Some(Self(MouseInput::Scroll { notches: fields.required("notches", notches)? }));
        }
        let (x, y) = (fields.required("x", pixels), fields.required("y", pixels));
        let button = fields.optional("button", fields::choice(button)).unwrap_or(MouseButton::Left);
        let (x, y) = (x?, y?);
        Some(Self(if action == "move" { MouseInput::Move { x, y } } else { MouseInput::Click { x, y, button } }))
    }
}

fn pixels(value: Value) -> Result<u16, Mistake> {
    whole(&value, 0, u16::MAX.into())?.try_into().map_err(|_| mistake("A valid integer is required."))
}

fn notches(value: Value) -> Result<i8, Mistake> {
    whole(&value, i8::MIN.into(), i8::MAX.into())?.try_into().map_err(|_| mistake("A valid integer is required."))
}

fn whole(value: &Value, least: i64, most: i64) -> Result<i64, Mistake> {
    let number = value.as_i64().ok_or_else(|| mistake("A valid integer is required."))?;
    if number < least {
        return Err(mistake(format!("Ensure this value is greater than or equal to {least}.")));
    }
    if number > most {
        return Err(mistake(format!("Ensure this value is less than or equal to {most}.")));
    }
    Ok(number)
}

fn button(name: &str) -> Option<MouseButton> {
    match name {
        "left" => Some(MouseButton::Left),
        "middle" => Some(MouseButton::Middle),
        "right" => Some(MouseButton::Right),
        _ => None,
    }
}

impl FromFields for Keyboard {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let text = fields.optional("text", fields::raw);
        let keys = fields.optional("keys", fields::name(200));
        match (text, keys) {
            (Some(text), None) => Some(Self(KeyboardInput::Text(text))),
            (None, Some(keys)) => Some(Self(KeyboardInput::Keys(keys))),
            _ => {
                fields.reject("non_field_errors", "Say what to type as `text`, or what to press as `keys`.");
                None
            }
        }
    }
}
