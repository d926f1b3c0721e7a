//! What is the same on many routes, described once: keys of calls, and limits on how many are taken.

use utoipa::openapi::{
    Header, ObjectBuilder, OpenApi, RefOr, Required, Type,
    path::{Operation, Parameter, ParameterBuilder, ParameterIn},
    response::Response,
};

use super::super::{
    idempotency::{KEY, MOST_KEPT, REPLAYED},
    rate_limits::is_for_everybody,
    refusals::answer_of_problem,
};

const TOO_OFTEN: &str = "More calls came than are taken; `Retry-After` says for how many seconds to wait, `RateLimit` and \
                         `RateLimit-Policy` what the limit is.";
const HELD_BACK: &str = "The call's `Idempotency-Key` was given to another call (`idempotency_key_reused`), the call is \
                         still at work (`idempotency_call_at_work`, with `Retry-After`), or its answer was too long to be \
                         kept (`idempotency_answer_too_long`).";

/// Adds it to all routes that it is about.
pub(super) fn describe(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        if !path.starts_with("/api/") || is_for_everybody(path) {
            continue;
        }
        item.get.iter_mut().for_each(describe_limits);
        for operation in [&mut item.post, &mut item.put, &mut item.patch, &mut item.delete].into_iter().flatten() {
            describe_limits(operation);
            // One that says how it is secured is for everybody, and has no key.
            if operation.security.is_none() {
                describe_keys(operation);
            }
        }
    }
}

/// What is wrong with a key that is none.
const MALFORMED: &str = "The `Idempotency-Key` cannot be taken.";
/// What is wrong with a body that is read for its key.
const TOO_LARGE: &str = "The body is too large for a call with an `Idempotency-Key`.";

fn describe_limits(operation: &mut Operation) {
    let refusal = operation.responses.responses.entry("429".to_owned()).or_insert_with(|| answer_of_problem(TOO_OFTEN));
    if let RefOr::T(Response { headers, .. }) = refusal {
        let mut wait = Header::new(ObjectBuilder::new().schema_type(Type::Integer));
        wait.description = Some("For how many seconds to wait.".to_owned());
        headers.insert("Retry-After".to_owned(), wait.into());
    }
}

fn describe_keys(operation: &mut Operation) {
    operation.parameters.get_or_insert_default().push(key().into());
    match operation.responses.responses.get_mut("409") {
        Some(RefOr::T(conflict)) => conflict.description = format!("{} Or: {HELD_BACK}", conflict.description),
        _ => _ = operation.responses.responses.insert("409".to_owned(), answer_of_problem(HELD_BACK)),
    }
    for (status, told) in [("400", MALFORMED), ("413", TOO_LARGE)] {
        operation.responses.responses.entry(status.to_owned()).or_insert_with(|| answer_of_problem(told));
    }
}

fn key() -> Parameter {
    let text = format!(
        "A key of the caller's own for this call, such as a random UUID: 1 to 255 visible characters of ASCII. However often \
         the call comes with it within 24 h, it is carried out once, though its caller may be gone by then, and answered \
         the same again, with `{REPLAYED}: true`. An answer that another try may better (5xx, 408, 421, 425, 429) is not \
         kept, nor is one longer than {MOST_KEPT} bytes. A body with a key is read into memory, so it has the limit of JSON \
         bodies."
    );
    let schema = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(255));
    ParameterBuilder::new()
        .name(canonical(KEY.as_str()))
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(text))
        .schema(Some(schema))
        .build()
}

/// The name of a header as people write it.
fn canonical(name: &str) -> String {
    let word = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}
