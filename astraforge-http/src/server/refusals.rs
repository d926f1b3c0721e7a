//! How refusals are described in the OpenAPI document: the same words on every route.

use std::collections::BTreeMap;

use utoipa::{
    IntoResponses,
    openapi::{
        self, Ref, RefOr,
        response::{Response, ResponseBuilder},
        schema::{AdditionalProperties, ObjectBuilder},
    },
};

macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident = $(($status:literal, $description:literal, $body:expr)),*;)*) => { $(
        $(#[$doc])*
        pub(super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                BTreeMap::from([$(($status.to_owned(), answer($description, $body)),)*])
            }
        }
    )* };
}

answers! {
    /// The body cannot be taken.
    Invalid =
        ("400", "The body cannot be taken: `{\"field\": [\"…\"]}`, or `{\"detail\": \"…\"}` when it is no JSON.", mistakes()),
        ("415", "The body is not `application/json`.", problem());
    /// The query cannot be taken.
    BadQuery =
        ("400", "The query cannot be taken: `{\"parameter\": [\"…\"]}`.", mistakes());
    /// The caller is refused.
    Refused =
        ("401", "No key, or a wrong one.", problem()),
        ("403", "The key's role does not allow it.", problem()),
        ("503", "The server cannot serve this now; try again.", problem());
    /// There is no such thing.
    Missing = ("404", "No such thing in the caller's tenant.", problem());
    /// The sandbox is out of reach, or cannot do it.
    Elsewhere =
        ("409", "It does not fit with how the sandbox stands now; try again.", problem()),
        ("421", "The sandbox is on another node, which this server does not reach.", problem()),
        ("501", "The sandbox cannot do it, or cannot be had, and why.", problem()),
        ("502", "What makes sandboxes here failed.", problem());
    /// The sandbox cannot do it.
    NotHere = ("501", "The sandbox cannot do it, and why.", problem());
    /// It does not fit with how things stand.
    Conflict = ("409", "It does not fit with how things stand now. Nothing was changed.", problem());
}

fn answer(description: &str, schema: RefOr<openapi::Schema>) -> RefOr<Response> {
    let content = openapi::content::ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description(description).content("application/json", content).build().into()
}

/// An answer whose body says what is wrong.
pub(super) fn answer_of_problem(description: &str) -> RefOr<Response> {
    answer(description, problem())
}

fn problem() -> RefOr<openapi::Schema> {
    Ref::from_schema_name("Problem").into()
}

fn mistakes() -> RefOr<openapi::Schema> {
    let mistakes = ObjectBuilder::new()
        .description(Some("What is wrong, by field: a list of messages, or an object for what is within the field."))
        .additional_properties(Some(AdditionalProperties::FreeForm(true)));
    RefOr::T(openapi::Schema::Object(mistakes.build()))
}
