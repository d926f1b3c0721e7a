//! What a call was about, where its path does not say so.

use std::{convert::Infallible, fmt::Display};

use axum::response::{IntoResponseParts, ResponseParts};

/// A part of an answer that is not sent: the id of what the call made, or was about.
#[derive(Debug, Clone)]
pub(in crate::server) struct About(pub(in crate::server) String);

impl About {
    /// That thing.
    pub(in crate::server) fn new(id: impl Display) -> Self {
        Self(id.to_string())
    }
}

impl IntoResponseParts for About {
    type Error = Infallible;

    fn into_response_parts(self, mut answer: ResponseParts) -> Result<ResponseParts, Infallible> {
        answer.extensions_mut().insert(self);
        Ok(answer)
    }
}
