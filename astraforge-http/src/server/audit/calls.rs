//! The entry of each call that changes something: written when its answer is known, before it is sent.

use std::{collections::HashMap, panic::resume_unwind, sync::LazyLock};

use astraforge_core::audit::{Actor, Audit, Means, NewEntry};
use axum::{
    extract::{MatchedPath, RawPathParams, Request, State, rejection::RawPathParamsRejection},
    http::{Method, StatusCode, header::LOCATION, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::{Instrument, Span};

use super::super::{
    AppState,
    caller::{Identity, Proof},
    error::ApiError,
    idempotency::{KEY, REPLAYED},
    layers::CallId,
    openapi,
    peers::AnsweredElsewhere,
};
use super::About;

/// What came of a call whose caller did not wait for the answer.
const ABANDONED: &str = "abandoned";
/// Operations that are parts of another one, which has its entry: there are thousands of them in an hour of work.
const PARTS_OF_WORK: [&str; 7] = [
    "note_heartbeat",
    "write_input",
    "write_execution_input",
    "resize_terminal",
    "resize_execution",
    "use_mouse",
    "use_keyboard",
];
/// What came of a call whose handler panicked.
const PANICKED: &str = "panicked";

/// Operation ids by method and path, from the document: it is made from the routes, so that none is forgotten.
static OPERATIONS: LazyLock<HashMap<(Method, String), String>> = LazyLock::new(|| {
    let changing = |(path, item): (String, utoipa::openapi::PathItem)| {
        let operations = [
            (Method::POST, item.post),
            (Method::PUT, item.put),
            (Method::PATCH, item.patch),
            (Method::DELETE, item.delete),
        ];
        operations.into_iter().filter_map(move |(method, operation)| {
            let id = operation?.operation_id?;
            Some(((method, path.clone()), id))
        })
    };
    openapi::openapi().paths.paths.into_iter().flat_map(changing).collect()
});

/// Has an entry written of each call of a known caller that may change something. It is written whatever becomes of the
/// caller; a call that another server answered has its entry there.
pub(in crate::server) async fn record(
    State(state): State<AppState>,
    segments: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let entry = entry_of(&parts, segments.ok().as_ref());
    let request = Request::from_parts(parts, body);
    let (Some(audit), Some(entry)) = (state.forge().journal().audit(), entry) else { return next.run(request).await };
    let pending = Pending { audit: audit.clone(), entry: Some(entry) };
    let is_seen_through = request.headers().contains_key(KEY);
    let answered = recorded(pending, request, next);
    if !is_seen_through {
        return answered.await;
    }
    // A call with a key goes on when its caller hangs up, and so has its entry to.
    match tokio::spawn(answered.instrument(Span::current())).await {
        Ok(answer) => answer,
        Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
        Err(_stopped) => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "The server stops; try again.").into_response(),
    }
}

/// Answers a call, and has its entry written before the answer is sent.
async fn recorded(mut pending: Pending, request: Request, next: Next) -> Response {
    let answer = next.run(request).await;
    if let Some(entry) = pending.entry.take()
        && answer.extensions().get::<AnsweredElsewhere>().is_none()
    {
        let (audit, entry) = (pending.audit.clone(), with_answer(entry, &answer));
        // In a task of its own, which goes on when the caller hangs up now.
        let written = tokio::spawn(async move { audit.note(entry).await });
        if written.await.is_err() {
            tracing::error!("an entry of the audit was not written to its end");
        }
    }
    answer
}

/// What is known of a call before it is answered; `None` for one that changes nothing, or whose caller is not known.
fn entry_of(parts: &Parts, segments: Option<&RawPathParams>) -> Option<NewEntry> {
    let operation = operation_of(parts).filter(|operation| !PARTS_OF_WORK.contains(operation))?;
    let Identity { caller, proof, .. } = Identity::of(parts).ok()?;
    let means = match proof {
        Proof::Key(id) => Means::Key(id),
        Proof::Login => Means::Login,
        Proof::Token => Means::Token,
    };
    let subject: Vec<&str> = segments.into_iter().flatten().map(|(_, segment)| segment).collect();
    let actor = Actor::user(&caller.user, means);
    let entry = NewEntry::new(caller.tenant, actor, format!("api.{operation}"), subject.join("/"), ABANDONED);
    Some(entry.with("role", caller.role.as_str()).in_call(call_id(parts)))
}

/// The operation id of a call that may change something.
pub(in crate::server) fn operation_of(parts: &Parts) -> Option<&'static str> {
    let path = parts.extensions.get::<MatchedPath>()?.as_str();
    // Whatever this router is nested in is a part of the matched path too.
    let path = path.get(path.rfind("/api/")?..)?;
    OPERATIONS.get(&(parts.method.clone(), path.to_owned())).map(String::as_str)
}

/// The id of a call.
pub(in crate::server) fn call_id(parts: &Parts) -> String {
    parts.extensions.get::<CallId>().map(|CallId(id)| id.clone()).unwrap_or_default()
}

fn with_answer(mut entry: NewEntry, answer: &Response) -> NewEntry {
    entry.outcome = answer.status().as_str().to_owned();
    if answer.headers().contains_key(REPLAYED) {
        // It was carried out before, and nothing happened now.
        entry = entry.with("replayed", true);
    }
    let location = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let made = location.and_then(|location| location.trim_end_matches('/').rsplit('/').next());
    let made = answer.extensions().get::<About>().map(|About(id)| id.as_str()).or(made);
    match made {
        Some(made) if entry.subject.is_empty() => NewEntry { subject: made.to_owned(), ..entry },
        Some(made) if made != entry.subject => entry.with("made", made),
        _ => entry,
    }
}

/// A call that has no answer yet. When it is dropped, its entry is written as it is.
struct Pending {
    audit: Audit,
    entry: Option<NewEntry>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(mut entry) = self.entry.take() else { return };
        if std::thread::panicking() {
            entry.outcome = PANICKED.to_owned();
        }
        let audit = self.audit.clone();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { audit.note(entry).await })),
            Err(_) => tracing::error!(action = entry.action, subject = entry.subject, "missing in the audit"),
        }
    }
}
