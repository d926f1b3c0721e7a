//! The screen of a sandbox.

use serde::Serialize;
use utoipa::ToSchema;

/// What a mouse is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum MouseBody {
    /// Move to a place, in pixels from the top left.
    Move {
        /// To the right.
        x: u16,
        /// Down.
        y: u16,
    },
    /// Move to a place and click there.
    Click {
        /// To the right.
        x: u16,
        /// Down.
        y: u16,
        /// `left`, `middle` or `right`; `left` unless set.
        button: String,
    },
    /// Turn the wheel.
    Scroll {
        /// How many notches: down where it is positive.
        notches: i8,
    },
}

/// What a keyboard is to do: one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct KeyboardBody {
    /// A text to type.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub text: Option<String>,
    /// Keys to press together, as `xdotool` names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "ctrl+c")]
    pub keys: Option<String>,
}
